"""The audit's figures as data, in the form of `charts`.

A chart of one suite has the suite's number as its `panel` where there are several to choose from.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from saeworks.report.audit_inputs import Audited, NormSample, Positions
from saeworks.report.audit_tables import means_of_tenths
from saeworks.report.baseline import site_axis
from saeworks.report.numbers import rounded
from saeworks.results.metric import Value

Chart = dict[str, Any]

STARVED = 1.25
"""Where FVU_nl on pursuit's tokens is so many times that of the test fold, they are too few."""
LINEAR, NONLINEAR, ENCODER, ABSENT, GREY = 0, 1, 4, 2, 6
"""Colours of the parts of the error, the same everywhere in the section."""
RUNGS = {
    "as_is": "x̂",
    "scaled": "α*x̂ + c",
    "per_latent": "per latent",
    "affine": "A x̂ + b",
}
NO_TICKS: Chart = {"values": [], "text": []}
"""Of an axis along which suites stand in the order of the legend."""
NESTED = {"r2_scalar": "a·x", "r2_diagonal": "diag·x", "r2_full": "B·x"}
LADDER = {"x": "x", "x_hat": "x̂", "x_hat_u": "x̂ + u", "e": "e", "l": "ℓ", "u": "u"}
DEPTH = (
    ("vector", "r2_error"),
    ("shrinkage", "r2_error_affine"),
    ("split", "fvu"),
    ("split", "fvu_nonlinear"),
    ("norm", "r2_error_norm"),
    ("shrinkage", "alpha"),
)
TITLES = {"r2_error_affine": "R² of e, x̂ recalibrated"}
"""Where a metric's own title needs the ladder beside it."""
BASELINES = {
    "r2_error_norm": ("x (the probe)", 0),
    "r2_token": ("mean by token", 1),
    "r2_loss": ("model's loss", 2),
    "r2_l0": ("L0", 3),
    "r2_x_norm": ("‖x‖²", 4),
}
METHODS = {
    "encoder": "as it is",
    "per_latent": "latents rescaled",
    "decoder": "decoder refitted",
    "refit": "coefficients refitted",
    "omp": "OMP",
    "pursuit": "gradient pursuit",
}
SOURCES = {"x": "x", "x_hat": "x̂", "l": "ℓ", "u": "u"}
SMALL_SAMPLE = 150
"""Tokens of each scatter where there are many."""

Get = Callable[[str], Value | None]
"""Site → number."""


def number_at(audit: Audited, section: str, metric: str) -> Get:
    """A metric of one suite, by site."""
    return lambda site: audit.value(site, section, metric)


def stacks(audits: Sequence[Audited], panels: bool) -> list[Chart]:
    """FVU per layer of each suite, its parts on one another; all on one scale."""
    found = [a.value(site, "split", "fvu") for a in audits for site in a.sites]
    highest = max((v.high or v.value or 0.0 for v in found if v), default=1.0)
    out = []
    for audit in audits:
        parts: list[tuple[str, int, Get]] = [
            ("nonlinear", NONLINEAR, partial(_nonlinear, audit)),
            ("encoder", ENCODER, partial(encoder, audit)),
            ("linear", LINEAR, partial(_linear, audit)),
            ("absent", ABSENT, number_at(audit, "scaling", "absent")),
        ]
        series = [over(audit.sites, name, ink, get, "bars") for name, ink, get in parts]
        chart = chart_of(
            f"parts-{audit.index}",
            audit.label,
            stacked([one for one in series if one["x"]]),
            site_axis(audit.sites),
            {"title": "FVU", "zero": True, "range": [0, rounded(1.05 * highest)]},
        )
        out.append(chart | {"stack": True} | ({"panel": audit.index} if panels else {}))
    return [chart for chart in out if chart["series"]]


