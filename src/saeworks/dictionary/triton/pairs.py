"""The three sparse primitives over (token, latent) pairs.

Shapes: B tokens, D model width, M latents, K active latents per token.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_PAIRS = 16
"""Pairs per inner iteration: their rows are loaded together, to hide the latency of a gather."""
_COLUMNS = 128
"""Columns of D per program of `gather_sum` and `segment_outer`, or per inner iteration: 512 bytes
of a float32 row, four whole sectors for each of a warp's threads."""


def gather_sum(
    values: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    table_MD: Float[Tensor, "M D"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "B D"]:
    """out[b] = Σ_j values[b, j] · table[indices[b, j]]; a program per token and `_COLUMNS`."""
    rows, per_row = _rows_of(indices, offsets)
    d = table_MD.shape[1]
    out_BD = table_MD.new_empty(rows, d)
    if out_BD.numel():
        block = _block(d)
        _gather_sum[rows, triton.cdiv(d, block)](
            *(values.contiguous(), indices.contiguous(), dense_rows(table_MD), offsets, out_BD),
            *(per_row, d, dense_rows(table_MD).stride(0)),
            RAGGED=offsets is not None,
            PAIRS=_PAIRS,
            COLUMNS=block,
        )
    return out_BD


def gather_dot(
    rows_BD: Float[Tensor, "B D"],
    table_MD: Float[Tensor, "M D"],
    indices: Int[Tensor, "*pairs"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "*pairs"]:
    """out[b, j] = rows[b] · table[indices[b, j]]; a program per token, whose row stays in L1."""
    rows, per_row = _rows_of(indices, offsets)
    out = torch.empty(indices.shape, dtype=rows_BD.dtype, device=rows_BD.device)
    if out.numel():
        rows_BD, table_MD = dense_rows(rows_BD), dense_rows(table_MD)
        _gather_dot[(rows,)](
            *(rows_BD, table_MD, indices.contiguous(), offsets, out),
            *(per_row, rows_BD.shape[1], rows_BD.stride(0), table_MD.stride(0)),
            RAGGED=offsets is not None,
            PAIRS=_PAIRS,
            COLUMNS=_block(rows_BD.shape[1]),
        )
    return out


def segment_outer(
    values: Float[Tensor, "*pairs"],
    rows_BD: Float[Tensor, "B D"],
    order: Int[Tensor, " pairs"],
    row: Int[Tensor, " pairs"],
    starts: Int[Tensor, " M_plus_1"],
) -> Float[Tensor, "M D"]:
    """out[m] = Σ over the pairs (b, j) of latent m of values[b, j] · rows[b], from the pairs sorted
    by latent (`SortedPairs`); a program per latent and `_COLUMNS`, which adds in the order of the
    tokens.

    A latent that fires on every token has one program read all B rows. At C they are 25 MB, which
    stay in the 50 MB of an H100's L2, so it reads them at the speed of its multiprocessor.
    """
    rows_BD = dense_rows(rows_BD)
    width, d = starts.shape[0] - 1, rows_BD.shape[1]
    out_MD = rows_BD.new_empty(width, d)
    if out_MD.numel():
        block = _block(d)
        _segment_outer[width, triton.cdiv(d, block)](
            *(values.contiguous(), rows_BD, order, row, starts, out_MD, d, rows_BD.stride(0)),
            PAIRS=_PAIRS,
            COLUMNS=block,
        )
    return out_MD


def dense_rows(table: Tensor) -> Tensor:
    """The tensor, or a copy where neighbours in a row are no neighbours in memory. Rows may lie
    apart: slices of columns, and of every second row, are read where they are."""
    return table if table.stride(1) == 1 else table.contiguous()


def _rows_of(indices: Tensor, offsets: Tensor | None) -> tuple[int, int]:
    """B and K; K is 0 where rows differ."""
    if offsets is None:
        return indices.shape[0], indices.shape[1]
    return offsets.shape[0] - 1, 0


def _block(d: int) -> int:
    return min(int(triton.next_power_of_2(d)), _COLUMNS)


@triton.jit
@no_type_check
def _span(row, offsets, per_row, RAGGED: tl.constexpr):
    """The token's pairs: first, last + 1."""
    if RAGGED:
        start = tl.load(offsets + row)
        end = tl.load(offsets + row + 1)
    else:
        start = row * per_row
        end = start + per_row
    return start, end


@triton.jit
@no_type_check
def _gather_sum(
    values,
    indices,
    table,
    offsets,
    out,
    per_row,
    d,
    table_stride,
    RAGGED: tl.constexpr,
    PAIRS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, end = _span(row, offsets, per_row, RAGGED)
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(start, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        index = tl.load(indices + pair, mask=pair < end, other=0).to(tl.int64)
        value = tl.load(values + pair, mask=pair < end, other=0).to(tl.float32)
        place = index[:, None] * table_stride + column[None, :]
        mask = (pair < end)[:, None] & (column < d)[None, :]
        rows = tl.load(table + place, mask=mask, other=0).to(tl.float32)
        total += tl.sum(value[:, None] * rows, 0)
    tl.store(out + row * d + column, total, mask=column < d)


@triton.jit
@no_type_check
def _gather_dot(
    rows,
    table,
    indices,
    offsets,
    out,
    per_row,
    d,
    rows_stride,
    table_stride,
    RAGGED: tl.constexpr,
    PAIRS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start, end = _span(row, offsets, per_row, RAGGED)
    for first in range(start, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        index = tl.load(indices + pair, mask=pair < end, other=0).to(tl.int64)
        total = tl.zeros([PAIRS], tl.float32)
        for left in range(0, d, COLUMNS):
            column = left + tl.arange(0, COLUMNS)
            x = tl.load(rows + row * rows_stride + column, mask=column < d, other=0)
            place = index[:, None] * table_stride + column[None, :]
            mask = (pair < end)[:, None] & (column < d)[None, :]
            weights = tl.load(table + place, mask=mask, other=0).to(tl.float32)
            total += tl.sum(x.to(tl.float32)[None, :] * weights, 1)
        tl.store(out + pair, total, mask=pair < end)


@triton.jit
@no_type_check
def _segment_outer(
    values,
    rows,
    order,
    row,
    starts,
    out,
    d,
    rows_stride,
    PAIRS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, end = tl.load(starts + latent), tl.load(starts + latent + 1)
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(start, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        place = tl.load(order + pair, mask=pair < end, other=0)
        value = tl.load(values + place, mask=pair < end, other=0).to(tl.float32)
        token = tl.load(row + pair, mask=pair < end, other=0).to(tl.int64)
        mask = (pair < end)[:, None] & (column < d)[None, :]
        x = tl.load(rows + token[:, None] * rows_stride + column[None, :], mask=mask, other=0)
        total += tl.sum(value[:, None] * x.to(tl.float32), 0)
    tl.store(out + latent * d + column, total, mask=column < d)
