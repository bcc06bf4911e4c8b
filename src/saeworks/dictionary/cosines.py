"""Cosines between all of many directions, in tiles: nothing of size [L, L] exists.

Shapes: L directions, D model width, N blocks, t rows of a tile.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_COSINES = 2**23
"""Cosines that are in memory at once: 32 MiB."""


def unit(rows_LD: Float[Tensor, "L D"]) -> Float[Tensor, "L D"]:
    """Rows of norm 1 (0 stays 0), float32."""
    return torch.nn.functional.normalize(rows_LD.detach().float(), dim=1)


def tiles(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows such that a tile of cosines with all columns is small."""
    step = max(1, _COSINES // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def nearest(
    from_LD: Float[Tensor, "L D"], to_KD: Float[Tensor, "K D"], *, same: bool
) -> Float[Tensor, " L"]:
    """max over k of cos(from_l, to_k); −1 where there is none.

    Args:
        from_LD: unit rows.
        to_KD: unit rows.
        same: whether both are the same rows, so that each one's cosine with itself is left out.
    """
    best_L = from_LD.new_full((len(from_LD),), -1.0)
    if not len(to_KD):
        return best_L
    for part in tiles(len(from_LD), len(to_KD)):
        cosine_tK = from_LD[part] @ to_KD.T
        if same:
            cosine_tK.diagonal(part.start).fill_(-1.0)
        best_L[part] = cosine_tK.amax(1)
    return best_L.clamp_(-1.0, 1.0)


def leaders(
    rows_LD: Float[Tensor, "L D"], order_L: Int[Tensor, " L"], threshold: float
) -> Int[Tensor, " L"]:
    """Which row stands for each: going through `order`, a row joins the leader nearest to it if
    their cosine is above the threshold, and else becomes a leader itself.

    Every row is then within the threshold of its leader, which the chains of single linkage do not
    promise, and no two leaders are within it of each other.

    Args:
        order_L: a permutation: those that come first become leaders first.
    """
    sorted_LD = unit(rows_LD)[order_L]
    leader_L = torch.empty_like(order_L)
    kept_LD, kept = torch.empty_like(sorted_LD), 0
    place_L = torch.empty_like(order_L)  # in `sorted_LD`, of each leader that is kept
    step = 512
    for start in range(0, len(order_L), step):
        rows_tD = sorted_LD[start : start + step]
        best_t = rows_tD.new_full((len(rows_tD),), -1.0)
        nearest_t = torch.arange(start, start + len(rows_tD), device=order_L.device)
        for part in tiles(kept, len(rows_tD)):
            cosine_tk = rows_tD @ kept_LD[part].T
            closest_t, at_t = cosine_tk.max(1)
            better_t = closest_t > best_t
            best_t = torch.where(better_t, closest_t, best_t)
            nearest_t = torch.where(better_t, place_L[part][at_t], nearest_t)
        chosen_t, new = _within((rows_tD @ rows_tD.T).cpu().numpy(), best_t.tolist(), threshold)
        lead_t = torch.tensor(chosen_t, device=order_L.device)
        leader_L[start : start + len(rows_tD)] = torch.where(lead_t < 0, nearest_t, start + lead_t)
        kept_LD[kept : kept + len(new)] = rows_tD[new]
        place_L[kept : kept + len(new)] = start + torch.tensor(
            new, dtype=torch.int64, device=order_L.device
        )
        kept += len(new)
    out_L = torch.empty_like(leader_L)
    out_L[order_L] = order_L[leader_L]
    return out_L


def _within(
    cosine_tt: Float[np.ndarray, "t t"], best_t: list[float], threshold: float
) -> tuple[list[int], list[int]]:
    """One after the other, the leader of each row within the tile (itself, or a row before it), or
    −1 where the nearest is a leader of a tile before; and the tile's new leaders."""
    chosen: list[int] = []
    new: list[int] = []
    for row, best in enumerate(best_t):
        near, at = -1.0, row
        if new:
            at = new[int(cosine_tt[row, new].argmax())]
            near = float(cosine_tt[row, at])
        if max(near, best) <= threshold:
            new.append(row)
            chosen.append(row)
        else:
            chosen.append(at if near > best else -1)
    return chosen, new
