"""The B·k largest pre-activations of a batch, without gradients: BatchTopK's selection.

Shapes: B tokens, D model width, M latents, nnz pairs; k active latents per token on average.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from saeworks.dictionary.selection import (
    PROBE_ROWS,
    Precision,
    Rounded,
    in_bf16,
    keep_pairs,
    select_above,
    tile_rows,
)
from saeworks.dictionary.stages import stage

THRESHOLD_DECAY = 0.95
"""Of a threshold's running mean. dictionary_learning takes 0.999 and begins at step 1000, for
runs of 10⁵ steps; here a run may have some hundred, and the smallest value falls throughout. A mean
over about 20 batches follows it (after 300 steps on synthetic data L0 is within 1% of k; 16% below
k with 0.99), and a batch's smallest value varies little: it is a quantile of B·M numbers."""
_MARGIN = 2
"""The floor lets about this many times k candidates per token through."""
_POOL = 2 * _MARGIN
"""Candidates beyond this many times B·k are cut to the B·k best at once."""


class Selected(NamedTuple):
    """Pairs in compressed rows, all with z > 0 or NaN, and the smallest z (0 for none): per site,
    if asked."""

    z: Float[Tensor, " nnz"]
    indices: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " rows_plus_1"]
    smallest: Float[Tensor, "*sites"]


class _Pairs(NamedTuple):
    z: Tensor
    indices: Tensor
    offsets: Tensor


@torch.no_grad()
def select_batch(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    b_dec_D: Float[Tensor, " D"],
    k: int,
    site_B: Int[Tensor, " B"] | None = None,
    sites: int | None = None,
    precision: Precision = "float32",
) -> Selected:
    """The B·k largest of all positive z = W_enc(x − b_dec) + b_enc in the batch, without
    gradients; all positive ones where they are fewer.

    Of equal ones those of the earlier token, then of the lower latent, stay. With several sites,
    the n·k largest among the n rows of each, and `smallest` is the mean over the sites; with their
    number given, it has one value for each.
    """
    weights = (w_enc_MD, b_enc_M, b_dec_D)
    if site_B is None:
        pairs = _largest(x_BD, *weights, k, precision)
        return Selected(*pairs, _smallest(pairs.z))
    present = torch.unique(site_B) if sites is None else range(sites)
    rows = [(site_B == site).nonzero().squeeze(1) for site in present]
    per_site = [_largest(x_BD[r], *weights, k, precision) for r in rows]
    if not per_site:
        pairs = _largest(x_BD, *weights, k, precision)
        return Selected(*pairs, _smallest(pairs.z))
    smallest = torch.stack([_smallest(f.z) for f in per_site])
    row = torch.cat(
        [r.repeat_interleave(f.offsets.diff()) for r, f in zip(rows, per_site, strict=True)]
    )
    order = row.argsort(stable=True)
    counts = row.bincount(minlength=x_BD.shape[0])
    return Selected(
        torch.cat([f.z for f in per_site])[order],
        torch.cat([f.indices for f in per_site])[order],
        pad(counts.cumsum(0), (1, 0)),
        smallest.mean() if sites is None else smallest,
    )


def running_threshold(
    threshold: Float[Tensor, "*of"],
    smallest: Float[Tensor, "*of"],
    first: Bool[Tensor, "*of"],
    without: Bool[Tensor, "*of"],
) -> Float[Tensor, "*of"]:
    """θ ← 0.95 θ + 0.05 · the smallest value that a batch selected, with which inference then
    selects without the batch.

    Args:
        first: where θ has seen no batch yet: the smallest value is taken as it is.
        without: where the batch selected nothing: θ stays.
    """
    mean = torch.lerp(smallest, threshold, THRESHOLD_DECAY)
    return torch.where(without, threshold, torch.where(first, smallest, mean))


def _largest(
    x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, k: int, precision: Precision
) -> _Pairs:
    """The rows·k largest positive ones.

    A floor that leaves about 2k candidates per token is read off some rows. If the batch turns
    out to have fewer than rows·k above it, a second pass does without.
    """
    floor = _floor(x, w_enc, b_enc, b_dec, k)
    pairs = _largest_above(x, w_enc, b_enc, b_dec, k, floor, precision)
    if pairs.z.shape[0] < x.shape[0] * k and bool(floor > 0):
        pairs = _largest_above(x, w_enc, b_enc, b_dec, k, torch.zeros_like(floor), precision)
    return pairs


def _largest_above(
    x: Tensor,
    w_enc: Tensor,
    b_enc: Tensor,
    b_dec: Tensor,
    k: int,
    floor: Tensor,
    precision: Precision,
) -> _Pairs:
    """The rows·k largest above the floor; memory is bounded by a tile and a few times rows·k,
    however many are above it."""
    n = x.shape[0] * k
    tiles: list[_Pairs] = []
    candidates = 0
    rounded = Rounded.of(w_enc) if in_bf16(x, precision) else None
    for x_tD in torch.split(x, tile_rows(x, w_enc.shape[0])):
        pairs = select_above(x_tD, w_enc, b_enc, floor, b_dec, precision, rounded)
        tiles.append(_Pairs(*pairs))
        candidates += tiles[-1].z.shape[0]
        if candidates > _POOL * n:
            tiles = [_cut(tiles, n)]
            candidates = n
            floor = _rank(tiles[0].z).min()
    return _cut(tiles, n)


def _cut(tiles: list[_Pairs], n: int) -> _Pairs:
    """Consecutive tiles as one, with their n largest pairs; of equal ones the first stay."""
    with stage("select"):
        z, indices = torch.cat([t.z for t in tiles]), torch.cat([t.indices for t in tiles])
        counts = torch.cat([t.offsets.diff() for t in tiles])
        offsets = pad(counts.cumsum(0), (1, 0))
        excess = z.shape[0] - n
        if excess <= 0:
            return _Pairs(z, indices, offsets)
        rank = _rank(z)
        last = rank.kthvalue(excess + 1).values
        keep, tied = rank > last, rank == last
        keep |= tied & (tied.cumsum(0) <= n - keep.sum())
        place = keep.nonzero().squeeze(1)
        return _Pairs(z[place], indices[place], keep_pairs(offsets, keep))


def _floor(x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, k: int) -> Tensor:
    """The value, not below 0, that about 2k latents per token exceed in rows spread evenly over
    the batch."""
    rows, width = x.shape[0], w_enc.shape[0]
    wanted = _MARGIN * k
    if rows == 0 or wanted >= width:
        return x.new_zeros(())
    with stage("select"):
        probe = x[:: -(-rows // PROBE_ROWS)] - b_dec
        z = _rank(torch.addmm(b_enc, probe, w_enc.T).view(-1))
        return z.kthvalue(z.shape[0] - probe.shape[0] * wanted).values.clamp_min(0)


def _rank(z: Tensor) -> Tensor:
    """What z is ordered by: NaN comes first, so that it is selected and not lost."""
    return z.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _smallest(z: Tensor) -> Tensor:
    return z.min() if z.numel() else z.new_zeros(())
