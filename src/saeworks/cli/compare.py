"""`saeworks compare`: suites beside their baseline, site by site."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from rich.table import Table

from saeworks.cli.printing import (
    cell,
    command,
    console,
    say,
    speaker,
)
from saeworks.errors import DONE, UserError
from saeworks.measure.comparing.alignment import SiteAlignment
from saeworks.measure.comparing.compare import (
    CompareConfig,
    Comparison,
    Paired,
)
from saeworks.measure.comparing.compare import compare as compare_suites
from saeworks.results.metric import Value
from saeworks.results.names import COMPARISON
from saeworks.suite import find_suites

__all__ = ["CompareConfig", "compare"]

MEAN = "mean over sites"
SHOWN = ("fvu", "l0", "delta_ce")
"""Metrics of the table; all are in the file."""


def compare(
    paths: Sequence[Path],
    baselines: Sequence[Path],
    config: CompareConfig,
    as_json: bool = False,
) -> int:
    """Print each suite beside the baseline and leave results/comparison.json in it."""
    if not paths:
        raise UserError("name at least one folder of a suite or of a run")
    bases = [_one(path) for path in baselines]
    suites = _suites(paths, bases[:1])
    found = compare_suites(suites, bases, config, say=speaker(as_json))
    if as_json:
        print(json.dumps({str(path): asdict(one) for path, one in found.items()}))
        return DONE
    for path, comparison in found.items():
        _print_table(path, comparison)
        if comparison.notes:
            say(f"The ratio is also of this: {'; '.join(comparison.notes)}.")
    say(f"Comparisons: results/{COMPARISON} in each suite")
    say(f"Next: {command('report', *paths)}")
    return DONE


def _suites(paths: Sequence[Path], baseline: Sequence[Path]) -> list[Path]:
    """Every suite in the folders given; of a run, all but the baseline."""
    same = {path.resolve() for path in baseline}
    found: dict[Path, None] = {}
    for path in paths:
        below = find_suites(path)
        others = [suite for suite in below if suite.resolve() not in same]
        found |= dict.fromkeys(others or below)
    return list(found)


def _one(path: Path) -> Path:
    found = find_suites(path)
    if len(found) > 1:
        names = ", ".join(suite.name for suite in found)
        raise UserError(f"--baseline {path} holds several suites; name one of {names}")
    return found[0]


def _print_table(path: Path, comparison: Comparison) -> None:
    """A row per site: value, difference from the baseline, ratio; how latents are matched."""
    table = Table(
        title=f"{cell(str(path))} − {cell(comparison.baseline.variant)} on the same held-out "
        "documents [95% interval of the difference, of paired resamples]",
        title_justify="left",
    )
    table.add_column("site", no_wrap=True)
    metrics = [name for name in SHOWN if name in comparison.metrics]
    for name in metrics:
        title = comparison.metrics[name].title
        table.add_column(title, justify="right")
        table.add_column(f"{title}\ndifference", justify="right")
        if comparison.mean[name].ratio is not None:
            table.add_column(f"{title}\nratio", justify="right")
    aligned = comparison.alignment.sites if comparison.alignment else {}
    scale = "\n(other seeds)" if comparison.seeds else ""
    for head in ("MMCS", "MMCO") if aligned else ():
        table.add_column(f"{head}{scale}", justify="right")
    for site, values in [*comparison.sites.items(), (MEAN, comparison.mean)]:
        cells = _cells(values, metrics)
        own = list(aligned.values()) if site == MEAN else [aligned[site]] if aligned else []
        cells += [_matched(name, own) for name in ("mmcs", "mmco") if own]
        table.add_row(cell(site), *cells)
    console().print(table)


def _cells(values: Mapping[str, Paired], metrics: Sequence[str]) -> list[str]:
    cells = []
    for name in metrics:
        pair = values[name]
        cells += [_number(pair.suite.value), _difference(pair.difference)]
        if pair.ratio is not None:
            cells.append(_number(pair.ratio.value))
    return cells


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _difference(value: Value) -> str:
    """`+0.012 [+0.011, +0.013]`."""
    if value.value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.value:+.3g}"
    return f"{value.value:+.3g} \\[{value.low:+.3g}, {value.high:+.3g}]"


def _matched(name: str, sites: Sequence[SiteAlignment]) -> str:
    """The suite's mean over the sites, and in brackets that of the baseline's other seeds."""
    own = [value for site in sites if (value := getattr(site.suite, name)) is not None]
    matches = [match for site in sites for match in site.seeds]
    others = [value for match in matches if (value := getattr(match, name)) is not None]
    text = _number(fmean(own) if own else None)
    return f"{text} ({_number(fmean(others))})" if others else text
