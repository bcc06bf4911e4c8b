"""The numbers of the audit's figures as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeworks.report.audit_inputs import Audited, NormSample, Positions
from saeworks.report.numbers import (
    count,
    decimals,
    measured,
    number,
)
from saeworks.report.summary import Cell, Column, Row
from saeworks.results.metric import Metric, Value

TENTHS = 10


@dataclass(frozen=True)
class Table:
    """A caption, columns, and a row per site and suite."""

    caption: str
    columns: list[Column]
    rows: list[Row]


Place = tuple[int, str, Audited]


def places(audits: Sequence[Audited]) -> list[Place]:
    """(number of the site, site, audit), site by site."""
    sites = list(dict.fromkeys(site for audit in audits for site in audit.sites))
    return [
        (order, site, audit)
        for order, site in enumerate(sites)
        for audit in audits
        if site in audit.sites
    ]


def of_sections(audits: Sequence[Audited], caption: str, names: Sequence[str]) -> Table | None:
    """Every metric of some sections; None where none was measured."""
    metrics: dict[tuple[str, str], Metric] = {}
    for audit in audits:
        for name in names:
            if found := audit.file.sections.get(name):
                metrics |= {(name, key): metric for key, metric in found.metrics.items()}
    rows = places(audits)
    values = {
        key: [audit.value(site, *key) for _, site, audit in rows]
        for key in metrics
        if any(audit.value(site, *key) for _, site, audit in rows)
    }
    if not values:
        return None
    columns = [Column(".".join(key), metrics[key]) for key in values]
    return _table(caption, columns, rows, list(values.values()))


def measured_at(audits: Sequence[Audited]) -> Table:
    """Tokens and documents of every fold."""
    names = ("fit", "second", "test")
    columns = [Column(name, Metric(title=f"{name} fold", unit="tokens")) for name in names]
    rows = []
    for order, site, audit in places(audits):
        folds = [audit.file.folds.get(name) for name in names]
        cells = [
            Cell(count(f.tokens), f"{count(f.documents)} documents", float(f.tokens))
            if f
            else Cell("–", "", None)
            for f in folds
        ]
        rows.append(Row(site, order, audit.index, audit.label, cells))
    return Table("What was fitted and measured on", columns, rows)


def positions(audits: Sequence[Audited]) -> Table | None:
    """FVU and FVU_nl by the first position of each bin."""
    found = [
        (order, site, audit, series)
        for order, site, audit in places(audits)
        if (series := audit.series(site, "positions", Positions)) is not None
    ]
    bins = sorted({first for *_, series in found for first in series.first_position})
    if not bins:
        return None
    columns = [Column(str(first), Metric(title=f"from {first}")) for first in bins]
    rows = []
    for order, site, audit, series in found:
        pairs = zip(series.fvu, series.fvu_nonlinear, strict=True)
        known = dict(zip(series.first_position, pairs, strict=True))
        cells = []
        for first in bins:
            fvu, nonlinear = known.get(first, (None, None))
            cells.append(Cell(number(fvu), f"{number(nonlinear)} nonlinear", fvu))
        rows.append(Row(site, order, audit.index, audit.label, cells))
    return Table("FVU by position in the context, by the first of each bin", columns, rows)


def means_of_tenths(sample: NormSample) -> list[tuple[float, float]]:
    """Mean predicted and mean actual ‖e‖² in each tenth of the tokens, by the predicted."""
    order = np.argsort(sample.predicted, kind="stable")
    parts = [part for part in np.array_split(order, TENTHS) if len(part)]
    predicted, actual = np.array(sample.predicted), np.array(sample.actual)
    return [(float(predicted[part].mean()), float(actual[part].mean())) for part in parts]


def tenths(audits: Sequence[Audited]) -> Table | None:
    """The scatter in numbers."""
    found = [
        (order, site, audit, means_of_tenths(sample))
        for order, site, audit in places(audits)
        if (sample := audit.series(site, "norm", NormSample)) is not None and sample.predicted
    ]
    if not found:
        return None
    columns = [Column(str(at), Metric(title=f"tenth {at}")) for at in range(1, TENTHS + 1)]
    rows = []
    for order, site, audit, means in found:
        cells = [
            Cell(number(actual), f"{number(guess)} predicted", actual) for guess, actual in means
        ]
        cells += [Cell("–", "", None)] * (TENTHS - len(cells))
        rows.append(Row(site, order, audit.index, audit.label, cells))
    caption = (
        "Mean actual ‖e‖² of the tokens in the scatter, by tenths of the predicted, in units of "
        "the mean ‖x − x̄‖²"
    )
    return Table(caption, columns, rows)


def _table(
    caption: str,
    columns: list[Column],
    rows: Sequence[Place],
    values: Sequence[Sequence[Value | None]],
) -> Table:
    """Of columns of values."""
    digits = [decimals(column) for column in values]
    out = []
    for at, (order, site, audit) in enumerate(rows):
        own = [column[at] for column in values]
        if any(own):
            cells = [
                Cell(*measured(v, d), v.value if v else None)
                for v, d in zip(own, digits, strict=True)
            ]
            out.append(Row(site, order, audit.index, audit.label, cells))
    return Table(caption, columns, out)