def stacked(bars: Sequence[Chart]) -> list[Chart]:
    """The bars without intervals, then whiskers at the tops of their parts: a bar would hide them.

    Parts of height below 0 hang from 0, as the page stacks them."""
    tops: dict[tuple[float, bool], float] = {}
    whiskers = []
    for bar in bars:
        own = bar | {"kind": "whiskers", "y": [], "low": [], "high": []}
        for x, y, low, high in zip(bar["x"], bar["y"], bar["low"], bar["high"], strict=True):
            base = tops.get((x, y < 0), 0.0)
            tops[x, y < 0] = base + y
            for key, value in (("y", y), ("low", low), ("high", high)):
                own[key].append(None if value is None else rounded(base + value))
        whiskers.append(own)
    none = [{"low": [None] * len(bar["x"]), "high": [None] * len(bar["x"])} for bar in bars]
    return [bar | without for bar, without in zip(bars, none, strict=True)] + whiskers


def encoder(audit: Audited, site: str) -> Value | None:
    """The share of FVU_nl that pursuit recovers, times FVU_nl; None where pursuit was not asked
    for, does not lower FVU_nl, or ran on too few tokens to fit on."""
    change = audit.value(site, "pursuit", "fvu_nonlinear_change")
    there = audit.value(site, "pursuit", "fvu_nonlinear_encoder")
    whole = audit.value(site, "split", "fvu_nonlinear")
    if change is None or there is None or whole is None:
        return None
    assert change.value is not None and there.value is not None and whole.value is not None
    if there.value > STARVED * whole.value or change.value >= 0:
        return None
    low, high = (None if end is None else -end * whole.value for end in (change.high, change.low))
    return Value(value=-change.value * whole.value, low=low, high=high)


def _nonlinear(audit: Audited, site: str) -> Value | None:
    return _less(audit.value(site, "split", "fvu_nonlinear"), encoder(audit, site))


def _linear(audit: Audited, site: str) -> Value | None:
    own = audit.value(site, "split", "fvu_linear")
    return _less(own, audit.value(site, "scaling", "absent"))


def _less(whole: Value | None, part: Value | None) -> Value | None:
    """The rest, with the interval of the whole about it."""
    if whole is None or part is None or whole.value is None or part.value is None:
        return whole
    low, high = (None if end is None else end - part.value for end in (whole.low, whole.high))
    return Value(value=whole.value - part.value, low=low, high=high)


def depth(audits: Sequence[Audited]) -> list[Chart]:
    """The main numbers over the layers, a line per suite; of one layer, a point per suite."""
    sites = list(dict.fromkeys(site for audit in audits for site in audit.sites))
    beside = len(sites) == 1 and len(audits) > 1
    axis = {"title": sites[0], "ticks": NO_TICKS} if beside else site_axis(sites)
    out = []
    for section, metric in DEPTH:
        series = []
        for a in audits:
            one = over(sites, a.label, a.index, number_at(a, section, metric), "both")
            if one["x"]:
                series.append(one | {"x": [a.index]} if beside else one)
        if series:
            meaning = next(
                a.file.sections[section].metrics[metric]
                for a in audits
                if section in a.file.sections and metric in a.file.sections[section].metrics
            )
            y: Chart = {"title": meaning.unit, "zero": metric != "alpha"}
            if metric == "alpha":  # a thousandth off 1 is not to look like much
                values = [v for one in series for v in one["y"]]
                y["range"] = [min(0.95, *values) - 0.01, max(1.05, *values) + 0.01]
            title = TITLES.get(metric, meaning.title)
            chart = chart_of(f"depth-{section}-{metric}", title, series, axis, y)
            out.append(chart | {"description": meaning.description})
    return out


