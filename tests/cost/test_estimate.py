"""What a run costs: the published counts, our steps' against torch's counter, predictions."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from saeworks.cli.main import main
from saeworks.config import ModelConfig
from saeworks.cost import calibrate
from saeworks.cost.estimate import (
    Calibration,
    LMFacts,
    Part,
    PhaseSeconds,
    Workload,
    authors_lm,
    authors_sae,
    flops,
    meta_sae,
    predicted,
    saving,
    spent,
)
from saeworks.cost.machine import Neighbours
from saeworks.dictionary import preactivations
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.flops import StepWork
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.lm.flops import forward_flops
from saeworks.lm.model import LanguageModel

PYTHIA = {"160M": (768, 12, 6), "410M": (1024, 24, 9), "1B": (2048, 16, 6)}
"""d, layers, G."""
N = 1e9


@pytest.mark.parametrize(
    ("name", "published", "like_for_like", "sparse"),
    [("160M", 42.3, 38, 23), ("410M", 53.2, 51, 32), ("1B", 53.8, 51, 32)],
)
def test_the_published_savings(
    name: str, published: float, like_for_like: float, sparse: float
) -> None:
    """Spec §7: the authors count L baselines against groups of L − 1 layers; like for like both
    train on L − 1; with a sparse step the language model's share grows."""
    d, layers, groups = PYTHIA[name]
    lm, sae = authors_lm(N, layers, d), authors_sae(N, d, 16 * d)
    assert round(100 * saving(lm, sae, groups, layers), 1) == published
    assert round(100 * saving(lm, sae, groups, layers - 1)) == like_for_like
    step = StepWork().flops(d, 16 * d, 128.0, 10**9).total * N
    assert round(100 * saving(lm, step, groups, layers - 1)) == sparse


def test_the_parts_of_a_topk_step() -> None:
    found = flops("topk", d=768, width=24576, k=32, batch=8192)
    pairs = 2 * 768 * 32
    assert found.forward == {"encoder": 2 * 768 * 24576, "decoder": pairs}
    assert found.backward == {
        "values": pairs,
        "w_dec": pairs,
        "w_enc": pairs,
        "b_dec": 2 * 768 * 24576 / 8192,
    }


def test_a_dense_step_is_the_authors_count() -> None:
    assert StepWork(shifted=False, dense_above=0.0).flops(64, 512, 1.0, 1).total == authors_sae(
        1.0, 64, 512
    )
    every = StepWork().flops(64, 512, 512.0, 10**12).total
    assert every == pytest.approx(authors_sae(1.0, 64, 512))


def counted(arch: str, rows: int, d: int, options: dict[str, Any]) -> tuple[int, float]:
    """Operations of one dense training step by torch's counter, and by ours."""
    sae = build_sae(arch, d, **options)
    x_BD = torch.randn(rows, d)
    sae.initialise(x_BD, torch.Generator().manual_seed(0))
    context = Context(torch.empty(0, dtype=torch.int64), 0.5)
    with FlopCounterMode(display=False) as counter:
        out = sae.step(Batch(x_BD, x_BD), context)
        torch.stack(list(out.loss_terms.values())).sum().backward()
    ours = sae.flops(sae.width / 2, rows).total * rows
    return counter.get_total_flops(), ours


