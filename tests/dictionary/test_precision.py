"""Selection among candidates found in bf16: the sets of float32's, but for ties and near-ties."""

from typing import Any

import pytest
import torch

from helpers.tiny_saes import TINY, name
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.batch_selection import select_batch
from saeworks.dictionary.registry import build_sae
from saeworks.dictionary.selection import (
    candidate_margin,
    candidates,
    select_above,
    select_topk,
)
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

TIE = 1e-4
"""Pre-activations, of deviation 1 here, that are this near count as tied: float32 has 10⁻⁶."""


def problem(rows: int, d: int, width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=random)
    w = torch.randn(width, d, generator=random) / d**0.5
    b = 0.1 * torch.randn(width, generator=random)
    return x, w, b, 0.1 * torch.randn(d, generator=random)


def exact(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, b_dec: torch.Tensor) -> torch.Tensor:
    return (x - b_dec).double() @ w.double().T + b.double()


@pytest.mark.parametrize(
    ("rows", "d", "width", "k"),
    [(300, 64, 4096, 32), (7, 33, 1001, 5), (1, 16, 40, 30), (64, 768, 2048, 1), (3, 5, 9, 9)],
)
def test_the_k_largest_are_float32s(rows, d, width, k):
    x, w, b, b_dec = problem(rows, d, width)
    values, indices = select_topk(x, w, b, b_dec, k, "bf16")
    z = exact(x, w, b, b_dec)
    assert all(len(set(row)) == k for row in indices.tolist())
    torch.testing.assert_close(values.double(), z.gather(1, indices).relu(), atol=1e-5, rtol=1e-5)
    smallest = z.topk(k, dim=1).values[:, -1:].relu()
    assert (values.double() >= smallest - TIE).all()


def test_candidates_are_k_and_the_margin_in_either_precision():
    x, w, b, _ = problem(20, 32, 500)
    for precision in ("float32", "bf16"):
        assert candidates(x, w, b, 8, 5, precision).shape == (20, 13)
        assert candidates(x, w, b, 490, 50, precision).shape == (20, 500)
    best = (x @ w.T + b).topk(13, dim=1).indices.sort(1).values
    assert torch.equal(candidates(x, w, b, 8, 5, "float32").sort(1).values, best)


def test_the_margin_grows_with_k():
    assert [candidate_margin(k) for k in (1, 32, 64, 400)] == [8, 8, 16, 100]


@pytest.mark.parametrize("per_latent", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("rows", "d", "width"), [(300, 64, 1000), (5, 7, 33), (1, 1, 1)])
def test_pairs_above_a_floor_are_float32s(rows, d, width, shifted, per_latent):
    x, w, b, b_dec = problem(rows, d, width)
    b_dec = b_dec if shifted else torch.zeros(d)
    shift = b_dec if shifted else None
    floor = torch.linspace(0.5, 1.5, width) if per_latent else torch.tensor(1.0)
    z, latents, offsets = select_above(x, w, b, floor, shift, "bf16")
    values = exact(x, w, b, b_dec)
    over = values - floor
    row = torch.repeat_interleave(torch.arange(rows), offsets.diff())
    torch.testing.assert_close(z.double(), values[row, latents], atol=1e-5, rtol=1e-5)
    taken = torch.zeros(rows, width, dtype=torch.bool)
    taken[row, latents] = True
    assert (over[taken] > -TIE).all()
    assert (over[~taken] < TIE).all()
    assert all((part.diff() > 0).all() for part in latents.split(offsets.diff().tolist()))


@pytest.mark.parametrize("direction", ["one", "few", "equal"])
def test_no_pair_is_lost_where_the_roundings_of_all_dimensions_agree(direction):
    """Errors that add up rather than cancel: x and W that are constant, or nearly 0 but at some
    dimensions."""
    x, w, b, _ = problem(200, 64, 500)
    if direction == "one":
        x[:, 3] *= 1000
    elif direction == "few":
        w[:, 5:] *= 1e-3
    else:
        x = x[:, :1].expand(200, 64).contiguous()
        w = w[:, :1].expand(500, 64).contiguous()
    floor = torch.tensor(1.0)
    taken = select_above(x, w, b, floor, None, "bf16")
    expected = select_above(x, w, b, floor)
    assert torch.equal(taken[1], expected[1])
    assert torch.equal(taken[2], expected[2])


