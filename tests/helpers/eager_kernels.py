"""The three sparse primitives, written plainly: what the fast ones are checked against.

They allocate [B·K, D].
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.kernels import SortedPairs, pair_rows


def gather_sum(
    values: Float[Tensor, "*pairs"],
    indices: Int[Tensor, "*pairs"],
    table_MD: Float[Tensor, "M D"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "B D"]:
    """out[b] = Σ_j values[b, j] · table[indices[b, j]]."""
    rows = indices.shape[0] if offsets is None else offsets.shape[0] - 1
    scaled = values.reshape(-1, 1) * table_MD[indices.reshape(-1)]
    out_BD = table_MD.new_zeros(rows, table_MD.shape[1])
    return out_BD.index_add(0, pair_rows(indices, offsets), scaled)


def gather_dot(
    rows_BD: Float[Tensor, "B D"],
    table_MD: Float[Tensor, "M D"],
    indices: Int[Tensor, "*pairs"],
    offsets: Int[Tensor, " rows_plus_1"] | None = None,
) -> Float[Tensor, "*pairs"]:
    """out[b, j] = rows[b] · table[indices[b, j]]."""
    dots = (rows_BD[pair_rows(indices, offsets)] * table_MD[indices.reshape(-1)]).sum(-1)
    return dots.view(indices.shape)


def segment_outer(
    values: Float[Tensor, "*pairs"], rows_BD: Float[Tensor, "B D"], pairs: SortedPairs
) -> Float[Tensor, "M D"]:
    """out[m] = Σ over the pairs (b, j) of latent m of values[b, j] · rows[b]."""
    width = pairs.starts.shape[0] - 1
    latent = torch.repeat_interleave(
        torch.arange(width, device=rows_BD.device), pairs.starts.diff()
    )
    scaled = values.reshape(-1)[pairs.order].unsqueeze(1) * rows_BD[pairs.row]
    return rows_BD.new_zeros(width, rows_BD.shape[1]).index_add(0, latent, scaled)
