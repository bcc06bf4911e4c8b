"""Labels of documents: from the text, through the ring and a resume, to the router."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.fakes import weights
from saeworks import UserError
from saeworks.activations.base import ActivationBatch
from saeworks.activations.labelled import Labelled
from saeworks.cli.main import main
from saeworks.config import ModelConfig, TextConfig
from saeworks.embedded import documents
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.train import live_job

SUPERVISED = "{arch: switch, expansion: 2, k: 4, experts: 8, router: supervised, labels: 5}"
SMALL = {
    "sites": "[layers.0]",
    "saes": f"[{SUPERVISED}]",
    "text.max_documents": "120",
    "text.label": "domain",
    "train.tokens": "1792",
    "train.batch": "256",
    "train.eval_every": "0",
    "train.checkpoint_every": "0",
    "buffer.memory": "1MiB",
    "buffer.normaliser_tokens": "500",
    "device": "cpu",
}


def train(out: Path, **over: str) -> int:
    options = {**SMALL, **{key.replace("__", "."): value for key, value in over.items()}}
    pairs = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    return main(["train", "--out", str(out), *pairs])


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(ModelConfig())


def corpus(lm: LanguageModel, **text: Any) -> Corpus:
    config = TextConfig(held_out=0.2, **text)
    return Corpus(config, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=0)


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Every third document is a blank one, which has no number of its own."""
    found: list[dict[str, Any]] = []
    for i, document in enumerate(documents(0, count)):
        found.append({"text": document.text, "kind": 11 * (i % 3)})
        if i % 3 == 0:
            found.append({"text": " ", "kind": None})
    return found


def labels_by_document(made: Corpus) -> dict[int, set[str]]:
    """Of every row of both splits, by the text that it holds."""
    assert made.labels is not None
    found: dict[int, set[str]] = {}
    for split in ("train", "held_out"):
        for batch in made.stream(split, 4, epochs=1):
            for number in set(batch.document[batch.document >= 0].tolist()):
                label = made.labels.names[made.labels.number[number]]
                found.setdefault(number, set()).add(label)
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset"])
def test_every_source_gives_each_document_its_own_label(
    kind: str, tmp_path: Path, lm: LanguageModel
):
    own = rows()
    path = tmp_path / "data"
    if kind == "jsonl":
        path = tmp_path / "text.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in own))
    elif kind == "parquet":
        path = tmp_path / "text.parquet"
        pq.write_table(pa.Table.from_pylist(own), path)
    else:
        import datasets

        datasets.Dataset.from_list(own).save_to_disk(str(path))
    made = corpus(lm, source=str(path), label="kind")
    filled = [row for row in own if row["text"].strip()]
    assert made.labels is not None and made.labels.names == ("0", "11", "22")
    assert labels_by_document(made) == {i: {str(row["kind"])} for i, row in enumerate(filled)}


def test_the_embedded_texts_labels_are_its_domains(lm: LanguageModel):
    made = corpus(lm, label="domain", max_documents=50)
    own = [document.concepts[0]["domain"] for document in documents(0, 50)]
    assert made.labels is not None and made.labels.names == tuple(sorted(set(own)))
    assert labels_by_document(made) == {i: {name} for i, name in enumerate(own)}
    assert corpus(lm, max_documents=50).labels is None


def test_other_labels_are_another_text(lm: LanguageModel, tmp_path: Path):
    path = tmp_path / "text.jsonl"
    states = []
    for change in (0, 1):
        own = [{"text": row["text"], "kind": int(i == change)} for i, row in enumerate(rows())]
        path.write_text("".join(json.dumps(row) + "\n" for row in own))
        states.append(corpus(lm, source=str(path), label="kind").stream("train", 2).state_dict())
    with pytest.raises(UserError, match="belongs to another text"):
        corpus(lm, source=str(path), label="kind").stream("train", 2).load_state_dict(states[0])


def test_a_supervised_run_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: list[ActivationBatch] = []

    class Watched(Labelled):
        def __next__(self) -> ActivationBatch:
            batch = super().__next__()
            seen.append(batch)
            if len(seen) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            return batch

    monkeypatch.setattr(live_job, "Labelled", Watched)
    stop_at = 0
    assert train(tmp_path / "whole") == 0
    whole = list(seen)
    seen.clear()
    stop_at = 5
    assert train(tmp_path / "again") == 130
    assert train(tmp_path / "again") == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "again")
    own = [document.concepts[0]["domain"] for document in documents(0, 120)]
    place = {name: at for at, name in enumerate(sorted(set(own)))}
    expected = np.array([place[name] for name in own])
    for batch, again in zip(whole, seen, strict=True):
        assert batch.label is not None and again.label is not None
        assert torch.equal(batch.label, again.label)
        assert (batch.label.numpy() == expected[batch.document.numpy()]).all()
    assert "labels 5" in capsys.readouterr().out
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss"]["supervision"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text__label": "null"}, "is trained on a label for every document: name the column"),
        ({"text__label": "topic"}, "one label, 'domain'; give that"),
        ({"text__lable": "domain"}, "unknown key 'text.lable'; did you mean 'label'?"),
        ({"saes": f"[{SUPERVISED.replace('labels: 5', 'labels: 4')}]"}, "5 labels in 'domain'"),
        ({"saes": f"[{SUPERVISED.replace(', labels: 5', '')}]"}, "supervised needs labels"),
        ({"text__source": "{folder}/text.txt"}, "documents of a .txt file"),
        ({"text__source": "{folder}/text.jsonl", "text__label": "topic"}, "no column 'topic'"),
        ({"text__source": "{folder}/text.parquet", "text__label": "topic"}, "no column 'topic'"),
        ({"text__source": "{folder}/text.jsonl", "text__label": "gap"}, "line 2: the label 'gap'"),
        ({"text__source": "{folder}/text.parquet", "text__label": "gap"}, "'gap' holds no value"),
        ({"text__source": "{folder}/text.jsonl", "text__label": "list"}, "'list' holds list"),
        (
            {
                "text__source": "{folder}",
                "text__label": "gap",
                "text__streaming": "true",
                "text__max_documents": "null",
            },
            "a text that is read as it comes",
        ),
    ],
)
def test_bad_labels_are_one_line(
    options: dict[str, str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    texts = [{"text": f"Once upon a time {i}", "gap": "a", "list": [1]} for i in range(9)]
    texts[1]["gap"] = None  # type: ignore[assignment]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (tmp_path / "text.txt").write_text("one\n<|endoftext|>\ntwo\n")
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "text.parquet")
    given = {key: value.replace("{folder}", str(tmp_path)) for key, value in options.items()}
    assert train(tmp_path / "out", **given) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and said.startswith("saeworks: ")
    assert not (tmp_path / "out").exists()


def test_cost_of_a_supervised_run(capsys: pytest.CaptureFixture[str]):
    pairs = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    assert main(["cost", "--no-calibrate", "--json", *pairs]) == 0
    assert json.loads(capsys.readouterr().out)["saes"] == 1