@pytest.mark.parametrize("k", [1, 8, 100])
def test_the_batchs_largest_are_float32s(k):
    x, w, b, b_dec = problem(300, 32, 400)
    ours, theirs = (select_batch(x, w, b, b_dec, k, precision=p) for p in ("bf16", "float32"))
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.offsets, theirs.offsets)
    torch.testing.assert_close(ours.z, theirs.z, atol=1e-5, rtol=1e-5)


def test_of_equal_latents_any_may_be_taken_but_as_many():
    x, w, b, b_dec = problem(50, 16, 20)
    w, b = w.repeat(10, 1), b.repeat(10)
    values, indices = select_topk(x, w, b, b_dec, 15, "bf16")
    expected = select_topk(x, w, b, b_dec, 15)[0]
    torch.testing.assert_close(values.sort(1).values, expected.sort(1).values)
    assert all(len(set(row)) == 15 for row in indices.tolist())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_row_is_seen_and_leaves_the_others_alone(bad):
    x, w, b, b_dec = problem(40, 16, 200)
    x[3, 2] = bad
    good = torch.arange(40) != 3
    values, indices = select_topk(x, w, b, b_dec, 5, "bf16")
    assert not values[3].isfinite().all()
    expected = select_topk(x[good], w, b, b_dec, 5, "bf16")[1]
    assert torch.equal(indices[good].sort(1).values, expected.sort(1).values)
    z, _, offsets = select_above(x, w, b, torch.tensor(0.5), b_dec, "bf16")
    assert not z[offsets[3] : offsets[4]].isfinite().all()
    counts = select_above(x, w, b, torch.tensor(0.5), b_dec)[2].diff()
    assert torch.equal(offsets.diff()[good], counts[good])


WIDE: dict[str, dict[str, Any]] = {
    "switch": {"experts": 2},
    "matryoshka": {"sizes": (30, 100, 400)},
}
"""Where TINY has too few latents for candidates to be fewer."""


def wide(arch: str) -> SAE:
    torch.manual_seed(0)
    options = {**TINY[arch], "width": 400, **WIDE.get(arch, {})}
    sae = build_sae(name(arch), d=32, **options)
    sae.initialise(data(64), torch.Generator().manual_seed(1))
    return sae


def data(rows: int, seed: int = 0) -> torch.Tensor:
    """Sums of a few directions out of 60, and noise."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(60, 32, generator=torch.Generator().manual_seed(9))
    active = torch.rand(rows, 60, generator=random).pow(8)
    return active @ directions + 0.1 * torch.randn(rows, 32, generator=random)


@pytest.mark.parametrize("trained", [False, True], ids=["initial", "trained"])
@pytest.mark.parametrize("arch", TINY)
def test_every_architectures_step_is_float32s(arch, trained):
    """Losses, statistics, reconstruction and gradients; AuxK among them."""
    sae = wide(arch)
    if trained:
        optimiser = DictionaryAdam(sae, 3e-3)
        for step in range(40):
            x = data(256, step + 1)
            dead = torch.arange(20)
            train_step(sae, optimiser, Batch(x, x), Context(dead, step / 40, "bf16"), 3e-3)
    x, results = data(300, 99), []
    for precision in ("float32", "bf16"):
        sae.zero_grad()
        out = sae.step(Batch(x, x), Context(torch.arange(100), 0.9, precision))
        torch.stack(list(out.loss_terms.values())).sum().backward()
        grads = {n: p.grad for n, p in sae.named_parameters() if p.grad is not None}
        results.append((out.loss_terms, out.stats, {"x_hat": out.x_hat.detach()}, grads))
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in sae.parameters())
    for expected, actual in zip(*results, strict=True):
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(actual[key], tensor, atol=2e-4, rtol=2e-4)


def test_float64_stays_float64():
    x, w, b, b_dec = (t.double() for t in problem(20, 16, 100))
    ours, theirs = (select_topk(x, w, b, b_dec, 5, p) for p in ("bf16", "float32"))
    assert all(map(torch.equal, ours, theirs))
    pairs = [select_above(x, w, b, b[0], b_dec, p) for p in ("bf16", "float32")]
    assert all(map(torch.equal, *pairs))
