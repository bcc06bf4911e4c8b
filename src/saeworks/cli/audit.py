"""`saeworks audit`: what every SAE of a suite misses, and a verdict in words."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from saeworks.cli.printing import (
    cell,
    command,
    say,
    speaker,
)
from saeworks.errors import DONE, shown
from saeworks.files.seals import RESULTS
from saeworks.measure.asked import placed
from saeworks.measure.audit.config import AuditConfig
from saeworks.measure.audit.run import audit_suites
from saeworks.results.audit import AuditResult
from saeworks.results.metric import Value
from saeworks.results.names import AUDIT
from saeworks.suite import find_all_suites

__all__ = ["AuditConfig", "audit"]

SHOWN = (
    ("split", "fvu", "FVU"),
    ("split", "fvu_nonlinear", "FVU_nl"),
    ("vector", "r2_error", "R² e"),
    ("shrinkage", "r2_error_scaled", "R² e,\nα*x̂"),
    ("shrinkage", "r2_error_affine", "R² e,\nA x̂ + b"),
    ("shrinkage", "alpha", "α*"),
    ("norm", "r2_error_norm", "R²\n‖e‖²"),
    ("norm", "r2_token", "‖e‖² by\ntoken"),
)
"""Metrics of the table; all are in the file."""
WIDE = 120
"""Columns of a terminal from which on a value and its interval stand on one line."""
SAID = 3
"""Sentences of each verdict; all are in the file and in the report."""


def audit(
    paths: Sequence[Path],
    config: AuditConfig,
    error_saes: Sequence[Path] = (),
    model: str | None = None,
    text: str | None = None,
    as_json: bool = False,
) -> int:
    """Print a table and verdicts per suite and leave results/audit.json in it."""
    suites = find_all_suites(paths)
    trained = find_all_suites(error_saes) if error_saes else []
    found = audit_suites(suites, config, speaker(as_json), trained, model=model, text=text)
    if as_json:
        print(json.dumps({str(path): _plain(result) for path, result in found.items()}))
        return DONE
    console = Console(highlight=False)
    for path, result in found.items():
        _print_table(console, path, result)
        _print_verdicts(console, result)
    _print_assumptions(console, list(found.values()))
    folders = {path: placed(result.config, model, text) for path, result in found.items()}
    for path, folder in folders.items():
        say(f"Audit: {path / folder / AUDIT}")
    if set(folders.values()) == {Path(RESULTS)}:  # what a report shows
        say(f"Next: {command('report', *paths)}")
    return DONE


def _plain(result: AuditResult) -> dict[str, object]:
    """Values by section and site, and the verdicts."""
    sections = {name: asdict(section)["sites"] for name, section in result.sections.items()}
    return {
        "sections": sections,
        "verdicts": {site: asdict(one) for site, one in result.verdicts.items()},
    }


def _print_table(console: Console, path: Path, result: AuditResult) -> None:
    """A row per site."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("site", overflow="fold")
    for _, _, head in SHOWN:
        table.add_column(head, justify="right", no_wrap=True)
    between = " " if console.width >= WIDE else "\n"
    for site in result.verdicts:
        cells = [
            _cell(result.value(site, section, metric), between) for section, metric, _ in SHOWN
        ]
        table.add_row(cell(site), *cells)
    about = f"{result.tokens:,} test tokens of {result.documents:,} documents"
    say()
    for line in (str(path), f"{about}; ± half of the 95% interval", *_fewer(result), ""):
        say(line)
    console.print(table)


def _fewer(result: AuditResult) -> list[str]:
    """Which parts of the verdicts are measured on some of the test tokens."""
    used: dict[str, int] = {}
    for name in ("pursuit", "downstream"):
        section = result.sections.get(name)
        for series in section.series.values() if section is not None else ():
            tokens = series.get("tokens")
            tokens = tokens.get("test") if isinstance(tokens, dict) else tokens
            used[name] = max(used.get(name, 0), tokens or 0)
    parts = [f"{name} on {count:,}" for name, count in used.items() if count < result.tokens]
    return [f"(of them, {', '.join(parts)})"] if parts else []


def _print_verdicts(console: Console, result: AuditResult) -> None:
    """The first sentences for each site, wrapped."""
    print()
    for site, one in result.verdicts.items():
        say(site)
        for line in one.sentences[:SAID]:
            print(_wrapped(console, line))


def _print_assumptions(console: Console, results: Sequence[AuditResult]) -> None:
    lines = [line for r in results for one in r.verdicts.values() for line in one.assumptions]
    print("\nWhat this rests on")
    for line in dict.fromkeys(lines):
        print(_wrapped(console, line))
    print()


def _wrapped(console: Console, line: str) -> str:
    """As one item of a list."""
    width = min(console.width, 100)
    return textwrap.fill(shown(line), width, initial_indent="  - ", subsequent_indent="    ")


def _cell(value: Value, between: str) -> str:
    """`0.123 ±0.002`, or a dash where it is undefined."""
    if value.value is None:
        return "–"
    if value.low is None or value.high is None or value.low == value.high:
        return f"{value.value:.3f}"
    return f"{value.value:.3f}{between}±{(value.high - value.low) / 2:.1g}"
