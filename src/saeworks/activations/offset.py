"""How far a site's activations lie from the origin, beside how far they vary.

Where the mean is as long as the spread about it, and the normaliser leaves it in, SAEs that do not
subtract a bias from their input (JumpReLU) end with most latents dead; those that do (TopK) reach a
higher FVU where it is twice as long (`benchmarks/offset.py`).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary.normaliser import CHUNK

FAR_FROM_ORIGIN = 1.0
"""‖μ‖/‖σ‖ from which a run that does not centre warns."""


def mean_over_std(x_ND: Float[Tensor, "N D"]) -> float | None:
    """‖μ‖ / √(E‖x − μ‖²), in float64; None where x does not vary."""
    mean_D = x_ND.mean(0, dtype=torch.float64)
    square = sum(
        float((rows.double() - mean_D).square().sum()) for rows in torch.split(x_ND, CHUNK)
    )
    return float(mean_D.norm()) / (square / len(x_ND)) ** 0.5 if square > 0 else None


def offset_warning(ratios: Mapping[str, float | None]) -> str | None:
    """What to know before training on sites without centring; None where they are near the origin.

    Args:
        ratios: site → ‖μ‖/‖σ‖.
    """
    far = {site: ratio for site, ratio in ratios.items() if (ratio or 0.0) >= FAR_FROM_ORIGIN}
    if not far:
        return None
    worst = sorted(far, key=lambda site: -(far[site] or 0.0))
    named = ", ".join(f"{site} {far[site]:.1f}" for site in worst[:3])
    more = f", and {len(worst) - 3} more sites" if len(worst) > 3 else ""
    return (
        f"the normaliser does not centre, and the activations' mean is longer than their spread "
        f"(‖μ‖/‖σ‖: {named}{more}): expect dead latents or a higher FVU; set buffer.normaliser to "
        "centre-scale"
    )
