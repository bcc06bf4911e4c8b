"""Documents of every kind of source, their split, packing and resumption."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from helpers.toy_text import BOS, WORDS, texts, tokenizer, write_txt
from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.lm.content import keys
from saeworks.lm.text import (
    Corpus,
    TokenBatch,
    TokenStream,
    held_out_mask,
)

TOKENIZER = tokenizer()


def corpus(source: object, *, seed: int = 0, bos_id: int | None = BOS, **options: Any) -> Corpus:
    config = TextConfig(source=str(source), **({"context": 16, "held_out": 0.2} | options))
    return Corpus(config, TOKENIZER, bos_id=bos_id, max_context=64, seed=seed)


@pytest.fixture
def txt(tmp_path: Path) -> Path:
    return write_txt(tmp_path / "text.txt", texts())


def flat(stream: Iterable[TokenBatch], part: str = "tokens") -> list[int]:
    parts = [(getattr(b, part), b.document) for b in stream]
    return [int(v) for values, document in parts for v in values[document >= 0]]


def words_of(stream: TokenStream) -> dict[int, str]:
    """Each document's text, put together from one epoch's batches."""
    found: dict[int, list[str]] = {}
    for batch in stream:
        pairs = zip(batch.tokens.flatten(), batch.document.flatten(), strict=True)
        for token, document in pairs:
            if document >= 0 and token != BOS:
                found.setdefault(int(document), []).append(WORDS[int(token) - 2])
    return {number: " ".join(words) for number, words in found.items()}


def make_source(kind: str, folder: Path, documents: list[str]) -> tuple[Path, dict[str, Any]]:
    table = datasets.Dataset.from_dict({"body": documents, "id": list(range(len(documents)))})
    options: dict[str, Any] = {"column": "body"}
    if kind == "txt":
        return write_txt(folder / "a.txt", documents), {}
    if kind == "blank-lines":
        return write_txt(folder / "a.txt", documents, separator=""), {"separator": ""}
    if kind == "jsonl":
        lines = [json.dumps({"body": text}) for text in documents]
        (folder / "a.jsonl").write_text("\n".join(lines) + "\n\n")
        return folder / "a.jsonl", options
    if kind == "parquet":
        table.to_parquet(folder / "a.parquet")
        return folder / "a.parquet", options
    if kind == "saved":
        table.save_to_disk(folder / "saved")
        return folder / "saved", options
    (folder / "data").mkdir()
    if kind == "jsonl-folder":
        table.to_json(folder / "data" / "train.jsonl")
    else:
        half = len(documents) // 2
        table.select(range(half)).to_parquet(folder / "data" / "train-0.parquet")
        table.select(range(half, len(documents))).to_parquet(folder / "data" / "train-1.parquet")
    return folder / "data", options


KINDS = ["txt", "blank-lines", "jsonl", "parquet", "saved", "jsonl-folder", "parquet-folder"]


@pytest.fixture(autouse=True)
def quiet_datasets() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_documents(kind: str, tmp_path: Path) -> None:
    documents = texts()
    source, options = make_source(kind, tmp_path, [*documents[:5], "  ", *documents[5:]])
    made = corpus(source, **options)
    train = words_of(made.stream("train", 4, epochs=1))
    held_out = words_of(made.stream("held_out", 4))
    assert not set(train) & set(held_out)
    assert sorted([*train.values(), *held_out.values()]) == sorted(documents)
    assert {n: documents[n] for n in train | held_out} == train | held_out
    described = made.describe()
    assert described["documents"] == {"train": len(train), "held_out": len(held_out)}
    total = sum(len(text.split()) + 1 for text in documents)
    assert sum(described["tokens"].values()) == total


def test_max_documents(txt: Path) -> None:
    made = corpus(txt, max_documents=20)
    assert sum(made.describe()["documents"].values()) == 20


def test_packing_is_end_to_end_with_one_bos_per_document(txt: Path) -> None:
    batches = list(corpus(txt).stream("train", 4, epochs=1))
    tokens, document = flat(batches), flat(batches, "document")
    starts = [i for i in range(len(document)) if i == 0 or document[i] != document[i - 1]]
    assert [i for i, token in enumerate(tokens) if token == BOS] == starts
    assert all(batch.tokens.shape == (4, 16) for batch in batches[:-1])
    last = batches[-1]
    padding = last.document < 0
    assert not last.keep[padding].any() and padding.sum() < 16
    assert torch.equal(last.position[0], torch.arange(16))
    for batch in batches:
        assert torch.equal(batch.keep, (batch.tokens != BOS) & (batch.document >= 0))


def test_bos_options(txt: Path) -> None:
    context = next(corpus(txt, bos="context").stream("train", 4))
    assert (context.tokens[:, 0] == BOS).all() and (context.tokens[:, 1:] != BOS).all()
    assert torch.equal(context.document[:, 0], context.document[:, 1])
    none = next(corpus(txt, bos="none").stream("train", 4))
    assert (none.tokens != BOS).all() and none.keep.all()
    assert corpus(txt, bos_id=None).packing.bos == "none"
    tokens = flat(corpus(txt, bos="context").stream("train", 4, epochs=1))
    assert [t for t in tokens if t != BOS] == flat(
        corpus(txt, bos="none").stream("train", 4, epochs=1)
    )


def test_keep_leaves_out_what_it_is_told(txt: Path) -> None:
    batch = next(corpus(txt, exclude_first=3, exclude_bos=False).stream("train", 4))
    assert not batch.keep[:, :3].any() and batch.keep[:, 3:].all()


def test_train_reshuffles_every_epoch_by_seed(txt: Path) -> None:
    def orders(seed: int) -> list[list[int]]:
        stream = corpus(txt, seed=seed).stream("train", 1, epochs=2)
        document = flat(stream, "document")
        changes = [d for i, d in enumerate(document) if i == 0 or d != document[i - 1]]
        half = len(set(changes))
        assert len(changes) in (2 * half, 2 * half - 1)  # the same one may end and begin
        return [changes[:half], changes[-half:]]

    first, second = orders(0)
    assert sorted(first) == sorted(second) and first != second
    assert orders(0) == [first, second]
    assert orders(1)[0] != first
    held_out = [flat(corpus(txt, seed=seed).stream("held_out", 2)) for seed in (0, 1)]
    assert held_out[0] == held_out[1]


def test_epochs_are_counted_and_lose_no_token(txt: Path) -> None:
    made = corpus(txt)
    per_epoch = made.describe()["tokens"]["train"]
    stream = made.stream("train", 3, epochs=3)
    seen = 0
    for batch in stream:
        seen += int((batch.document >= 0).sum())
        assert stream.epoch == seen // per_epoch or seen == 3 * per_epoch
    assert seen == 3 * per_epoch


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("bos", ["document", "context"])
def test_a_resumed_stream_continues_with_the_same_batches(txt: Path, split: Any, bos: str) -> None:
    whole = list(corpus(txt, bos=bos).stream(split, 3, epochs=3))
    for taken in (0, 1, 2, len(whole) // 2, len(whole)):
        stream = corpus(txt, bos=bos).stream(split, 3, epochs=3)
        for _ in range(taken):
            next(stream)
        state = json.loads(json.dumps(stream.state_dict()))
        fresh = corpus(txt, bos=bos).stream(split, 3, epochs=3)
        fresh.load_state_dict(state)
        assert_same(list(fresh), whole[taken:])


def assert_same(a: list[TokenBatch], b: list[TokenBatch]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for part in ("tokens", "document", "position", "keep"):
            assert torch.equal(getattr(x, part), getattr(y, part))


def test_a_state_of_other_text_or_options_is_refused(txt: Path, tmp_path: Path) -> None:
    state = corpus(txt).stream("train", 2).state_dict()
    other = write_txt(tmp_path / "other.txt", texts(seed=1))
    for made in (corpus(other), corpus(txt, seed=1), corpus(txt, context=8)):
        with pytest.raises(UserError, match="another text, seed or context"):
            made.stream("train", 2).load_state_dict(state)


def test_duplicates_fall_on_the_same_side(tmp_path: Path) -> None:
    documents = [text for text in texts(30) for _ in range(3)]
    made = corpus(write_txt(tmp_path / "a.txt", documents))
    train = set(words_of(made.stream("train", 4, epochs=1)).values())
    held_out = set(words_of(made.stream("held_out", 4)).values())
    assert train and held_out and not train & held_out


@pytest.mark.parametrize("share", [1e-9, 0.05, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_neither_side_is_ever_empty(share: float, count: int) -> None:
    for seed in range(20):
        key = keys([*texts(count, seed), texts(count, seed)[0]])
        mask = held_out_mask(key, TextConfig(held_out=share))
        assert mask.any() and not mask.all() and mask[0] == mask[-1]


def test_share_of_held_out_documents() -> None:
    key = keys([str(i) for i in range(20_000)])
    assert held_out_mask(key, TextConfig(held_out=0.05)).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("kind", ["parquet-folder", "jsonl-folder"])
def test_streaming_datasets(
    split: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = "saeworks.lm.streaming.BlockStream.__init__"
    monkeypatch.setitem(_defaults(init), "block", 7)
    source, options = make_source(kind, tmp_path, texts(40))
    in_memory = corpus(source, **options)
    made = corpus(source, streaming=True, **options)
    assert made.describe()["documents"]["train"] is None
    assert words_of(made.stream(split, 3, epochs=1)) == words_of(
        in_memory.stream(split, 3, epochs=1)
    )
    whole = list(made.stream(split, 2, epochs=2))
    for taken in range(0, len(whole) + 1, 1 if split == "held_out" else 4):
        stream = made.stream(split, 2, epochs=2)
        for _ in range(taken):
            next(stream)
        state = json.loads(json.dumps(stream.state_dict()))
        fresh = corpus(source, streaming=True, **options).stream(split, 2, epochs=2)
        fresh.load_state_dict(state)
        assert_same(list(fresh), whole[taken:])


def _defaults(dotted: str) -> dict[str, Any]:
    from saeworks.lm.streaming import BlockStream

    function = BlockStream.__init__
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    assert dotted.endswith("__init__") and function.__kwdefaults__ is not None
    return function.__kwdefaults__


def test_streaming_shuffles_and_endless_epochs(tmp_path: Path) -> None:
    source, options = make_source("parquet-folder", tmp_path, texts(40))
    firsts = []
    for seed in (0, 0, 1):
        stream = corpus(source, streaming=True, seed=seed, **options).stream("train", 4)
        firsts.append(next(stream).document[0].tolist())
    assert firsts[0] == firsts[1] != firsts[2]
    for _ in range(40):
        batch = next(stream)
    assert stream.epoch >= 2 and batch.tokens.shape == (4, 16) and (batch.document >= 0).all()


def test_streaming_says_when_a_side_has_nothing(tmp_path: Path) -> None:
    source, options = make_source("parquet-folder", tmp_path, texts(5))
    made = corpus(source, streaming=True, held_out=1e-9, **options)
    with pytest.raises(UserError, match="no document for this side"):
        next(made.stream("held_out", 2))


def write_bad_jsonl(folder: Path) -> Path:
    path = folder / "bad.jsonl"
    path.write_text('{"text": "a b"}\n\n{"text": \n')
    return path


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "missing file": (lambda f: f / "none.txt", {}, "no such file"),
    "missing relative file": (lambda f: "none.jsonl", {}, "no such file"),
    "missing folder": (lambda f: f / "none", {}, "no such folder"),
    "unknown kind": (lambda f: _write(f / "a.csv", "x"), {}, "cannot read .csv"),
    "empty": (lambda f: _write(f / "a.txt", " \n"), {}, "it is empty"),
    "one document": (lambda f: _write(f / "a.txt", "w1 w2"), {}, "single document"),
    "too short": (
        lambda f: write_txt(f / "a.txt", ["w1 w2", "w3 w4"]),
        {},
        "only 3 tokens to train on, shorter than one context of 16",
    ),
    "not UTF-8": (lambda f: _write_bytes(f / "a.txt", b"\xff\xfe\x00"), {}, "not UTF-8"),
    "broken line": (write_bad_jsonl, {}, "line 3: not valid JSON"),
    "not an object": (lambda f: _write(f / "a.jsonl", "[1]"), {}, "line 1: list, not an object"),
    "no key": (
        lambda f: _write(f / "a.jsonl", '{"a": "x", "b": 1}'),
        {},
        "line 1: no column 'text'; there are 'a', 'b'",
    ),
    "not text": (lambda f: _write(f / "a.jsonl", '{"text": 3}'), {}, "holds int, not text"),
    "bad parquet": (lambda f: _write(f / "a.parquet", "PAR1"), {}, "not a readable parquet"),
    "no column": (
        lambda f: make_source("parquet", f, texts())[0],
        {"column": "story"},
        "no column 'story'; there are 'body', 'id'",
    ),
    "no column in a dataset": (
        lambda f: make_source("parquet-folder", f, texts())[0],
        {},
        "no column 'text'; there are 'body', 'id'",
    ),
    "no split": (
        lambda f: make_source("parquet-folder", f, texts())[0],
        {"split": "trian"},
        "split 'trian'.*could not be loaded",
    ),
    "empty folder": (lambda f: f, {}, "could not be loaded"),
    "context too long": (lambda f: write_txt(f / "a.txt", texts()), {"context": 65}, "at most 64"),
    "context too short": (lambda f: write_txt(f / "a.txt", texts()), {"context": 1}, "at least 2"),
    "nothing kept": (
        lambda f: write_txt(f / "a.txt", texts()),
        {"exclude_first": 16},
        "exclude_first = 16",
    ),
    "held_out": (lambda f: write_txt(f / "a.txt", texts()), {"held_out": 1.5}, "held_out = 1.5"),
    "max_documents": (
        lambda f: write_txt(f / "a.txt", texts()),
        {"max_documents": 1},
        "max_documents = 1",
    ),
    "no BOS": (
        lambda f: write_txt(f / "a.txt", texts()),
        {"bos": "document", "bos_id": None},
        "has no BOS token",
    ),
}


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_clear_line(case: str, tmp_path: Path) -> None:
    source, options, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        corpus(source(tmp_path), **options)
    assert "\n" not in str(error.value)


def test_a_dataset_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'no-one/no-such-data'.*could not be loaded") as error:
        corpus("no-one/no-such-data")
    assert "\n" not in str(error.value)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [("tinystories-neox-6L256", 1.866), ("stories260K", 1.40), ("tinystories-656K", 3.6)],
)
def test_real_models_predict_real_text(real_data: Path, name: str, expected: float) -> None:
    from saeworks.lm.model import LanguageModel

    lm = LanguageModel.load(ModelConfig(name=str(real_data / name)))
    config = TextConfig(
        source=str(real_data / "text" / "tinystories_valid.txt"), context=256, held_out=0.3
    )
    made = Corpus(config, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=0)
    nats = count = 0.0
    for batch, _ in zip(made.stream("held_out", 16), range(2), strict=False):
        real = batch.document[:, 1:] >= 0
        nats += float(lm.cross_entropy(batch.tokens)[real].sum())
        count += int(real.sum())
    assert nats / count == pytest.approx(expected, abs=0.12)


def test_all_of_a_text_may_be_held_out(tmp_path: Path) -> None:
    for count in (1, 9):
        documents = texts(count)
        made = corpus(write_txt(tmp_path / f"{count}.txt", documents), held_out=1.0)
        assert sorted(words_of(made.stream("held_out", 4)).values()) == sorted(documents)
        with pytest.raises(UserError, match=r"text\.held_out = 1 leaves nothing to train on"):
            made.stream("train", 4)
