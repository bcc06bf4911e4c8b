"""Tokens whose activations are many times as long as the others': how many there are, and how much
of the variance is theirs.

A few tokens (attention sinks, a frequent separator) may have norms hundreds of times the median.
Then the mean and scale of a site, the loss and the FVU are theirs, whatever becomes of all others.
Shapes: N tokens, D model width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeworks.dictionary.normaliser import CHUNK

FAR = 10.0
"""A token counts as an outlier where its norm is above so many times the site's median norm."""
NOTABLE = 0.01
"""Share of the variance from which outliers are warned of."""


@dataclass(frozen=True)
class Outliers:
    """Those of one site.

    Attributes:
        share: of the tokens.
        variance: their share of Σ‖x − x̄‖².
        largest: norm, in medians.
    """

    share: float
    variance: float
    largest: float

    @classmethod
    def of(cls, x_ND: Float[Tensor, "N D"]) -> "Outliers":
        """Count them."""
        norm_N = norms(x_ND)
        median = norm_N.median().clamp_min(torch.finfo(norm_N.dtype).tiny)
        far_N = norm_N > FAR * median
        if not bool(far_N.any()):
            return cls(0.0, 0.0, float(norm_N.max() / median))
        mean_D = x_ND.mean(0, dtype=torch.float64).float()
        square_N = torch.cat([(part - mean_D).square().sum(1) for part in torch.split(x_ND, CHUNK)])
        variance = square_N[far_N].sum(dtype=torch.float64) / square_N.sum(dtype=torch.float64)
        share = far_N.double().mean()
        return cls(float(share), float(variance), float(norm_N.max() / median))


def norms(x_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """‖x‖ in float32, a part of the rows at a time."""
    return torch.cat([part.float().norm(dim=1) for part in torch.split(x_ND, CHUNK)])


def beyond(x_ND: Float[Tensor, "N D"], limit: float) -> Bool[Tensor, " N"]:
    """Rows with a norm above the limit; NaN and Inf are none but faults, refused elsewhere."""
    norm_N = norms(x_ND)
    return (norm_N > limit) & norm_N.isfinite()


def warning(by_site: Mapping[str, Outliers]) -> str | None:
    """What to know before training on them, of the three worst sites; None where they are few."""
    worst = sorted(
        (site for site, measured in by_site.items() if measured.variance >= NOTABLE),
        key=lambda site: -by_site[site].variance,
    )
    if not worst:
        return None
    sentences = [
        f"{site} {by_site[site].share:.2%} of the tokens (norms up to {by_site[site].largest:,.0f} "
        f"medians) have {by_site[site].variance:.1%} of the variance"
        for site in worst[:3]
    ]
    more = f", and so on at {len(worst) - 3} more sites" if len(worst) > 3 else ""
    return (
        f"outlier tokens, of a norm above {FAR:.0f} times the median: at {'; at '.join(sentences)}"
        f"{more}. Loss and FVU are mostly theirs; buffer.exclude_norm_above={FAR:.0f} leaves them "
        "out of training and evaluation"
    )
