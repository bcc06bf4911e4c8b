"""Exact TopK over rows, in two rounds where that is faster."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8
"""Latents per group of the two-round selection."""
_WORTH = 32  # measured: from 32 latents per winner two rounds take 0.4 to 0.7 of one round's time


def padded_width(width: int, k: int, device: torch.device) -> int:
    """Columns of the buffer that `topk_rows` wants: more than `width` where it works in groups.

    The columns beyond `width` must hold −∞.
    """
    in_groups = device.type == "cpu" and width >= _WORTH * k
    return -(-width // GROUP) * GROUP if in_groups else width


def topk_rows(
    pre_tM: Float[Tensor, "t M"], k: int
) -> tuple[Float[Tensor, "t K"], Int[Tensor, "t K"]]:
    """The k largest of each row, in no particular order; ties fall the same way every time.

    In two rounds: the row's C = M/8 columns of latents m, m + C, m + 2C, … are ranked by their
    maxima; the k largest values lie in the k best columns, since each better column has a value
    that is at least as large. Maxima vectorise where a heap does not.
    """
    rows, width = pre_tM.shape
    if pre_tM.device.type != "cpu" or width % GROUP or width < _WORTH * k:
        values, indices = pre_tM.topk(k, dim=1, sorted=False)
        return values, indices
    columns = width // GROUP
    maxima_tC = pre_tM.view(rows, GROUP, columns).amax(1)
    best_tK1 = maxima_tC.topk(k, dim=1, sorted=False).indices.unsqueeze(2)
    members = torch.arange(0, width, columns, device=pre_tM.device)
    candidates = (best_tK1 + members).view(rows, k * GROUP)
    values, places = pre_tM.gather(1, candidates).topk(k, dim=1, sorted=False)
    return values, candidates.gather(1, places)
