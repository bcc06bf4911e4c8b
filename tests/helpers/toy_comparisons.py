"""Comparisons of made-up numbers, as `saeworks compare` writes them."""

from saeworks.measure.comparing import alignment
from saeworks.results.comparison import (
    Alignment,
    Comparison,
    Matched,
    Named,
    Paired,
    SiteAlignment,
    Spread,
)
from saeworks.results.metric import Metric, Value
from saeworks.results.series import Histogram

SITES = ("layers.0", "layers.1", "layers.2")


def interval(value: float) -> Value:
    return Value(value, value - 0.01, value + 0.01)


def pair(own: float, other: float, ratio: bool = True) -> Paired:
    values = (interval(own), interval(other), interval(own - other))
    return Paired(*values, interval(own / other) if ratio else None)


def comparison(base: str, gap: float, groups: dict[str, list[str]]) -> Comparison:
    values = {
        site: {"fvu": pair(0.1 + at + gap, 0.1 + at), "delta_ce": pair(0.2 + gap, 0.2, False)}
        for at, site in enumerate(SITES)
    }
    matched = Matched(0.5, 0.25)
    return Comparison(
        suite=Named(".", "x", 0),
        baseline=Named(f"../{base}", base, 0),
        seeds=[Named("../base-1", base, 1)],
        config={},
        tokens={"reconstruction": 9000},
        documents={"reconstruction": 90},
        metrics={"fvu": Metric("FVU", "", "", "lower"), "delta_ce": Metric("ΔCE", "", "nats")},
        sites=values,
        mean={"fvu": pair(1.1 + gap, 1.1), "delta_ce": pair(0.2 + gap, 0.2, False)},
        alignment=Alignment(
            9000,
            90,
            "0" * 64,
            alignment.METRICS,
            {site: SiteAlignment(matched, [Matched(0.6, 0.3)], 9, 1, 8, 2) for site in SITES},
            {
                name: Spread(
                    sites,
                    3,
                    1,
                    [2] + [0] * (len(sites) - 2) + [1],
                    1.5,
                    Histogram([1.0, 2.0], [3]),
                    [[1.0] + [0.0] * (len(sites) - 1)] * 2,
                    [2, 1],
                    0.1,
                )
                for name, sites in groups.items()
                if len(sites) > 1
            },
        ),
    )
