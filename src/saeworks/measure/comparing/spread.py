"""Over which of its sites each latent of a shared SAE fires.

Shapes: M latents, S sites of the group, in the model's order.
"""

import numpy as np
from jaxtyping import Float

from saeworks.results.comparison import Spread
from saeworks.results.series import Histogram

LIVES = 0.1
"""A latent lives where it fires at least this share as often as at the site where it does most."""
ROWS = 200
"""Rows of the heat map, at most."""
_BINS = 4
"""Bins of the histogram of effective sites, per site."""


def spread(frequency_SM: Float[np.ndarray, "S M"], sites: list[str]) -> Spread:
    """Summarise how often each latent fires at each site.

        p_sm = f_sm / Σ_s f_sm;  effective sites of m: exp(−Σ_s p_sm ln p_sm);  centre: Σ_s s·p_sm

    Every site is to have been counted on the same tokens, so that frequencies compare.
    """
    count, width = frequency_SM.shape
    frequency_SM = frequency_SM[:, frequency_SM.sum(axis=0) > 0]
    share_SM = frequency_SM / frequency_SM.sum(axis=0)
    lives_M = (frequency_SM >= LIVES * frequency_SM.max(axis=0)).sum(axis=0)
    logs_SM = np.log(share_SM, where=share_SM > 0, out=np.zeros_like(share_SM))
    effective_M = np.exp(-(share_SM * logs_SM).sum(axis=0)).clip(1.0, count)
    edges = np.linspace(1.0, count, _BINS * (count - 1) + 1)
    centre_M = np.arange(count) @ share_SM
    live = frequency_SM.shape[1]
    order_M = np.argsort(centre_M, kind="stable")
    rows = np.array_split(order_M, min(ROWS, live)) if live else []
    return Spread(
        sites=list(sites),
        live=live,
        silent=width - live,
        lives_at=np.bincount(lives_M, minlength=count + 1)[1:].tolist(),
        effective=float(effective_M.mean()) if live else None,
        effective_histogram=Histogram(
            edges.tolist(), np.histogram(effective_M, bins=edges)[0].tolist()
        ),
        share=[share_SM[:, row].mean(axis=1).round(5).tolist() for row in rows],
        latents=[len(row) for row in rows],
        lives=LIVES,
    )
