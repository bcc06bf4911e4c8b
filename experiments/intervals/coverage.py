"""How often 95% intervals hold the truth, where it is known.

    python -m experiments.intervals.coverage [{all,collect,table}]

About ten minutes on one core; `table` writes the tables again, from results/coverage.json.

*Documents*: populations of 200,000 documents of which the FVU, the R² of the error and ΔCE are
known; of 500 samples of 2 to 100 documents, the share whose interval holds them. *Fits*: errors of
known R² (0.53) in 32 dimensions, audited on so few tokens that fitting the map adds from 0.4% to
20% to what it leaves; tokens of a document are independent, or share half of the variance of x and
of the nonlinear part. Before: the percentiles of resamples of whole documents, and the squared
error of one map, as the package had them at first. After: what it does.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from experiments import tables
from experiments.runs import study
from saeworks.measure import bootstrap
from saeworks.measure.audit import folds
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.engine import SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Place
from saeworks.results.metric import Value

SAMPLES, RESAMPLES, POPULATION = 500, 400, 200_000
DOCUMENTS = (2, 3, 5, 8, 16, 32, 100)
Sums = dict[str, np.ndarray]


def population(rng: np.random.Generator, count: int, length: float, spread: float) -> Sums:
    """Documents whose lengths vary by exp(`length`·N(0, 1)), and whose FVU, share of the error that
    is nonlinear, and ΔCE vary log-normally by `spread`, three quarters of it and `spread`."""
    n = np.ceil(250 * np.exp(length * rng.standard_normal(count)))
    variance = n * np.exp(0.2 * rng.standard_normal(count))
    error = 0.15 * variance * np.exp(spread * rng.standard_normal(count))
    nonlinear = 0.4 * error * np.exp(0.75 * spread * rng.standard_normal(count))
    loss = 0.4 * n * np.exp(spread * rng.standard_normal(count))
    return {"n": n, "variance": variance, "error": error, "nonlinear": nonlinear, "loss": loss}


POPULATIONS: dict[str, tuple[float, float]] = {
    "packed alike, FVU ±20%": (0.05, 0.2),
    "packed alike, FVU ±50%": (0.05, 0.5),
    "lengths ×2, FVU ±30%": (0.7, 0.3),
    "packed alike, FVU ×2.2": (0.05, 0.8),
}
STATISTICS: dict[str, bootstrap.Statistic] = {
    "fvu": lambda s: s["error"] / s["variance"],
    "r2": lambda s: 1 - s["nonlinear"] / s["error"],
    "delta_ce": lambda s: s["loss"] / s["n"],
}


def percentiles(
    sums: Sums, statistics: Mapping[str, bootstrap.Statistic], seed: int
) -> dict[str, Value]:
    """The intervals that the package had at first."""
    rows = np.stack(list(sums.values()), axis=1)
    drawn = bootstrap.resampled_sums(rows, RESAMPLES, seed)
    total = dict(zip(sums, rows.sum(0), strict=True))
    by_name = dict(zip(sums, drawn.T, strict=True))
    intervals = {}
    for name, statistic in statistics.items():
        low, high = np.percentile(statistic(by_name), [2.5, 97.5])
        intervals[name] = Value(float(statistic(total)), float(low), float(high))
    return intervals


def documents() -> list[dict[str, Any]]:
    rows = []
    for name, (length, spread) in POPULATIONS.items():
        whole = population(np.random.default_rng(0), POPULATION, length, spread)
        truth = {
            key: float(of({sum_: np.asarray(v.sum()) for sum_, v in whole.items()}))
            for key, of in STATISTICS.items()
        }
        for count in DOCUMENTS:
            rng = np.random.default_rng(count)
            tally = Tally(truth)
            for seed in range(SAMPLES):
                at = rng.integers(0, POPULATION, count)
                sums = {key: column[at] for key, column in whole.items()}
                tally.add("before", percentiles(sums, STATISTICS, seed))
                after = bootstrap.estimate(sums, STATISTICS, RESAMPLES, seed)
                tally.add("after", after)
            row = {"population": name, "documents": count} | tally.shares()
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


class Tally:
    """How often intervals hold the truth; null where there were none."""

    def __init__(self, truth: Mapping[str, float]) -> None:
        self._truth = truth
        self._held: dict[tuple[str, str], list[bool]] = {}

    def add(self, method: str, values: Mapping[str, Value]) -> None:
        for key, truth in self._truth.items():
            value = values[key]
            held = self._held.setdefault((key, method), [])
            if value.low is not None and value.high is not None:
                held.append(value.low <= truth <= value.high)

    def shares(self) -> dict[str, dict[str, float | None]]:
        shares: dict[str, dict[str, float | None]] = {}
        for (key, method), held in self._held.items():
            share = round(float(np.mean(held)), 3) if held else None
            shares.setdefault(key, {})[method] = share
        return shares


WIDTH, R2, AUDITS = 32, 0.53, 100
FITS = (
    # documents, tokens of each, share of variance that a document's tokens have in common
    (400, 40, 0.0), (100, 40, 0.0), (40, 100, 0.0), (200, 10, 0.0), (100, 14, 0.0), (50, 14, 0.0),
    (40, 10, 0.0), (400, 40, 0.5), (100, 40, 0.5), (400, 10, 0.5), (200, 10, 0.5),
)  # fmt: skip


def audited(x: np.ndarray, e: np.ndarray, document: np.ndarray, seed: int) -> dict[str, Any]:
    """Of one set of activations and errors: both intervals of R², and the cost of the fit."""
    x_ND, e_ND, document_N = torch.from_numpy(x), torch.from_numpy(e), torch.from_numpy(document)
    tokens_R = np.bincount(document)
    folds_R = folds.assign(tokens_R, seed)
    site = SiteAudit("x", Place(x.shape[1], len(tokens_R), x_ND.device, seed), ["e"], base)
    fold_N = torch.from_numpy(folds_R)[document_N]
    for phase, fold in enumerate(folds.phases(folds_R)):
        at = fold_N == fold
        made = {"e": _known(x_ND[at] - e_ND[at])}
        site.add(phase, x_ND[at], Tokens(document_N[at]), made)
        site.finish(phase)
    values = site.saes["e"].values(RESAMPLES, seed)["vector"]
    sums = site.saes["e"].sums("vector")
    sums = {key: column[folds_R == folds.TEST] for key, column in sums.items()}
    one_map = {"r2": lambda s: 1 - s["u_squared"] / s["e_centred"]}
    return {
        "before": percentiles(sums, one_map, seed),
        "after": {"r2": values["r2_error"]},
        "cost": values["fit_cost"].value,
    }


def _known(x_hat_ND: torch.Tensor) -> Callable[[torch.Tensor], SaeOutput]:
    return lambda x_ND: SaeOutput(x_hat_ND)


def fits() -> list[dict[str, Any]]:
    rows = []
    for count, length, common in FITS:
        rng, tally = np.random.default_rng(count), Tally({"r2": R2})
        values: dict[str, list[float]] = {"before": [], "after": []}
        for seed in range(AUDITS):
            document = np.repeat(np.arange(count), length)
            x, u = (_tokens(rng, count, length, common) for _ in range(2))
            e = np.sqrt(R2) * x[:, ::-1] + np.sqrt(1 - R2) * u
            audit = audited(x, e, document, seed)
            for method in ("before", "after"):
                tally.add(method, audit[method])
                values[method].append(audit[method]["r2"].value)
        row = {
            "documents": count,
            "tokens": length,
            "common": common,
            "cost": round(audit["cost"], 4),
            "mean": {key: round(float(np.mean(of)), 4) for key, of in values.items()},
        } | tally.shares()
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def _tokens(rng: np.random.Generator, count: int, length: int, common: float) -> np.ndarray:
    """Standard normal rows [count·length, WIDTH] of which those of a document share a part."""
    shared = np.repeat(rng.standard_normal((count, WIDTH)), length, axis=0)
    own = rng.standard_normal((count * length, WIDTH))
    return np.sqrt(common) * shared + np.sqrt(1 - common) * own


def markdown(found: Mapping[str, Any]) -> str:
    documents = [
        [row["population"], row["documents"], *(_cell(row[key]) for key in STATISTICS)]
        for row in found["documents"]
    ]
    fitted = [
        [
            *(row["documents"], row["tokens"], row["common"], f"{row['cost']:.3f}"),
            f"{row['mean']['before']:.3f} → {row['mean']['after']:.3f}",
            _cell(row["r2"]),
        ]
        for row in found["fits"]
    ]
    head = ("documents", "tokens each", "common", "fit cost", "mean R²", "coverage")
    lines = [
        "# How often 95% intervals hold the truth",
        "",
        "`python -m experiments.intervals.coverage`; before → after. Before: percentiles of "
        "resamples of whole documents, one fitted map. After: the package's intervals "
        f"(`measure/bootstrap.py`), from {bootstrap.FEWEST} documents on, and an R² without the "
        "cost of the fit.",
        "",
        f"## Documents ({SAMPLES:,} samples each)",
        "",
        *tables.table(("population", "documents", "FVU", "R² of e", "ΔCE"), documents, "lrrrr"),
        "",
        f"## Fits ({AUDITS} audits each, R² {R2})",
        "",
        "Common: the share of the variance of x, and of the nonlinear part, that tokens of a "
        "document have in common. The cost is (rank + 1)/tokens of the fit fold.",
        "",
        *tables.table(head, fitted, "rrrrrr"),
    ]
    return "\n".join(lines) + "\n"


def _cell(shares: Mapping[str, float | None]) -> str:
    both = (shares["before"], shares["after"])
    return " → ".join("none" if share is None else f"{share:.3f}" for share in both)


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(__doc__, __file__, arguments),
        collect=lambda _: {"documents": documents(), "fits": fits()},
        table=lambda found, _: markdown(found),
    )


if __name__ == "__main__":
    main()