def shrinkage(audits: Sequence[Audited]) -> list[Chart]:
    """R²_vec, R²_norm and FVU_nl on every rung; and the nested maps of x. A line per site."""
    kinds = (("r2_error", "R² of e"), ("r2_error_norm", "R² of ‖e‖²"), ("fvu_nonlinear", "FVU_nl"))
    out = []
    for audit in audits:
        for key, title in kinds:
            steps = {f"{key}_{rung}": name for rung, name in RUNGS.items()}
            out.append(_steps(audit, audits, "shrinkage", steps, f"{title}, by recalibration"))
        nested = _steps(audit, audits, "shrinkage", NESTED, "R² of e, of nested maps of x")
        out.append(nested)
    return [chart for chart in out if chart["series"]]


def norm_ladder(audits: Sequence[Audited]) -> list[Chart]:
    """Which squared norms are linear in x."""
    steps = {f"r2_norm_{key}": f"‖{name}‖²" for key, name in LADDER.items()}
    found = [_steps(audit, audits, "ladder", steps, "R² of squared norms") for audit in audits]
    return [chart for chart in found if chart["series"]]


def _steps(
    audit: Audited, audits: Sequence[Audited], section: str, steps: dict[str, str], title: str
) -> Chart:
    """Metrics of one section in a row, a line per site."""
    there = [m for m in steps if any(audit.value(site, section, m) for site in audit.sites)]
    series = [
        series_of(
            site, [(at, steps[m], audit.value(site, section, m)) for at, m in enumerate(there)]
        )
        | {"site": number, "shape": number}
        for number, site in enumerate(audit.sites)
    ]
    ticks = {"values": list(range(len(there))), "text": [steps[m] for m in there]}
    first = there[0] if there else ""
    chart = chart_of(
        f"{section}-{first}-{audit.index}",
        title,
        [one for one in series if one["x"]],
        {"title": "", "ticks": ticks},
        {"title": "", "zero": True},
    )
    return panelled(chart, audit, audits)


def scatter(audits: Sequence[Audited]) -> list[Chart]:
    """Predicted against actual ‖e‖² of some tokens, a chart per site."""
    out = []
    few = len(audits) > 1 and sum(len(a.sites) for a in audits) > 12
    for audit in audits:
        for number, site in enumerate(audit.sites):
            sample = audit.series(site, "norm", NormSample)
            if sample is None or not sample.predicted:
                continue
            shown = SMALL_SAMPLE if few else len(sample.predicted)
            x, y = sample.predicted[:shown], sample.actual[:shown]
            low, high = min(0.0, *x), max(*x, 1e-9)
            means = means_of_tenths(sample)
            series = [
                _points("token", x, y, LINEAR, "points") | {"size": 3},
                _points("predicted = actual", [low, high], [low, high], GREY, "lines"),
                _points("mean of a tenth", *_unzipped(means), NONLINEAR, "both"),
            ]
            axes = {"title": "predicted", "zero": True}, {"title": "actual ‖e‖²", "zero": True}
            chart = chart_of(f"scatter-{audit.index}-{number}", f"‖e‖², {site}", series, *axes)
            out.append(panelled(chart, audit, audits))
    return out


