"""Encoder and TopK without pre-activations in memory, for one dictionary or many groups of latents.

In two stages. A program of the first multiplies a tile of tokens with a tile of latents and writes
only the k largest of the tile's 256 pre-activations, each as 4 bytes and 2 for its place. Programs
of the second pick the k largest among 4096 of them at a time, until k are left.

Traffic at C (D 768, M 24576, B 8192, k + margin 40), where [B, M] in float32 are 805 MB: a matmul
that writes them and a TopK that reads them twice move 2.4 GB, 0.72 ms of an H100's 3.35 TB/s
(bfloat16: half). Here 96 tiles · 40 · 6 bytes · B = 189 MB are written and read once: 0.11 ms. From
k = 128 on a tile keeps half or more of what it computes, and the second stage is most of the cost.
The matmul itself reads W from memory once: programs that run together share a tile of latents, and
x [B, D] stays in L2.

The k-th largest is found by its bits, from the highest: count how many are at least a trial value.
That is a comparison and an addition per value and bit, without a sort's exchange of registers. With
bfloat16 factors, 20 bits are as exact as the product.

One fused stage instead, which carries a running TopK along all M, would write nothing, but has
B/128 = 64 programs for 132 multiprocessors. Which is faster has not been measured.

Shapes: B tokens, D model width, M latents, N groups, K latents that are kept per token.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.triton.pairs import dense_rows

_TOKENS, _LATENTS, _DEPTH = 128, 256, 64
"""Of a program's tile of pre-activations, and how much of D it loads at a time. 128 · 256 sums are
64 registers for each of 512 threads."""
_MERGED = 4096
"""Candidates per program of the second stage."""


@dataclass(frozen=True)
class Groups:
    """Which rows are encoded by which latents: group i has the rows rows[i]:rows[i + 1] and the
    latents latents[i]:latents[i + 1]. Both stay on the device.

    Attributes:
        most: no group has more latents.
    """

    rows: Int[Tensor, " N_plus_1"]
    latents: Int[Tensor, " N_plus_1"]
    most: int


def encoder_topk(
    x_BD: Float[Tensor, "B D"],
    w_MD: Float[Tensor, "M D"],
    bias_M: Float[Tensor, " M"] | None,
    k: int,
    groups: Groups | None = None,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The k largest of each row of Wx + b, within the row's group of latents: values in float32 and
    latents, which ascend; NaN is the largest, and of equal ones the lower latent stays.

    With bfloat16 factors values are compared, and returned, in 20 bits, rounded down. Where a group
    has fewer than k latents, the remaining values are −∞, at some valid latent.
    """
    rows, d = x_BD.shape
    if groups is None:
        bounds = torch.arange(2, device=x_BD.device)
        groups = Groups(bounds * rows, bounds * len(w_MD), len(w_MD))
    x_BD, w_MD = dense_rows(x_BD), dense_rows(w_MD)
    bits = 20 if x_BD.dtype == torch.bfloat16 else 32
    tiles, keep = triton.cdiv(groups.most, _LATENTS), min(k, _LATENTS)
    key = torch.empty(rows, tiles * keep, dtype=torch.uint32, device=x_BD.device)
    place = torch.empty_like(key, dtype=torch.int16)
    n = len(groups.rows) - 1
    if rows and k:
        grid = (triton.cdiv(rows, _TOKENS) + n - 1, tiles)  # each group may begin a tile
        _encode[grid](
            *(x_BD, w_MD, bias_M, groups.rows, groups.latents, key, place),
            *(n, d, x_BD.stride(0), w_MD.stride(0), keep, tiles),
            HAS_BIAS=bias_M is not None,
            GROUPS=triton.next_power_of_2(n),
            BITS=bits,
            TOKENS=_TOKENS,
            LATENTS=_LATENTS,
            DEPTH=_DEPTH,
            WIDEN=triton.knobs.runtime.interpret,  # it multiplies the bits of bfloat16
            num_warps=16,
        )
    latent = _first_latents(groups, rows)
    return _merged(key, place, latent, k, keep, bits)


def _first_latents(groups: Groups, rows: int) -> Int[Tensor, " B"]:
    """The first latent of each row's group."""
    row = torch.arange(rows, device=groups.rows.device)
    group = torch.searchsorted(groups.rows, row, right=True).sub_(1)
    return groups.latents[group]


def _merged(
    key: Tensor, place: Tensor, first: Tensor, k: int, keep: int, bits: int
) -> tuple[Tensor, Tensor]:
    """The k best of each row of the first stage's candidates."""
    rows, local = len(key), True
    while True:
        count = key.shape[1]
        block = min(max(_MERGED, triton.next_power_of_2(2 * k)), triton.next_power_of_2(count))
        blocks = triton.cdiv(count, block)
        best = torch.empty(rows, blocks * k, dtype=torch.uint32, device=key.device)
        at = torch.empty_like(best, dtype=torch.int64)
        last = blocks == 1
        value = torch.empty(best.shape if last else (0,), dtype=torch.float32, device=key.device)
        if best.numel():
            _merge[rows, blocks](
                *(key, place, first, best, at, value, count, k, keep),
                LOCAL=local,
                LAST=last,
                BITS=bits,
                BLOCK=block,
                LATENTS=_LATENTS,
                num_warps=8,
            )
        if last:
            return value, at
        key, place, local = best, at, False


