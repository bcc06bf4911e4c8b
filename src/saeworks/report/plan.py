"""The page of a plan: heat maps of the distances, dendrogram, AMAD against the number of groups."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from saeworks.files.access import write_text
from saeworks.report.build import write_assets
from saeworks.report.marks import Chart, chart_of, short_names, ticks
from saeworks.report.numbers import count, number
from saeworks.report.page import Page, embedded_json, environment
from saeworks.results.plan import Plan

SCRIPTS = ("charts.js", "heat.js")


def write_plan_page(plan_path: Path, out: Path) -> Path:
    """Write `out/index.html`, with `out/assets/`, from a plan's JSON file.

    Returns:
        The path of index.html.

    Raises:
        UserError: if the file is no plan, or `out` cannot be written.
    """
    plan = Plan.read(plan_path)
    shown = _shown(plan)
    page = Page(
        "Groups",
        "Which sites can share an SAE",
        sections=(
            ("groups", "Groups"),
            ("distances", "Distances"),
            ("number", "Number of groups"),
        ),
        data=shown,
        scripts=SCRIPTS,
    )
    text = (
        environment()
        .get_template("plan.html.jinja")
        .render(
            plan=plan,
            facts=_facts(plan),
            page=page,
            pages=[page],
            shown=shown,
            embedded=embedded_json(shown),
        )
    )
    write_assets(out / "assets", SCRIPTS)
    write_text(out / "index.html", text)
    return out / "index.html"


def _facts(plan: Plan) -> list[tuple[str, str]]:
    how = {"user": "given by hand"}.get(plan.method, plan.method)
    if plan.objective:
        how += f", least {plan.objective}"
    if plan.threshold is not None:
        how += f", the fewest groups with AMAD below {number(plan.threshold)}"
    return [
        ("Model", f"{Path(plan.model).name} (fingerprint {plan.fingerprint[:12]})"),
        ("Text", f"{Path(str(plan.text.get('source', '–'))).name}, seed {plan.seed}"),
        ("Sites", f"{len(plan.sites)}"),
        ("Groups", f"{len(plan.groups)}: {how}, on {plan.matrix} distances"),
        ("Measured on", f"{count(plan.tokens)} tokens of {count(plan.documents)} documents"),
        ("Means from", f"{count(plan.mean_tokens)} tokens before those"),
    ]


def _shown(plan: Plan) -> dict[str, Any]:
    """All that the scripts draw."""
    place = {site: at for at, site in enumerate(plan.sites)}
    groups = [[place[site] for site in group] for group in plan.groups.values()]
    cells = [v for m in (plan.distances.raw, plan.distances.centred) for row in m for v in row]
    return {
        "sites": plan.sites,
        "search": [],
        "short": short_names(plan.sites),
        "files": [],
        "heat": [
            {
                "title": title,
                "values": values,
                "stderr": stderr,
                "boxes": _boxes(groups) if name == plan.matrix else [],
                "largest": max((v for v in cells if v is not None), default=1.0),
            }
            for name, title, values, stderr in (
                ("raw", "Raw", plan.distances.raw, plan.distances.stderr),
                ("centred", "Mean-centred", plan.distances.centred, plan.distances.stderr_centred),
            )
        ],
        "lines": [],
        "curves": [_curve(plan)],
        "dendrogram": [_dendrogram(plan)],
    }


def _boxes(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """[column, row, width, height] of the cells of each group, a box per pair of its runs."""
    out = []
    for group in groups:
        pairs = groupby(enumerate(sorted(group)), key=lambda pair: pair[1] - pair[0])
        runs = [[site for _, site in run] for _, run in pairs]
        out += [[a[0], b[0], len(a), len(b)] for a in runs for b in runs]
    return out


def _curve(plan: Plan) -> Chart:
    x = [point.groups for point in plan.curve]
    chosen = len(plan.groups)
    lines = [
        ("AMAD", [point.amad for point in plan.curve]),
        ("AMAD weighted by size", [point.weighted for point in plan.curve]),
        ("largest", [point.largest for point in plan.curve]),
    ]
    series = [_series(name, x, y, i, "both") for i, (name, y) in enumerate(lines)]
    if plan.threshold is not None:
        series.append(_series("threshold", [x[0], x[-1]], [plan.threshold] * 2, 6, "lines"))
    if plan.method != "user":
        at = plan.curve[chosen - 1].amad
        series.append({**_series("chosen", [chosen], [at], 3, "points"), "shape": 6, "size": 16})
    return chart_of(
        "amad",
        "Distance within groups",
        series,
        {"title": "groups", "whole": True},
        {"title": "half turns", "zero": True},
        "For every number of groups: the largest distance within each group, on average over "
        "groups (AMAD), over sites, and of all groups.",
        "lower",
    )


def _series(name: str, x: Sequence[Any], y: Sequence[Any], ink: int, kind: str) -> Chart:
    none = [None] * len(x)
    return {
        "name": name,
        "x": list(x),
        "y": list(y),
        "low": none,
        "high": none,
        "suite": ink,
        "shape": ink,
        "kind": kind,
    }


def _dendrogram(plan: Plan) -> Chart:
    """Every merge as three sides of a box, from its two clusters up to their distance."""
    sites = len(plan.sites)
    children: dict[int, tuple[int, int]] = {}
    least = {site: site for site in range(sites)}
    for i, (first, second, _, _) in enumerate(plan.linkage):
        a, b = int(first), int(second)
        children[sites + i] = (a, b) if least[a] < least[b] else (b, a)
        least[sites + i] = min(least[a], least[b])
    order: list[int] = []
    waiting = [sites + len(plan.linkage) - 1]
    while waiting:
        node = waiting.pop()
        if node < sites:
            order.append(node)
        else:
            waiting += reversed(children.pop(node))
    names = [short_names(plan.sites)[site] for site in order]
    leaves = [plan.sites[site] for site in order]
    middle = {site: float(at) for at, site in enumerate(order)}
    height = dict.fromkeys(range(sites), 0.0)
    x: list[float | None] = []
    y: list[float | None] = []
    for i, (first, second, distance, _) in enumerate(plan.linkage):
        a, b = int(first), int(second)
        x += [middle[a], middle[a], middle[b], middle[b], None]
        y += [height[a], distance, distance, height[b], None]
        middle[sites + i], height[sites + i] = (middle[a] + middle[b]) / 2, distance
    return chart_of(
        "dendrogram",
        "Complete linkage",
        [
            _series("complete linkage", x, y, 0, "lines"),
            {**_series("site", range(sites), [0.0] * sites, 0, "points"), "text": leaves},
        ],
        ticks(names, "site"),
        {"title": "half turns", "zero": True},
        "Which clusters merge, and the largest distance within them when they do.",
    )
