"""Switch SAEs through the ordinary trainer: every router, groups, labels, resume, suites."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fakes import CONFIG, StopAt, fake_source, fake_trainer, shorter, weights
from saeworks import UserError
from saeworks.activations.labelled import Labelled
from saeworks.dictionary.archs.switch import Switch
from saeworks.dictionary.normaliser import Normaliser
from saeworks.groups.grouping import Grouping
from saeworks.suite import load_suite
from saeworks.train.mixing import View

SITES = ("layers.0", "layers.2")
ONE = Grouping("g1-user", {"group-0": SITES}, "user")
SWITCH = {"arch": "switch", "expansion": 2, "k": 2, "experts": 4}
ROUTERS: dict[str, dict[str, Any]] = {
    "switch": {},
    "heaviside": {},
    "shared": {},
    "top-n": {"active": 2},
    "expert-choice": {"active": 2},
    "bias": {},
    "layer": {},
    "supervised": {"labels": 2},
}
SHORT = shorter(CONFIG, tokens=64 * 16)


def source(stop: int | None = None) -> Any:
    inner = fake_source(sites=SITES)
    labelled = Labelled(inner, torch.arange(5000) % 2)
    return labelled if stop is None else StopAt(labelled, stop, signal.SIGINT)


def run(out: Path, router: str, stop: int | None = None) -> str:
    saes = ({**SWITCH, "router": router, **ROUTERS[router]},)
    trainer = fake_trainer(out, SHORT, source=source(stop), saes=saes, groupings=[ONE])
    return trainer.run()


@pytest.mark.parametrize("router", list(ROUTERS))
def test_a_group_resumes_to_the_bit_and_becomes_a_suite(tmp_path: Path, router: str):
    assert run(tmp_path / "whole", router) == "finished"
    assert run(tmp_path / "again", router, stop=9) == "interrupted"
    assert run(tmp_path / "again", router) == "finished"
    assert weights(tmp_path / "whole") == weights(tmp_path / "again")
    suite = load_suite(tmp_path / "whole")
    generator = torch.Generator().manual_seed(0)
    for site in SITES:
        own, normaliser = suite.trained(site), suite.normaliser(site)
        x = 2 * torch.randn(20, own.d, generator=generator)
        code = own.encode(normaliser.normalise(x))
        torch.testing.assert_close(suite.at(site).encode(x), code, rtol=1e-4, atol=1e-4)
        assert ((code > 0).sum(1) <= 2).all()
    logged = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    line = next(x for x in map(json.loads, logged) if x["kind"] == "train")
    rows = line["step"] * SHORT.batch
    sae = suite.trained(SITES[0])
    assert line["flops"] == pytest.approx(rows * sae.flops(2.0, SHORT.batch).total)
    assert line["step_seconds"] > 0
    seconds = [
        json.loads(text).get("step_seconds")
        for text in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()
        if '"train"' in text
    ]
    assert seconds == sorted(seconds) and len(set(seconds)) > 1  # a resume goes on counting
    assert 1 / 4 <= line["busiest"] <= 1 and 1 / 4 <= line["confidence"] <= 1
    assert not any(key.startswith("router") for key in line)


def test_training_lowers_the_fvu(tmp_path: Path):
    saes = ({**SWITCH, "router": "switch"},)
    fake_trainer(tmp_path, source=fake_source(), saes=saes).run()
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    fvu = [line["fvu"] for line in lines if line["kind"] == "train"]
    assert fvu[-1] < 0.9 * fvu[0]


def test_all_tokens_at_one_expert_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def first(sae: Switch, x_BD: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.eye(4)[torch.zeros(len(x_BD), dtype=torch.int64)]

    monkeypatch.setattr(Switch, "logits", first)
    said: list[str] = []
    saes = ({**SWITCH, "router": "switch"},)
    assert fake_trainer(tmp_path, SHORT, saes=saes, say=said.append).run() == "finished"
    warnings = [line for line in said if "all tokens of the step went to one expert of 4" in line]
    assert len(warnings) == 2  # one for each site
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert {line["used"] for line in lines if line["kind"] == "train"} == {1}


def test_a_run_without_labels_says_so(tmp_path: Path):
    saes = ({**SWITCH, "router": "supervised", "labels": 2},)
    with pytest.raises(UserError, match="label for every row"):
        fake_trainer(tmp_path, SHORT, source=fake_source(), saes=saes).run()


def test_every_row_has_the_label_of_its_document():
    labels = torch.arange(7) % 3
    plain, labelled = fake_source(), Labelled(fake_source(), labels)
    for _ in range(3):
        expected, found = next(plain), next(labelled)
        assert torch.equal(found.document, expected.document)
        assert found.label is not None
        for document, label in zip(found.document.tolist(), found.label.tolist(), strict=True):
            assert label == (document % 3 if document < 7 else -1)


@pytest.mark.parametrize("draw", ["one", "all"])
def test_mixed_rows_keep_the_labels_of_their_tokens(draw: Any):
    token = torch.arange(6)
    x = {site: token[:, None].expand(6, 4).float() for site in SITES}
    normalisers = {site: Normaliser.identity(4) for site in SITES}
    batch = View(SITES, "none", draw).batch(x, normalisers, 0, 1, label=10 * token)
    assert batch.label is not None
    assert torch.equal(batch.label.float(), 10 * batch.x[:, 0])
