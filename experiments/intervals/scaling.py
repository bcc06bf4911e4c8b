"""How often the 95% interval of c in FVU(W) = c + a·W^(−m) holds c, over simulated SAEs.

Every FVU is off the law by another seed's chance (relative, normal) and by the documents that all
SAEs are measured on. Counted are all intervals, and those of which c is said to be identified.

    python -m experiments.intervals.scaling

writes results/scaling.json.
"""

from pathlib import Path

import numpy as np

from experiments.runs import write
from saeworks.measure.audit.scaling import power_law

RESULT = Path(__file__).parent / "results" / "scaling.json"
A, M = 3.0, 0.45
FLOORS = (0.0, 0.05)
SEED_NOISES = (0.0, 0.003, 0.01, 0.03)
DESIGNS = {"4 widths": (4, 1), "6 widths": (6, 1), "8 widths": (8, 1), "4 widths, 3 seeds": (4, 3)}
FAMILIES, RESAMPLES = 100, 150
SHARED, OWN = 0.02, 0.002
"""Relative standard deviation of the FVU over documents: of all SAEs alike, and of each alone."""


def simulated(floor: float, noise: float, widths: int, seeds: int) -> dict[str, float]:
    """Counts over `FAMILIES` families."""
    width_P = np.repeat(1024 * 2 ** np.arange(widths), seeds)
    law_P = floor + A * width_P.astype(float) ** -M
    rng = np.random.default_rng(0)
    counts = {"held": 0, "identified": 0, "identified_and_held": 0}
    for _ in range(FAMILIES):
        fvu_P = law_P * (1 + noise * rng.standard_normal(len(law_P)))
        fvu_P *= _documents(rng, 1, len(law_P))[0]
        draws_RP = fvu_P * _documents(rng, RESAMPLES, len(law_P))
        law = power_law(width_P.tolist(), fvu_P.tolist(), draws_RP)
        assert law.c.low is not None and law.c.high is not None
        held = law.c.low <= floor <= law.c.high
        counts["held"] += held
        counts["identified"] += law.identified
        counts["identified_and_held"] += held and law.identified
    return {"families": FAMILIES, **counts}


def _documents(rng: np.random.Generator, rows: int, saes: int) -> np.ndarray:
    shared_R1 = SHARED * rng.standard_normal((rows, 1))
    return 1 + shared_R1 + OWN * rng.standard_normal((rows, saes))


def main() -> None:
    rows = []
    for floor in FLOORS:
        for noise in SEED_NOISES:
            for name, design in DESIGNS.items():
                place = {"c": floor, "seed_noise": noise, "design": name}
                rows.append(place | simulated(floor, noise, *design))
                print(rows[-1], flush=True)
    about = {"a": A, "m": M, "resamples": RESAMPLES, "shared": SHARED, "own": OWN}
    write(RESULT, {"about": about, "simulated": rows})


if __name__ == "__main__":
    main()