@triton.jit
@no_type_check
def _ordered(z, BITS: tl.constexpr):
    """Keys in the order of float32 numbers, NaN above all, in BITS bits; none is 0."""
    bits = z.to(tl.uint32, bitcast=True)
    key = tl.where(bits >> 31 == 1, ~bits, bits | 0x80000000)
    key = tl.where(z != z, 0xFFFFFFFF, key)
    return (key >> (32 - BITS)) << (32 - BITS)


@triton.jit
@no_type_check
def _number(key):
    """What `_ordered` made a key of; −∞ of the key 0."""
    bits = tl.where(key >> 31 == 1, key & 0x7FFFFFFF, ~key)
    return tl.where(key == 0, float("-inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
@no_type_check
def _best(key, keep, BITS: tl.constexpr):
    """Which keys are among their row's `keep` largest, of equal ones the first; and how many of
    those stand before each."""
    least = tl.zeros([key.shape[0]], tl.uint32)  # the largest number that `keep` keys reach
    for step in range(BITS):
        trial = least | (tl.full([key.shape[0]], 1, tl.uint32) << (31 - step))
        reached = tl.sum((key >= trial[:, None]).to(tl.int32), 1)
        least = tl.where(reached >= keep, trial, least)
    above, equal = key > least[:, None], key == least[:, None]
    spare = keep - tl.sum(above.to(tl.int32), 1)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 1) <= spare[:, None]))
    return chosen, tl.cumsum(chosen.to(tl.int32), 1) - 1


@triton.jit
@no_type_check
def _tile_of(tile, rows, n, GROUPS: tl.constexpr, TOKENS: tl.constexpr):
    """The group of a tile of tokens, its first row and the group's last + 1; group ≥ n for none.
    Each group begins a tile of its own."""
    group = tl.arange(0, GROUPS)
    first = tl.load(rows + group, mask=group < n, other=0)
    last = tl.load(rows + group + 1, mask=group < n, other=0)
    tiles = (last - first + TOKENS - 1) // TOKENS
    ends = tl.cumsum(tiles, 0)
    mine = tl.sum((ends <= tile).to(tl.int32), 0)
    here = group == mine
    start = tl.sum(tl.where(here, first + (tile - ends + tiles) * TOKENS, 0), 0)
    return mine, start, tl.sum(tl.where(here, last, 0), 0)


@triton.jit
@no_type_check
def _encode(
    x,
    w,
    bias,
    group_rows,
    group_latents,
    keys,
    places,
    n,
    d,
    x_stride,
    w_stride,
    keep,
    tiles,
    HAS_BIAS: tl.constexpr,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    LATENTS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    group, start, end = _tile_of(tl.program_id(0), group_rows, n, GROUPS, TOKENS)
    if group < n:
        row = (start + tl.arange(0, TOKENS)).to(tl.int64)
        place = tl.arange(0, LATENTS)
        latent = tl.load(group_latents + group) + tl.program_id(1) * LATENTS + place
        is_row, is_latent = row < end, latent < tl.load(group_latents + group + 1)
        z = tl.zeros([TOKENS, LATENTS], tl.float32)
        for left in range(0, d, DEPTH):
            column = left + tl.arange(0, DEPTH)
            x_at = row[:, None] * x_stride + column[None, :]
            x_tile = tl.load(x + x_at, mask=is_row[:, None] & (column < d)[None, :], other=0)
            w_at = latent.to(tl.int64)[None, :] * w_stride + column[:, None]
            w_tile = tl.load(w + w_at, mask=is_latent[None, :] & (column < d)[:, None], other=0)
            if WIDEN:
                x_tile, w_tile = x_tile.to(tl.float32), w_tile.to(tl.float32)
            z = tl.dot(x_tile, w_tile, z, input_precision="ieee")
        if HAS_BIAS:
            z += tl.load(bias + latent, mask=is_latent, other=0).to(tl.float32)[None, :]
        key = tl.where(is_latent[None, :], _ordered(z, BITS), 0)
        chosen, rank = _best(key, keep, BITS)
        slot = (row * tiles + tl.program_id(1))[:, None] * keep + rank
        chosen = chosen & is_row[:, None]
        tl.store(keys + slot, key, mask=chosen)
        number = tl.broadcast_to(place.to(tl.int16)[None, :], [TOKENS, LATENTS])
        tl.store(places + slot, number, mask=chosen)


@triton.jit
@no_type_check
def _merge(
    keys,
    places,
    first,
    best,
    latents,
    values,
    count,
    k,
    keep,
    LOCAL: tl.constexpr,
    LAST: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    LATENTS: tl.constexpr,
):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = block * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + row * count + slot, mask=slot < count, other=0)
    latent = tl.load(places + row * count + slot, mask=slot < count, other=0).to(tl.int64)
    if LOCAL:  # places within a tile of latents: a place that is none is turned into the first
        base = tl.load(first + row)
        latent = tl.where(key == 0, base, base + (slot // keep) * LATENTS + latent)
    chosen, rank = _best(key[None, :], k, BITS)
    at = (row * tl.num_programs(1) + block) * k + rank
    tl.store(latents + at, latent[None, :], mask=chosen)
    if LAST:
        tl.store(values + at, _number(key)[None, :], mask=chosen)
    else:
        tl.store(best + at, key[None, :], mask=chosen)
