"""Labels of tokens: rules, a user's file, the data sets of sae-probes; what is refused."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.lm.packing import Packing
from saeworks.measure.concepts import rules
from saeworks.measure.concepts.labels import LabelledTokens, labelled, source_of, token_labels
from saeworks.measure.held_out import HeldOut
from saeworks.measure.suites import held_out_tokens

EMBEDDED = TextConfig("embedded", max_documents=400, held_out=0.2)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(ModelConfig("embedded"))


@pytest.fixture(scope="module")
def held_out(lm: LanguageModel) -> HeldOut:
    return held_out_tokens(lm, EMBEDDED, 3, 2000)


def packing(lm: LanguageModel, context: int = 32) -> Packing:
    return Packing(context, "document", lm.bos_id, lm.pad_id or 0, True, 0)


def ask(lm: LanguageModel, held_out: HeldOut, source: str, texts: int = 10) -> LabelledTokens:
    return labelled(source, EMBEDDED, 3, lm, held_out, packing(lm), texts)


def on_tokens(lm: LanguageModel, labels: LabelledTokens) -> list[tuple[str, set[str]]]:
    """The kept tokens and what is said of them."""
    words = lm.tokenizer.convert_ids_to_tokens(
        labels.held_out.tokens_NT[labels.held_out.keep_NT].tolist()
    )
    stands = labels.truth.stands
    names = ["=".join(concept) for concept in labels.truth.concepts]
    assert stands.shape == (len(words), len(names))
    return [(w, {names[c] for c in stands[at].indices}) for at, w in enumerate(words)]


def rule(pieces: list[str]) -> list[set[str]]:
    return [{"=".join(label) for label in of_token} for of_token in rules.labels(pieces)]


def test_rules_on_a_sentence() -> None:
    said = rule(["The", " REC", "IPE", ' "', "of", " 19", "99", '"', ".", " He", " walking"])
    assert {"word_class=determiner", "in_sentence=first_word", "capitals=first"} <= said[0]
    assert {"in_word=first", "after=determiner"} <= said[1]
    assert "capitals=all" not in said[1] and {"in_word=last", "capitals=all"} <= said[2]
    assert "quoted=yes" not in said[3] and {"word_class=preposition", "quoted=yes"} <= said[4]
    assert "number=year" not in said[5] and {"number=year", "after=preposition"} <= said[6]
    assert {"mark=quotation_mark", "quoted=yes"} <= said[7] and said[8] == {"mark=period"}
    assert {"word_class=pronoun", "in_sentence=first_word"} <= said[9]
    assert {"ending=ing", "in_sentence=second_word"} <= said[10]


def test_rules_say_only_what_they_declare_and_take_any_text() -> None:
    text = "A\n\nb — ’tis (so [x]) 12:30, naïve №5 ½ 東京 🙂 x_y's end’s\t?!"
    said = [label for of_token in rules.labels(list(text)) for label in of_token]
    assert set(said) <= set(rules.RULES) and len(set(rules.RULES)) == len(rules.RULES)
    assert rules.labels([]) == [] and rules.labels(["", " "]) == [[], []]


def test_a_blank_line_ends_a_quotation_that_was_left_open() -> None:
    assert "quoted=yes" in rule(['"', "a", "\n", "b"])[3]
    assert "quoted=yes" not in rule(['"', "a", "\n\n", "b"])[3]


def test_rules_stand_on_the_held_out_tokens(lm: LanguageModel, held_out: HeldOut) -> None:
    marked = on_tokens(lm, ask(lm, held_out, "rules"))
    periods = {word for word, said in marked if "mark=period" in said}
    assert periods == {"."}
    assert {w for w, said in marked if "word_class=determiner" in said} & {" the", " a"}
    assert all(word == word.lower() for word, said in marked if "capitals=first" not in said)


def test_the_grammar_is_a_source_and_the_default(lm: LanguageModel, held_out: HeldOut) -> None:
    assert source_of("auto", EMBEDDED) == "embedded"
    assert source_of("auto", TextConfig("a.txt")) == "rules"
    truth = token_labels("auto", EMBEDDED, 3, lm, held_out)
    assert ("noun_class", "animal") in truth.concepts and truth.stands.shape[0] == held_out.kept
    assert truth.set_N is None


def write(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(path)


def test_a_file_labels_stretches_of_text(
    lm: LanguageModel, held_out: HeldOut, tmp_path: Path
) -> None:
    text = " Mary went to the market. Mary gave the lamp to John."
    at = text.index("the market")
    rows = [
        {
            "text": text,
            "labels": [
                {"start": 1, "end": 5, "concept": "person=mary"},
                {"start": at, "end": at + 10, "concept": "place"},
            ],
        },
        "",
        {"tokens": [" John", " went", " to"], "labels": [["person=john"], [], []]},
    ]
    labels = ask(lm, held_out, write(tmp_path / "own.jsonl", *rows))
    assert labels.name == "own" and labels.held_out.documents == 2
    marked = on_tokens(lm, labels)
    said = {word: concepts for word, concepts in reversed(marked) if concepts}
    assert said == {
        " Mary": {"person=mary"},
        " the": {"place=yes"},
        " market": {"place=yes"},
        " John": {"person=john"},
    }
    assert "".join(word for word, _ in marked) == text + " John went to"
    assert labels.held_out.tokens_NT[:, 0].tolist() == [lm.bos_id] * 2


def test_a_long_document_of_a_file_is_cut_behind_its_bos(
    lm: LanguageModel, held_out: HeldOut, tmp_path: Path
) -> None:
    tokens = [" Mary", *[" went", " to"] * 40]
    labels = [["x"], *[["y"], []] * 40]
    own = ask(lm, held_out, write(tmp_path / "a.jsonl", {"tokens": tokens, "labels": labels}))
    assert own.held_out.tokens_NT.shape == (3, 32) and own.held_out.documents == 1
    marked = on_tokens(lm, own)
    assert [word for word, _ in marked] == tokens
    assert [said for _, said in marked] == [{f"{c[0]}=yes"} if c else set() for c in labels]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "line 2: not valid JSON"),
        ({"text": "a"}, "line 2: not of a known form"),
        ([1], "line 2: not of a known form"),
        ({"text": "", "labels": []}, "text must be a string that is not empty"),
        ({"tokens": ["Mary"], "labels": [[], []]}, "2 lists of labels for 1 tokens"),
        ({"tokens": ["Ma", "ry"], "labels": [["x"], []]}, "line 2: the label 'x=yes' from 0 to 2"),
        ({"tokens": ["Mary"], "labels": ["x"]}, "the labels of 'Mary' must be a list"),
        ({"tokens": ["Mary"], "labels": [["=x"]]}, "'=x' is no concept"),
        ({"tokens": ["Mary"], "labels": [[3]]}, "3 is no concept"),
        (
            {"text": "Mary", "labels": [{"start": 0, "end": 9, "concept": "x"}]},
            "from 0 to 9 does not lie in the text, which has 4 characters",
        ),
        (
            {"text": "to Mary", "labels": [{"start": 4, "end": 7, "concept": "x"}]},
            "cuts 'Mary'; give 3 to 7",
        ),
        (
            {"text": "Mary went", "labels": [{"start": 4, "end": 5, "concept": "x"}]},
            "does not fit the tokens",
        ),
        ({"text": "Mary", "labels": [{"start": 0}]}, "a label has start, end and concept"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_their_line(
    lm: LanguageModel, held_out: HeldOut, tmp_path: Path, row: Any, reason: str
) -> None:
    good = {"text": "Mary", "labels": [{"start": 0, "end": 4, "concept": "x"}]}
    file = write(tmp_path / "own.jsonl", good, row)
    with pytest.raises(UserError) as refusal:
        ask(lm, held_out, file)
    assert reason in str(refusal.value) and "own.jsonl" in str(refusal.value)


def test_other_refusals(lm: LanguageModel, held_out: HeldOut, tmp_path: Path) -> None:
    for source, reason in (
        ("wordnet", "'wordnet' is no source of labels"),
        (str(tmp_path / "none.jsonl"), "no such file"),
        (write(tmp_path / "empty.jsonl", ""), "hold no documents"),
        (write(tmp_path / "bare.jsonl", {"tokens": ["Mary"], "labels": [[]]}), "label no token"),
    ):
        with pytest.raises(UserError, match=reason):
            ask(lm, held_out, source)
    with pytest.raises(UserError, match=r"no concepts are known of the text 'a\.txt'"):
        token_labels("embedded", TextConfig("a.txt"), 3, lm, held_out)
    with pytest.raises(UserError, match="labels texts of its own"):
        token_labels("own.jsonl", EMBEDDED, 3, lm, held_out)


def pack(path: Path, heads: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([heads, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(text.getvalue().encode())


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of sae-probes; importing it fails."""
    data = tmp_path / "sae_probes" / "data"
    pack(
        data / "probing_datasets_MASTER.csv.zst",
        ["Dataset Tag", "Dataset save name", "Data type"],
        [
            ["gives", "cleaned_data/7_gives.csv", "Binary Classification"],
            ["goes", "cleaned_data/8_goes.csv", "Binary Classification"],
            ["year", "cleaned_data/9_year.csv", "Continuous"],
        ],
    )
    rows = [[f"Mary gave\nthe lamp{' too' * n}", "1"] for n in range(8)]
    rows += [[f"Mary went{' to' * n}", "0"] for n in range(4)]
    pack(data / "cleaned_data" / "7_gives.csv.zst", ["prompt", "target"], rows)
    rows = [[f"John went{' to' * n}", "b" if n % 2 else "a"] for n in range(60)]
    pack(data / "cleaned_data" / "8_goes.csv.zst", ["", "prompt", "target"],
         [["x", *row] for row in rows])  # fmt: skip
    (data.parent / "__init__.py").write_text("raise ImportError('heavy')")
    monkeypatch.syspath_prepend(tmp_path)
    return data


