"""The three sparse primitives that carry decoding and every gradient.

Codes are (values, indices) [B, K], or [nnz] with offsets [B + 1]. They carry no gradient of their
own: `saeworks.dictionary.autograd` builds the autograd functions from them. On CUDA they are Triton
kernels (`saeworks.dictionary.triton`); elsewhere, and where triton is not installed, torch's
embedding bags. Neither ever writes the gathered rows: nothing of size [B·K, D] and no dense [B, M].
Nothing here waits for the device.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM = 0  # aten's number for embedding_bag's mode="sum"
_TRITON_TYPES = (torch.float32, torch.bfloat16)
"""What the Triton kernels work on; float64 is torch's everywhere."""
TRITON_DEVICES = frozenset({"cuda"})
"""Where they do; tests add the CPU, with Triton's interpreter."""


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def triton_runs(tensor: Tensor) -> bool:
    """Whether work on this tensor is Triton's: the one place where the path is chosen."""
    on_device = tensor.device.type in TRITON_DEVICES and tensor.dtype in _TRITON_TYPES
    return on_device and _has_triton()


@dataclass(frozen=True)
class SortedPairs:
    """The (token, latent) pairs of a batch in the order of their latents, as a weight's gradient
    walks over them; tokens ascend within a latent.

    Attributes:
        order: the sorted pairs' places in the code's flattened values.
        row: the token of each.
        starts: latent m owns the sorted pairs starts[m]:starts[m + 1].
    """

    order: Int[Tensor, " pairs"]
    row: Int[Tensor, " pairs"]
    starts: Int[Tensor, " M_plus_1"]


def pair_rows(
    indices: Int[Tensor, "*pairs"], offsets: Int[Tensor, " rows_plus_1"] | None = None
) -> Int[Tensor, " flat_pairs"]:
    """The token of every pair, in the code's own order."""
    count = indices.numel()
    place = torch.arange(count, device=indices.device)
    if offsets is None:
        return place.div_(max(indices.shape[-1], 1), rounding_mode="floor")
    return torch.searchsorted(offsets, place, right=True).sub_(1)


def counts(index_n: Int[Tensor, " n"], size: int) -> Int[Tensor, " size"]:
    """How often each of the first numbers from 0 is there: `bincount`, which waits for a GPU to say
    which is the largest. Whole numbers are added, so the order does not matter."""
    return torch.zeros(size, dtype=torch.int64, device=index_n.device).index_add_(
        0, index_n, torch.ones_like(index_n, dtype=torch.int64)
    )


def sort_pairs(
    indices: Int[Tensor, "*pairs"],
    width: int,
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> SortedPairs:
    """Sort a code's pairs by latent, once for all weight gradients of a step.

    Args:
        indices: [B, K], or [nnz] with `offsets`.
        width: M.
    """
    latent, order = indices.reshape(-1).int().sort(stable=True)  # half the time of int64
    bounds = torch.arange(width + 1, dtype=torch.int32, device=indices.device)
    starts = torch.searchsorted(latent, bounds)
    if offsets is None:
        row = order.div(max(indices.shape[-1], 1), rounding_mode="floor")
    else:
        row = pair_rows(indices, offsets)[order]
    return SortedPairs(order, row, starts)


def gather_sum(
    values: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    table_MD: Float[Tensor, "M D"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "B D"]:
    """out[b] = Σ_j values[b, j] · table[indices[b, j]]: a bag per token."""
    if triton_runs(table_MD):
        from saeworks.dictionary.triton import pairs as gpu

        return gpu.gather_sum(values, indices, table_MD, offsets)
    if indices.numel() == 0:
        rows = indices.shape[0] if offsets is None else offsets.shape[0] - 1
        return table_MD.new_zeros(rows, table_MD.shape[1])
    return embedding_bag(
        indices,
        table_MD,
        offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=offsets is not None,
    )


def gather_dot(
    rows_BD: Float[Tensor, "B D"],
    table_MD: Float[Tensor, "M D"],
    indices: Int[Tensor, "*pairs"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "*pairs"]:
    """out[b, j] = rows[b] · table[indices[b, j]]: the gradient of gather_sum's values."""
    if triton_runs(table_MD):
        from saeworks.dictionary.triton import pairs as gpu

        return gpu.gather_dot(rows_BD, table_MD, indices, offsets)
    if indices.numel() == 0:
        return rows_BD.new_zeros(indices.shape)
    row = pair_rows(indices, offsets)
    if offsets is None:
        step = indices.shape[-1]
        offsets = torch.arange(0, indices.numel() + 1, step, device=row.device)
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows_BD.contiguous(), table_MD, indices.reshape(-1), offsets, row, _SUM
    )
    return dots.view(indices.shape)


def segment_outer(
    values: Float[Tensor, "*pairs"], rows_BD: Float[Tensor, "B D"], pairs: SortedPairs
) -> Float[Tensor, "M D"]:
    """out[m] = Σ over the pairs (b, j) of latent m of values[b, j] · rows[b]: a bag per latent,
    with the tokens' rows as the table."""
    if triton_runs(rows_BD):
        from saeworks.dictionary.triton import pairs as gpu

        return gpu.segment_outer(values, rows_BD, pairs.order, pairs.row, pairs.starts)
    if pairs.order.numel() == 0:
        return rows_BD.new_zeros(pairs.starts.shape[0] - 1, rows_BD.shape[1])
    return embedding_bag(
        pairs.row,
        rows_BD,
        pairs.starts,
        mode="sum",
        per_sample_weights=values.reshape(-1)[pairs.order],
        include_last_offset=True,
    )