def _unzipped(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def norm_baselines(audits: Sequence[Audited]) -> list[Chart]:
    """R² of ‖e‖² by the probe and by one number per token."""
    names = [(metric, name, ink) for metric, (name, ink) in BASELINES.items()]
    return _bars(audits, "norm", names, "R² of ‖e‖², by what it is predicted from", wide=True)


def downstream(audits: Sequence[Audited]) -> list[Chart]:
    """What comes back of the model's loss, beside the share of ‖e‖²."""
    out = []
    for audit in audits:
        clear = [site for site in audit.sites if _costs(audit, site)]
        share = number_at(audit, "downstream", "squared_share_linear")
        parts: list[tuple[str, int, Get]] = [
            ("ℓ: loss recovered", LINEAR, number_at(audit, "downstream", "recovered_linear")),
            ("ℓ: share of ‖e‖²", 5, share),
            ("u: loss recovered", NONLINEAR, number_at(audit, "downstream", "recovered_nonlinear")),
            ("u: share of ‖e‖²", ENCODER, partial(_rest, share)),
        ]
        series = [over(clear, name, ink, get, "bars") for name, ink, get in parts]
        y = {"title": "", "zero": True}
        title = "Share of the loss gap recovered, and of ‖e‖²"
        chart = chart_of(f"loss-{audit.index}", title, series, site_axis(clear), y) | {"wide": True}
        out.append(panelled(chart, audit, audits))
    return [chart for chart in out if _drawn(chart)]


def gaps(audits: Sequence[Audited]) -> list[Chart]:
    """What the model loses with x̂, x̂ + ℓ and x̂ + u in the place of x."""
    names = [
        ("gap", "x̂", GREY),
        ("gap_linear", "x̂ + ℓ", LINEAR),
        ("gap_nonlinear", "x̂ + u", NONLINEAR),
    ]
    return _bars(audits, "downstream", names, "CE with x replaced, less CE", "nats")


def _costs(audit: Audited, site: str) -> bool:
    """Whether the SAE is known to cost the model something, so that shares of it mean something."""
    gap = audit.value(site, "downstream", "gap")
    return gap is not None and gap.low is not None and gap.low > 0


def _rest(share: Get, site: str) -> Value | None:
    """1 − share."""
    found = share(site)
    if found is None or found.value is None:
        return None
    low, high = (None if end is None else 1 - end for end in (found.high, found.low))
    return Value(value=1 - found.value, low=low, high=high)


def pursuit_change(audits: Sequence[Audited]) -> list[Chart]:
    """What gradient pursuit does to FVU and FVU_nl."""
    names = [("fvu_change", "FVU", LINEAR), ("fvu_nonlinear_change", "FVU_nl", NONLINEAR)]
    return _bars(audits, "pursuit", names, "Relative change by gradient pursuit")


def pursuit(audits: Sequence[Audited]) -> list[Chart]:
    """FVU and FVU_nl by how the codes were found."""
    out = []
    for key, title in (("fvu", "FVU"), ("fvu_nonlinear", "FVU_nl")):
        names = [(f"{key}_{m}", what, at) for at, (m, what) in enumerate(METHODS.items())]
        out += _bars(audits, "pursuit", names, f"{title}, by how codes are found")
    return out


def adjacent(audits: Sequence[Audited]) -> list[Chart]:
    """R² of e, ℓ and u from what the site before has."""
    out = []
    for target, name in (("e", "e"), ("l", "ℓ"), ("u", "u")):
        names = [
            (f"r2_{target}_from_{source}", f"from {what}", at)
            for at, (source, what) in enumerate(SOURCES.items())
        ]
        out += _bars(audits, "adjacent", names, f"R² of {name}, from the site before")
    return out


def null(audits: Sequence[Audited]) -> list[Chart]:
    """The probe on errors, on shuffled errors and on noise."""
    out = []
    for audit in audits:
        parts: list[tuple[str, int, Get]] = [
            ("e", LINEAR, number_at(audit, "vector", "r2_error")),
            ("shuffled e", ENCODER, number_at(audit, "null", "r2_shuffled")),
            ("noise", NONLINEAR, number_at(audit, "null", "r2_noise")),
            ("−(fit cost)", GREY, partial(_cost, audit)),
        ]
        series = [over(audit.sites, name, ink, get, "both") for name, ink, get in parts]
        title = "R² of the vector probe where there is nothing to find"
        y = {"title": "", "zero": True}
        chart = chart_of(f"null-{audit.index}", title, series, site_axis(audit.sites), y)
        out.append(panelled(chart, audit, audits) | {"wide": True})
    return [chart for chart in out if _drawn(chart)]


def _cost(audit: Audited, site: str) -> Value | None:
    """About what a fit of noise has."""
    value = audit.value(site, "vector", "fit_cost")
    return None if value is None or value.value is None else Value(value=-value.value)


def positions(audits: Sequence[Audited]) -> list[Chart]:
    """FVU and FVU_nl by position in the context."""
    out = []
    for audit in audits:
        for key, title in (("fvu", "FVU"), ("fvu_nonlinear", "FVU_nl")):
            series = []
            for number, site in enumerate(audit.sites):
                found = audit.series(site, "positions", Positions)
                if found is None:
                    continue
                firsts, values = found.first_position, getattr(found, key)
                points = [
                    (first + 1, f"from position {first}", Value(value=value))
                    for first, value in zip(firsts, values, strict=True)
                ]
                series.append(series_of(site, points) | {"site": number, "shape": number})
            x = {"title": "position, counted from 1", "log": True}
            y = {"title": "", "zero": True}
            chart = chart_of(f"positions-{key}-{audit.index}", f"{title} by position", series, x, y)
            out.append(panelled(chart, audit, audits))
    return [chart for chart in out if _drawn(chart)]


def _bars(
    audits: Sequence[Audited],
    section: str,
    names: Sequence[tuple[str, str, int]],
    title: str,
    unit: str = "",
    wide: bool = False,
) -> list[Chart]:
    """A chart per suite: the metrics of each site side by side."""
    out = []
    for audit in audits:
        series = [
            over(audit.sites, name, ink, number_at(audit, section, metric), "bars")
            for metric, name, ink in names
        ]
        y = {"title": unit, "zero": True}
        axis = site_axis(audit.sites)
        chart = chart_of(f"{section}-{names[0][0]}-{audit.index}", title, series, axis, y)
        out.append(panelled(chart, audit, audits) | ({"wide": True} if wide else {}))
    return [chart for chart in out if _drawn(chart)]


def _drawn(chart: Chart) -> bool:
    return any(series["x"] for series in chart["series"])


def panelled(chart: Chart, audit: Audited, audits: Sequence[Audited]) -> Chart:
    """With the number of its suite, where there are several to choose from."""
    return chart | {"panel": audit.index} if len(audits) > 1 else chart


def chart_of(id_: str, title: str, series: Sequence[Chart], x: Chart, y: Chart) -> Chart:
    """A chart of this section."""
    return {
        "id": f"audit-{id_}",
        "title": title,
        "description": "",
        "better": None,
        "x": x,
        "y": y,
        "series": list(series),
    }


def over(sites: Sequence[str], name: str, ink: int, get: Get, kind: str) -> Chart:
    """A number at every site, in the order of the axis."""
    points = [(at, site, get(site)) for at, site in enumerate(sites)]
    return series_of(name, points) | {"suite": ink, "shape": ink, "kind": kind}


def series_of(name: str, points: Iterable[tuple[int | float, str, Value | None]]) -> Chart:
    """Points (x, what to call it, value); those without a value are left out."""
    known = [(x, text, v) for x, text, v in points if v is not None and v.value is not None]
    return {
        "name": name,
        "x": [x for x, _, _ in known],
        "y": [rounded(v.value) for _, _, v in known],
        "low": [rounded(v.low) for _, _, v in known],
        "high": [rounded(v.high) for _, _, v in known],
        "text": [text for _, text, _ in known],
        "kind": "both",
    }


def _points(name: str, x: Sequence[float], y: Sequence[float], ink: int, kind: str) -> Chart:
    none = [None] * len(x)
    return {
        "name": name,
        "x": [rounded(v) for v in x],
        "y": [rounded(v) for v in y],
        "low": none,
        "high": none,
        "suite": ink,
        "shape": 0,
        "kind": kind,
    }


def error_saes(audits: Sequence[Audited]) -> list[Chart]:
    """FVU of the SAEs that were trained on e, ℓ and u, each on its own target."""
    names = [("fvu_e", "on e", GREY), ("fvu_l", "on ℓ", LINEAR), ("fvu_u", "on u", NONLINEAR)]
    return _bars(audits, "error_saes", names, "FVU of SAEs trained on the error")
