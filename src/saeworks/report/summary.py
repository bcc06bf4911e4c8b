"""What the numbers say, in a few careful sentences, and the tables."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from saeworks.report.numbers import count, number
from saeworks.report.suites import SuiteData
from saeworks.report.tables import Column, Row, RowPlace, rows_of
from saeworks.results import regime
from saeworks.results.headlines import (
    DEAD_SHARE,
    DELTA_CE,
    FVU,
    FVU_WITHOUT_OUTLIERS,
    L0,
    LOSS_RECOVERED_MEAN,
    LOSS_RECOVERED_ZERO,
    OUTLIER_SHARE,
)
from saeworks.results.metric import Metric, Value

HEADLINE = (
    FVU,
    DELTA_CE,
    LOSS_RECOVERED_ZERO,
    LOSS_RECOVERED_MEAN,
    L0,
    DEAD_SHARE,
)
"""The metrics of the summary table, in its order."""

MANY_DEAD = 0.1
FEW_DOCUMENTS = 50


def all_sites(suites: Sequence[SuiteData]) -> list[str]:
    """The suites' sites in the order of their model, then any that only results name."""
    names = [site for suite in suites for site in suite.meta.sites]
    names += [site for suite in suites for r in suite.results.values() for site in r.sites]
    return list(dict.fromkeys(names))


def all_metrics(suites: Sequence[SuiteData]) -> dict[str, Metric]:
    """Every metric that some suite has, by name."""
    return {key: metric for suite in suites for key, metric in suite.metrics().items()}


def columns(suites: Sequence[SuiteData], headline: bool) -> list[Column]:
    """The headline metrics that were measured, or all of them."""
    metrics = all_metrics(suites)
    names = [n for n in HEADLINE if n in metrics] if headline else list(metrics)
    return [Column(name, metrics[name]) for name in names]


def rows(suites: Sequence[SuiteData], shown: Sequence[Column]) -> list[Row]:
    """A row per site and suite, site by site."""
    places = [
        RowPlace(order, site, index, suite.label)
        for order, site in enumerate(all_sites(suites))
        for index, suite in enumerate(suites)
    ]
    values = [[suites[p.suite].value(p.site, column.id) for column in shown] for p in places]
    return rows_of(places, values)


def _values(suite: SuiteData, metric: str) -> dict[str, float]:
    by_site = {site: suite.value(site, metric) for site in all_sites([suite])}
    return {site: v.value for site, v in by_site.items() if v is not None and v.value is not None}


def span(suite: SuiteData, metric: str) -> str:
    """A metric's least and largest value, with their sites; empty where it was not measured."""
    values = _values(suite, metric)
    return _span(values) if values else ""


def _span(values: dict[str, float]) -> str:
    """`0.08 (layers.0) to 0.21 (layers.5)`, or the one value."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if len(values) == 1:
        return f"{number(values[low])} ({low})"
    return f"{number(values[low])} ({low}) to {number(values[high])} ({high})"


def about(suite: SuiteData) -> list[str]:
    """What one suite's numbers say."""
    lines = []
    if fvu := _values(suite, FVU):
        l0 = _values(suite, L0)
        active = (
            f", with {number(fmean(l0.values()))} active latents per token on average" if l0 else ""
        )
        lines.append(
            f"The share of the variance of held-out activations left unexplained (FVU) is "
            f"{_span(fvu)}{active}."
        )
    if delta := _values(suite, DELTA_CE):
        lines.append(
            "Putting the reconstruction in the place of one site's activations changes the "
            f"model's loss by {_span(delta)} nats per token."
        )
    if dead := _values(suite, DEAD_SHARE):
        lines.append(_about_dead(dead))
    lines += _about_outliers(suite)
    if few := regime.caution(regime.of_groups(asdict(suite.meta)).values()):
        lines.append(f"It was trained on {few}.")
    if suite.comparison and suite.comparison.notes:
        beside = suite.comparison.baseline.variant
        lines.append(f"The ratio to {beside} is also of this: {'; '.join(suite.comparison.notes)}.")
    return lines


