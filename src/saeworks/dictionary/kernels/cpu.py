"""The three sparse primitives on torch's embedding bags, which multiply and sum rows of a table
without ever writing the gathered rows: nothing of size [B·K, D] and no dense [B, M].

Made for the CPU; the same operators exist on CUDA, and nothing here waits for the device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saeworks.dictionary.kernels.pairs import SortedPairs, pair_rows

_SUM = 0  # aten's number for embedding_bag's mode="sum"


def gather_sum(
    values: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    table_MD: Float[Tensor, "M D"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "B D"]:
    """out[b] = Σ_j values[b, j] · table[indices[b, j]]: a bag per token."""
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
