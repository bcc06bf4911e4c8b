"""Switch SAEs through every command: on attn and mlp sites, on groups, beside others; bad input."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.reports import pages_of
from saeworks import build_sae, load_suite
from saeworks.cli.main import main

SITES = ("layers.1", "layers.1.self_attn", "layers.2.mlp", "layers.3")
SAES = [
    {"arch": "topk", "expansion": 2, "k": 4},
    {"arch": "batchtopk", "expansion": 2, "k": 4},
    {"arch": "switch", "expansion": 2, "k": 4, "experts": 8, "router": "top-n", "active": 2},
    {
        "arch": "switch",
        "expansion": 2,
        "k": 4,
        "experts": 4,
        "router": "layer",
        "groups": {"groups": [["layers.1", "layers.3"], list(SITES[1:3])]},
    },
]
RUN = {
    "sites": list(SITES),
    "text": {"max_documents": 150, "held_out": 0.25},
    "saes": SAES,
    "train": {"tokens": 1536, "batch": 256, "eval_every": 6, "eval_tokens": 128, "log_every": 2},
    "buffer": {"memory": "8MiB", "normaliser_tokens": 500, "lm_batch": 1024},
    "device": "cpu",
}
FEW = ["--tokens", "600", "--bootstrap", "5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained and evaluated run."""
    folder = tmp_path_factory.mktemp("switch")
    (folder / "run.yaml").write_text(json.dumps(RUN))
    out = folder / "out"
    assert main(["train", str(folder / "run.yaml"), "--out", str(out)]) == 0
    small = ["--splice-tokens", "128", "--latents", "2", "--overlap-tokens", "64", "--tsne", "40"]
    assert main(["eval", str(out), *FEW, *small]) == 0
    yield out


def suites(run: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in run.glob("*/suite.json")}


def test_every_evaluator_measures_every_site(run: Path):
    """FVU, ΔCE and latents of every suite; experts and geometry of Switch at each of its sites."""
    found = suites(run)
    assert len(found) == 4
    for name, path in found.items():
        results = {f.stem: json.loads(f.read_text()) for f in (path / "results").glob("*.json")}
        for evaluation, metric in (("reconstruction", "fvu"), ("splice", "delta_ce")):
            values = results[evaluation]["sites"]
            assert set(values) == set(SITES)
            assert all(v[metric]["value"] is not None for v in values.values())
        assert set(results["latents"]["series"]) == set(SITES)
        assert set(results["geometry"]["sites"]) == set(SITES)
        assert ("experts" in results) == name.startswith("switch")
        if "experts" in results:
            assert set(results["experts"]["sites"]) == set(SITES)


def test_a_group_shares_its_experts_and_not_its_routing(run: Path):
    suite = load_suite(next(path for name, path in suites(run).items() if "layer" in name))
    first, second = (suite.at(site) for site in ("layers.1", "layers.3"))
    assert not first.router.site_logits.equal(second.router.site_logits)
    assert len(suite.meta["groups"]) == 2


def test_the_log_the_suite_and_the_plan_count_the_same_operations(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    recorded = {}
    for name, path in suites(run).items():
        meta = json.loads((path / "suite.json").read_text())
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        spent = {line["site"]: line["flops"] for line in lines if line["kind"] == "train"}
        logged = sum(spent[group["sites"][0]] for group in meta["groups"].values())
        recorded[name] = meta["cost"]["flops_saes"]
        assert recorded[name] == pytest.approx(logged)
    assert recorded["switch-x2-k4-active2-experts8-routertop-n"] < recorded["topk-x2-k4"]
    capsys.readouterr()
    assert main(["cost", str(run.parent / "run.yaml"), "--no-calibrate", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["flops"]["saes"]
    assert planned == pytest.approx(sum(recorded.values()))


def test_the_other_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = suites(run)
    switch = [str(path) for name, path in found.items() if name.startswith("switch")]
    assert main(["compare", *switch, "--baseline", str(found["topk-x2-k4"]), *FEW]) == 0
    few = ["--pursuit", "64", "--mlp", "128", "--downstream", "256"]
    assert main(["audit", switch[0], *few, "--tokens", "1600", "--bootstrap", "5"]) == 0
    capsys.readouterr()
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    pages = pages_of(tmp_path / "page" / "index.html")
    assert {"experts", "missed", "compare"} <= pages
    assert (tmp_path / "page" / "data" / "experts-2-1.js").is_file()
    for path in switch:
        capsys.readouterr()
        assert main(["convert", path, str(tmp_path / "other"), "--to", "saelens"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "no counterpart of the architecture 'switch'" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 3}, "width = 256 is not divisible by experts = 3"),
        ({"experts": 16, "k": 17}, "k = 17 is more than the 16 latents of an expert"),
        ({"experts": 512, "k": 1}, "experts = 512 is more than width = 256"),
        ({"experts": 4, "router": "top-n", "active": 5}, "active = 5 is more than experts = 4"),
        ({"experts": 4, "router": "expert-choice", "active": 5}, "active = 5 is more than"),
        ({"experts": 0}, "experts = 0: there must be at least one"),
        ({"experts": 4, "router": "nearest"}, "input should be 'switch', 'heaviside'"),
        ({"experts": 4, "expert": 4}, "unknown key 'expert'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "cost"])
def test_impossible_options_are_one_line(
    options: dict[str, Any],
    message: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    sae = {"arch": "switch", "width": 256, "k": 4, **options}
    (tmp_path / "run.yaml").write_text(json.dumps({**RUN, "sites": ["layers.1"], "saes": [sae]}))
    out = ["--out", str(tmp_path / "out")]
    assert main([command, str(tmp_path / "run.yaml"), *out]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and said.startswith("saeworks: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experts", "3"], "is not divisible by experts = 3"),
        (["--experts", "64"], "k = 4 is more than the 1 latents"),
        (["--experts", "128"], "experts = 128 is more than width = 64"),
    ],
)
def test_impossible_benchmarks_are_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    small = ["--d", "16", "--width", "64", "--k", "4", "--batch", "8"]
    assert main(["bench", "step", "--arch", "switch", *small, *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_what_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One expert; more experts than a batch has rows; all tokens at one expert, which is said."""
    one = {"arch": "switch", "width": 256, "k": 4, "experts": 1}
    many = {**one, "experts": 64}
    stuck = {**one, "experts": 2, "balance": 0.0}
    train = {"tokens": 64, "batch": 16, "eval_every": 0, "log_every": 1}
    few = {**RUN, "sites": ["layers.1"], "saes": [one, many, stuck], "train": train}
    (tmp_path / "run.yaml").write_text(json.dumps(few))
    assert main(["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    for path in suites(tmp_path / "out").values():
        lines = (path / "metrics.jsonl").read_text().splitlines()
        assert all(json.loads(line)["fvu"] is not None for line in lines)
    assert main(["eval", str(tmp_path / "out"), *FEW, "--no-splice", "--latents", "0"]) == 0
    assert "experts1" not in said.out.replace("switch-w256-k4-experts1", "")  # no warning of one


@pytest.mark.parametrize("router", ["switch", "shared", "top-n"])
def test_all_tokens_at_the_same_experts_is_a_warning(router: str):
    own = {"active": 2} if router == "top-n" else {}
    sae = build_sae("switch", d=8, width=64, k=2, experts=8, router=router, **own)
    least = 1 if router == "switch" else 2
    said = sae.warning({"used": least})
    assert said is not None and "of 8, and the others learn nothing; raise balance" in said
    assert sae.warning({"used": least + 1}) is None
    assert build_sae("switch", d=8, width=64, k=2, experts=1).warning({"used": 1}) is None
