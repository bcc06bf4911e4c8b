"""Distances of five sites at random, for tests of plans."""

from typing import Any

import numpy as np

from saeworks.groups.distances import AngularDistances

SITES = tuple(f"layers.{i}" for i in range(5))


def measured(seed: int = 0) -> AngularDistances:
    rng = np.random.default_rng(seed)

    def matrix(low: float, high: float) -> Any:
        half = np.triu(rng.uniform(low, high, (5, 5)), 1)
        return half + half.T

    return AngularDistances(
        sites=SITES,
        raw=matrix(0.1, 0.5),
        centred=matrix(0.2, 0.6),
        stderr=matrix(0, 0.01),
        stderr_centred=np.full((5, 5), np.nan),
        tokens=1000,
        documents=1,
        mean_tokens=100,
        model="tiny",
        fingerprint="f" * 64,
        text={"source": "embedded", "context": 128},
        seed=3,
    )