def _about_outliers(suite: SuiteData) -> list[str]:
    """A sentence on the sites where a few long vectors dominate the FVU."""
    share, fvu, plain = (
        _values(suite, name) for name in (OUTLIER_SHARE, FVU, FVU_WITHOUT_OUTLIERS)
    )
    some = [site for site, part in share.items() if part and fvu.get(site) and plain.get(site)]
    if not some:
        return []
    site = max(some, key=lambda site: plain[site] / fvu[site])
    return [
        f"Some tokens have norms above 10 times the median, most at {site} by what they change "
        f"({share[site]:.2%} of the tokens): FVU there is {number(fvu[site])} with them and "
        f"{number(plain[site])} without, as long vectors have most of the variance."
    ]


def _about_dead(dead: dict[str, float]) -> str:
    worst = max(dead, key=dead.__getitem__)
    if dead[worst] == 0:
        return "Every latent fired at least once on the held-out tokens."
    many = [site for site, share in dead.items() if share > MANY_DEAD]
    text = f"At most {dead[worst]:.1%} of a site's latents never fired on these tokens ({worst})"
    if not many:
        return f"{text}."
    where = "one site" if len(many) == 1 else f"{len(many)} sites"
    return (
        f"{text}; more than {MANY_DEAD:.0%} at {where}, so part of the width is unused there, or "
        "fires too rarely for a sample of this size."
    )


def comparison(suites: Sequence[SuiteData]) -> list[str]:
    """The sparsest suite against the densest."""
    means = {i: fmean(v.values()) for i, s in enumerate(suites) if (v := _values(s, L0))}
    if len(means) < 2:
        return []
    sparse, dense = (
        suites[min(means, key=means.__getitem__)],
        suites[max(means, key=means.__getitem__)],
    )
    if sparse is dense:
        return []
    lines = []
    for metric, name in ((FVU, "FVU"), (DELTA_CE, "ΔCE")):
        pairs = _pairs(dense, sparse, metric)
        if not pairs:
            continue
        lower = [(a, b) for a, b in pairs if _below(a, b)]
        higher = [(a, b) for a, b in pairs if _below(b, a)]
        lines.append(
            f"{dense.label} has a lower {name} than {sparse.label} at {_of(lower, pairs)} and a "
            f"higher one at {_of(higher, pairs)}."
        )
    dense_meta, sparse_meta = (asdict(suite.meta) for suite in (dense, sparse))
    differ = regime.differences(dense_meta, sparse_meta) if lines else []
    return [*lines, f"They also differ in this: {'; '.join(differ)}."] if differ else lines


def _of(some: Sequence[tuple[Value, Value]], pairs: Sequence[tuple[Value, Value]]) -> str:
    """`3 of 5 sites (intervals apart at 2)`; `(no intervals)` where it cannot be told."""
    known = [apart for a, b in some if (apart := _apart(a, b)) is not None]
    told = f"intervals apart at {sum(known)}" if known else "no intervals"
    return f"{len(some)} of {len(pairs)} sites" + (f" ({told})" if some else "")


def _pairs(a: SuiteData, b: SuiteData, metric: str) -> list[tuple[Value, Value]]:
    both = [(a.value(site, metric), b.value(site, metric)) for site in all_sites([a, b])]
    return [(x, y) for x, y in both if x is not None and y is not None]


def _below(a: Value, b: Value) -> bool:
    return a.value is not None and b.value is not None and a.value < b.value


def _apart(a: Value, b: Value) -> bool | None:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.high < b.low or b.high < a.low


def caution(suites: Sequence[SuiteData]) -> str:
    """What the numbers do not say."""
    results = [r for suite in suites for r in suite.results.values() if r.sites]
    if not results:
        return "Not evaluated yet: `saeworks eval` adds the numbers."
    documents = [r.documents for r in results if r.documents]
    over = f" over {count(min(documents))}" if documents else " over the"
    if documents and min(documents) != max(documents):
        over = f" over {count(min(documents))} to {count(max(documents))}"
    few = documents and min(documents) < FEW_DOCUMENTS
    if not any(v.low is not None for r in results for at in r.sites.values() for v in at.values()):
        return (
            "There are no intervals: too few held-out documents, or no resamples were asked for. "
            "How much hangs on the choice of documents is not known; each suite is one seed."
        )
    return (
        f"Intervals are 95% intervals{over} held-out documents: they show how much "
        "hangs on the choice of documents, not on the seed or the training text. Each suite is "
        "one seed, so small differences between suites may not repeat."
        + (" With so few documents the intervals themselves are rough." if few else "")
    )