@pytest.mark.parametrize("arch", ["relu", "jumprelu", "gated"])
@pytest.mark.parametrize("subtract", [False, True])
def test_dense_steps_against_torchs_counter(arch: str, subtract: bool) -> None:
    options: dict[str, Any] = {"width": 96}
    if arch != "gated":
        options["subtract_b_dec"] = subtract
    theirs, ours = counted(arch, 256, 24, options)
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("arch", ["relu", "jumprelu", "gated"])
def test_the_count_goes_dense_where_the_step_does(
    monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    totals = []
    for share in (2.0, -1.0):  # never dense, always dense
        monkeypatch.setattr(preactivations, "DENSE_SHARE", share)
        totals.append(build_sae(arch, 24, width=96).flops(12.0, 256).total)
    assert totals[0] < totals[1]


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka"])
def test_dense_part_of_sparse_steps_against_torchs_counter(arch: str) -> None:
    """The counter sees the encoder, the probe and b_dec's gradient, but not the sparse kernels."""
    rows, d, k = 256, 24, 4
    sae = build_sae(arch, d, width=96, k=k)
    x_BD = torch.randn(rows, d)
    sae.initialise(x_BD, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        out = sae.step(Batch(x_BD, x_BD), Context(torch.empty(0, dtype=torch.int64), 0.5))
        out.loss_terms["reconstruction"].backward()
    ours = sae.flops(float(k), rows)
    dense = ours.forward["encoder"] + ours.forward.get("probe", 0) + ours.backward["b_dec"]
    assert counter.get_total_flops() == pytest.approx(dense * rows, rel=1e-9)


@pytest.mark.parametrize("arch", list(ARCHS))
def test_every_architecture_says_what_it_costs(arch: str) -> None:
    """Phases fill the run; the meta SAE has the real one's parameters; denser costs more."""
    options: dict[str, Any] = {"width": 512}
    if any(field == "k" for field in ARCHS[arch].Config.__dataclass_fields__):
        options["k"] = 8
    sae = meta_sae(arch, 32, options)
    real = build_sae(arch, 32, **options)
    assert sum(phase.share for phase in sae.phases) == pytest.approx(1)
    assert {n: p.shape for n, p in sae.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()
    }
    assert sae.flops(8.0, 1024).total < sae.flops(16.0, 1024).total < sae.flops(512.0, 1024).total


def test_target_l0_is_what_is_counted_after_the_warm_up() -> None:
    sae = meta_sae("relu", 16, {"width": 512, "target_l0": 20, "sparsity_warmup": 0.1})
    assert [(phase.share, phase.active) for phase in sae.phases] == [(0.1, 256), (0.9, 20)]
    assert all(phase.assumed for phase in sae.phases)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(ModelConfig())


@pytest.mark.parametrize("site", [None, "layers.3", "layers.2.mlp", "layers.0@in"])
def test_forward_against_torchs_counter(lm: LanguageModel, site: str | None) -> None:
    """On sdpa the counter misses attention on a CPU, so attention is run as plain products."""
    context = 32
    lm.model.set_attn_implementation("eager")
    tokens_1T = torch.zeros(1, context, dtype=torch.long)
    hooks = {site: lambda x: None} if site else {}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lm.run(tokens_1T, hooks, logits=site is None)
    ours = forward_flops(lm, context, [site] if site else None)
    # the rotary embedding's table of angles is a product, too, of no size
    assert ours.total * context == pytest.approx(counter.get_total_flops(), rel=0.005, abs=3000)
    assert (
        ours.blocks == {None: lm.layers, "layers.3": 4, "layers.2.mlp": 3, "layers.0@in": 0}[site]
    )


TOPK = {"width": 512, "k": 8}
FACTS = LMFacts(d=64, blocks=4, flops=1e6, whole_flops=2e6, bytes=1000)


def run(sites: int = 4, variants: int = 1, **changes: Any) -> Workload:
    names = [f"layers.{i}" for i in range(sites)]
    parts = tuple(
        Part(f"v{v}", "topk", {**TOPK, "k": 8 + v}, 64, (site,))
        for v in range(variants)
        for site in names
    )
    work = Workload(
        parts=parts,
        planes=dict.fromkeys(names, 64),
        steps=100,
        batch=256,
        slots=256 * 30,
        slot_bytes=4 * sites * 64 + 20,
        evaluations=0,
        eval_tokens=0,
        cache_bytes=4 * sites * 64 + 12,
        lm=FACTS,
    )
    return replace(work, **changes)


def speed(work: Workload, threads: int, alone: float = 1.0, beside: float = 3.0) -> Calibration:
    times = (PhaseSeconds(1.0, alone, beside),)
    return Calibration(
        threads=threads,
        kept=0.5,
        row_seconds=1e-3,
        draw_seconds=0.25,
        shapes={part.shape: times for part in work.parts},
        clean_seconds=5.0,
        probe_seconds=2.0,
        took=1.0,
        quiet=True,
        reason="",
    )


def test_side_by_side_from_as_many_saes_as_threads_on() -> None:
    work = run()
    pool = speed(work, threads=2)
    assert pool.step_seconds(work.parts[:1]) == 1.0  # alone, with both threads
    assert pool.step_seconds(work.parts[:2]) == 3.0
    assert pool.step_seconds(work.parts[:3]) == 6.0  # one thread has two
    assert speed(work, threads=1).step_seconds(work.parts) == 4.0


def test_phases_that_end_at_different_times() -> None:
    """0 to 0.1 both slow, to 0.5 one of them, then both fast."""
    work = run(sites=1, variants=2)
    one, two = work.parts
    times = {
        one.shape: (PhaseSeconds(0.1, 10.0, None), PhaseSeconds(0.9, 1.0, None)),
        two.shape: (PhaseSeconds(0.5, 20.0, None), PhaseSeconds(0.5, 2.0, None)),
    }
    found = replace(speed(work, 1), shapes=times).step_seconds(work.parts)
    assert found == pytest.approx(0.1 * 30 + 0.4 * 21 + 0.5 * 3)


def test_seconds_add_up() -> None:
    work = run(evaluations=3, eval_tokens=100)
    found = predicted(work, speed(work, threads=1))
    assert found.seconds is not None
    assert found.lm_tokens == 2 * 4 * 256 * 30  # four whole fills, half of whose tokens are rows
    assert found.seconds.lm == pytest.approx(4 * 7680e-3)
    assert found.seconds.first_fill == pytest.approx(7.68)
    assert found.seconds.draws == 100 * 4 * 0.25
    assert found.seconds.steps == 400
    assert found.seconds.evaluation == 5 + 3 * 4 * 2
    assert found.seconds.total == pytest.approx(30.72 + 100 + 400 + 29)
    plain = found.to_json()
    assert json.loads(json.dumps(plain))["lm_tokens"] == found.lm_tokens
    assert plain["seconds"]["total"] == found.seconds.total
    assert plain["regimes"]["cached"]["seconds"] == pytest.approx(529)
    assert plain["regimes"]["cached"]["lm_share"] == 0


def test_exact_flops_and_bytes() -> None:
    work = run(evaluations=2, eval_tokens=50)
    found = predicted(work)
    assert found.seconds is None
    each = StepWork().flops(64, 512, 8.0, 256).total
    assert found.flops["saes"] == pytest.approx(4 * 25600 * each)
    assert found.flops["lm"] == 4 * 7680 * 1e6
    assert found.flops["evaluation"] == 2 * 50 * (4 * 2e6 + 4 * 2 * 64 * 512)
    assert found.authors_flops == {
        "lm": authors_lm(25600.0, 4, 64),
        "saes": 4 * authors_sae(25600.0, 64, 512),
    }
    parameters = 2 * 64 * 512 + 512 + 64
    assert found.parameters == 4 * parameters
    assert found.memory["weights"] == found.disk["suites"] == 16 * parameters
    assert found.memory["moments"] == 32 * parameters
    assert found.memory["gradients"] == 4 * parameters
    assert found.memory["ring"] == 7680 * work.slot_bytes
    assert found.disk["checkpoints"] == 2 * (48 * parameters + 8 * 4 * 512)
    assert found.disk["cache"] == 25600 * work.cache_bytes


def test_the_saving_of_every_number_of_groups() -> None:
    work = run(sites=5, variants=2)
    found = predicted(work, speed(work, threads=1)).groups
    assert [row.groups for row in found] == [1, 2, 3, 4, 5]
    assert found[-1].saving == found[-1].authors_saving == found[-1].seconds_saving == 0
    savings = [row.saving for row in found]
    assert savings == sorted(savings, reverse=True)
    lm, sae = authors_lm(25600.0, 4, 64), authors_sae(25600.0, 64, 512)
    assert found[1].authors_saving == pytest.approx(saving(lm, sae, 2, 5))
    alone = replace(work, parts=work.parts[:5])  # the table is of the first variant's SAEs
    assert found[-1].flops == sum(predicted(alone, speed(work, threads=1)).flops.values())
    assert predicted(run(sites=1)).groups == ()


def test_fewer_saes_than_threads_on_more_sites_than_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One SAE for all sites is stepped alone, but the table goes up to one SAE per site."""
    monkeypatch.setattr(calibrate, "_MOST_ROUNDS", 1)
    whole = run(sites=4)
    shared = replace(whole.parts[0], sites=tuple(whole.planes))
    work = replace(whole, parts=(shared,), threads=2)
    x = {site: torch.randn(work.batch, 64) for site in work.planes}
    steps = calibrate._steps(work, x, torch.device("cpu"), "float32", 0.01)
    found = predicted(work, replace(speed(work, threads=2), shapes=steps))
    assert all(row.seconds is not None for row in found.groups)


def test_what_is_assumed_is_said() -> None:
    part = Part("v", "gated", {"width": 512}, 64, ("layers.0",))
    lines = predicted(run(sites=1, parts=(part,))).assumptions
    assert any(line.startswith("gated: half of all latents active for 5%") for line in lines)
    assert any("AuxK" in line for line in lines)


SMALL = [
    "--set", "train.tokens=4096", "--set", "train.batch=512", "--set", "train.eval_tokens=256",
    "--set", "buffer.memory=4MiB", "--set", "buffer.lm_batch=512", "--set", "train.eval_every=4",
    "--set", "text.max_documents=300", "--set", "sites=[0@resid, 1@resid]",
]  # fmt: skip


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "_MOST_ROUNDS", 2)
    monkeypatch.setattr(Neighbours, "verdict", lambda self: (True, "nobody else"))
    saes = ["--set", "saes=[{arch: topk, width: 64, k: 4}, {arch: relu, width: 64, target_l0: 4}]"]
    out = tmp_path / "cost.json"
    assert main(["cost", *SMALL, *saes, "--json", "--out", str(out)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads(out.read_text())
    assert values["saes"] == 4
    assert values["seconds"]["total"] > 0
    assert all(seconds > 0 for seconds in values["seconds"].values())
    assert 0 < values["calibration"]["kept"] <= 1
    assert [row["groups"] for row in values["groups"]] == [1, 2]
    assert values["regimes"]["online"]["seconds"] > values["regimes"]["cached"]["seconds"]


def test_a_busy_machine_predicts_no_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "_MOST_ROUNDS", 2)
    busy = "other processes kept 1.50 cores busy"
    monkeypatch.setattr(Neighbours, "verdict", lambda self: (False, busy))
    saes = ["--set", "saes=[{arch: topk, width: 64, k: 4}]"]
    assert main(["cost", *SMALL, *saes]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"but {busy}: no seconds are predicted" in said
    assert not re.search(r"\d (s|min|h) ", said.partition("Calibrated")[0])
    out = ["--out", str(tmp_path / "run"), "--set", "train.eval_every=0"]
    assert main(["train", *SMALL, *saes, *out, "--cost"]) == 0
    said = capsys.readouterr().out
    assert f"predicted: no seconds, but {busy}" in said
    assert re.search(r"trained in \d+ s; no seconds were predicted", said)
    written = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert written["seconds"] is None and written["measured_seconds"] > 0
    monkeypatch.setattr(Neighbours, "verdict", lambda self: (None, "cannot tell: nothing here"))
    assert main(["cost", *SMALL, *saes]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(cannot tell: nothing here): seconds are too many if" in said


def test_the_command_without_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *SMALL, "--text", "./none.txt", "--no-calibrate"]) == 0  # reads no text
    said = capsys.readouterr().out
    assert "language model" in said
    assert "G" in said
    assert "Calibrated" not in said
    assert main(["cost", *SMALL, "--text", "./none.txt"]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_groups_of_a_run_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    groups = ["--set", "groups=[per-site, {groups: [[layers.0, layers.1]]}]"]
    assert main(["cost", *SMALL, *groups, "--no-calibrate", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["saes"] == 3  # two per site, and one that both share
    assert [row["groups"] for row in values["groups"]] == [1, 2]


def test_text_of_which_nothing_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *SMALL, "--set", "text.exclude_first=128"]) == 2
    assert "text.exclude_first = 128" in capsys.readouterr().err


def test_bad_input_is_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--set", "train.bach=1"]) == 2
    assert "did you mean 'batch'" in capsys.readouterr().err


SWITCH: dict[str, dict[str, Any]] = {
    "switch": {},
    "heaviside": {},
    "shared": {},
    "top-n": {"active": 3},
    "expert-choice": {"active": 2},
    "bias": {},
    "layer": {},
    "supervised": {"labels": 2},
}


def switch_reference(sae: Any, x_BD: Tensor, visits: int) -> Tensor:
    """A Switch step in which only the encoders of a token's experts are dense matmuls, as many
    tokens at each; decoding is a dense matmul of the k active rows, token by token."""
    n, d = sae.config.experts, sae.d
    logits_BN = (x_BD - sae.b_router) @ sae.w_router.T
    per_expert = len(x_BD) * visits // n
    sent_NbD = x_BD.repeat(visits, 1)[: per_expert * n].view(n, per_expert, d)
    z_NbE = torch.bmm(sent_NbD, sae.w_enc.view(n, -1, d).mT)
    f_BK = z_NbE.flatten()[: len(x_BD) * sae.config.k].view(len(x_BD), 1, -1)
    rows_BKD = sae.w_dec[torch.arange(sae.config.k)].expand(len(x_BD), -1, -1)
    return logits_BN.sum() + torch.bmm(f_BK, rows_BKD).square().sum()


@pytest.mark.parametrize("router", list(SWITCH))
def test_switch_against_torchs_counter_on_a_dense_reference(router: str) -> None:
    """Forward: router, the encoders of as many experts as a token visits, k decoder rows."""
    rows, d, k, n = 256, 24, 4, 8
    sae = build_sae("switch", d, width=96, k=k, experts=n, router=router, **SWITCH[router])
    visits = {"shared": 2, "top-n": 3, "expert-choice": 2}.get(router, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        switch_reference(sae, torch.randn(rows, d), visits)
    ours = sae.flops(float(k), rows)
    once = 2 * d * n  # W_r b_router: once per step
    assert counter.get_total_flops() == sum(ours.forward.values()) * rows - once
    assert ours.backward["router"] * rows - 2 * once == rows * 2 * d * n
    assert ours.backward["w_enc"] == ours.backward["w_dec"] == ours.backward["values"] == 2 * d * k


@pytest.mark.parametrize("router", [r for r in SWITCH if r not in ("expert-choice", "supervised")])
def test_dense_part_of_a_switch_step_against_torchs_counter(router: str) -> None:
    """The counter sees the encoders that ran, the router and b_dec's gradient: what is computed is
    what was promised, and no more."""
    rows, d, k = 256, 24, 4
    sae = build_sae("switch", d, width=96, k=k, experts=8, router=router, **SWITCH[router])
    x_BD = torch.randn(rows, d)
    sae.initialise(x_BD, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        out = sae.step(Batch(x_BD, x_BD), Context(torch.empty(0, dtype=torch.int64), 0.5))
        torch.stack(list(out.loss_terms.values())).sum().backward()
    ours = sae.flops(float(k), rows)
    dense = ours.forward["encoder"] + ours.forward["router"]
    dense += ours.backward["router"] + ours.backward["b_dec"]
    unseen = 3 * 2 * d * 8  # W_r b_router and its gradients: matrix times vector
    assert counter.get_total_flops() + unseen == pytest.approx(dense * rows, rel=1e-9)


def test_the_published_savings_of_switch() -> None:
    """GPT-2 small, M = 24576, k = 64: forward 15.2, 28.5, 48 and 64 times less."""
    options: dict[str, Any] = {"d": 768, "width": 24576, "k": 64, "batch": 10**12}
    dense = sum(flops("topk", **options).forward.values())
    found = [
        dense / sum(flops("switch", experts=n, **options).forward.values())
        for n in (16, 32, 64, 128)
    ]
    assert found == pytest.approx([15.2, 28.5, 48, 64], rel=0.01)


@pytest.mark.parametrize("arch", ["switch", "relu", "jumprelu", "topk"])
def test_what_is_spent_by_a_step(arch: str) -> None:
    """All of it at the end, and more with every step; a denser beginning counts as such."""
    options: dict[str, Any] = {"width": 64}
    options |= {"k": 4} if arch in ("switch", "topk") else {"target_l0": 5}
    sae = meta_sae(arch, 16, options)
    whole = sum(phase.share * sae.flops(phase.active, 32).total for phase in sae.phases)
    found = [spent(sae, 32, step, 40) for step in range(41)]
    assert found[0] == 0 and found[40] == pytest.approx(40 * 32 * whole)
    steps = [after - before for before, after in pairwise(found)]
    assert min(steps) > 0
    assert steps[0] >= steps[39] and (steps[0] > steps[39]) == (arch in ("relu", "jumprelu"))