def test_probing_data_sets(lm: LanguageModel, held_out: HeldOut, fake_package: Path) -> None:
    labels = ask(lm, held_out, "sae-probes", texts=10)
    truth = labels.truth
    assert truth.concepts == (("7_gives", "yes"), ("8_goes", "yes"))
    assert truth.set_N is not None and truth.set_C is not None
    assert np.bincount(truth.set_N).tolist() == [8, 10] and truth.set_C.tolist() == [0, 1]
    assert labels.held_out.kept == labels.held_out.documents == 18
    for (word, said), of_set in zip(on_tokens(lm, labels), truth.set_N, strict=True):
        assert ("7_gives=yes" in said) == (of_set == 0 and word in (" lamp", " too"))
    assert labels.held_out.tokens_NT.shape[1] == 32  # the long ones, cut from the left
    assert set(labels.held_out.tokens_NT[:, 0].tolist()) == {lm.bos_id}
    again = ask(lm, held_out, "sae-probes", texts=10)
    assert again.held_out.digest == labels.held_out.digest


def test_some_probing_data_sets(lm: LanguageModel, held_out: HeldOut, fake_package: Path) -> None:
    labels = ask(lm, held_out, "sae-probes/8_*")
    assert labels.truth.concepts == (("8_goes", "yes"),) and labels.name == "sae-probes_8"
    with pytest.raises(UserError, match=r"no data set of that name \(7_gives, 8_goes"):
        ask(lm, held_out, "sae-probes/9_year")
    (fake_package / "cleaned_data" / "7_gives.csv.zst").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"7_gives\.csv\.zst could not be read"):
        ask(lm, held_out, "sae-probes")


def test_the_package_is_missing(
    lm: LanguageModel, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeworks.measure.concepts.probe_texts._MODULE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps sae-probes"):
        ask(lm, held_out, "sae-probes")
