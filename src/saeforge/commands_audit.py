"""`saeforge audit`: what every SAE of a suite misses, and a verdict in words."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saeforge.errors import UserError
from saeforge.eval.audit.config import AuditConfig
from saeforge.eval.audit.result import FILE, AuditResult
from saeforge.eval.audit.run import audit_suites
from saeforge.eval.result import Value
from saeforge.suite import find_suites

__all__ = ["AuditConfig", "audit"]

SHOWN = (
    ("split", "fvu", "FVU"),
    ("split", "fvu_nonlinear", "FVU_nl"),
    ("vector", "r2_error", "R² e"),
    ("shrinkage", "r2_scalar", "R² e\nscalar"),
    ("shrinkage", "r2_error_affine", "R² e\nrecalibrated"),
    ("shrinkage", "alpha", "α*"),
    ("norm", "r2_error_norm", "R² ‖e‖²"),
    ("norm", "r2_token", "R² ‖e‖²\nby token"),
    ("norm", "r2_x_norm", "R² ‖e‖²\nby ‖x‖²"),
)
"""Metrics of the table; all are in the file."""


def audit(paths: Sequence[Path], config: AuditConfig, as_json: bool = False) -> int:
    """Print a table and verdicts per suite and leave results/audit.json in it."""
    if not paths:
        raise UserError("name at least one folder of a suite or of a run")
    suites = list(dict.fromkeys(suite for path in paths for suite in find_suites(path)))
    stream = sys.stderr if as_json else sys.stdout
    found = audit_suites(suites, config, say=lambda line: print(line, file=stream, flush=True))
    if as_json:
        print(json.dumps({str(path): _plain(result) for path, result in found.items()}))
        return 0
    for path, result in found.items():
        _print_table(path, result)
        _print_verdicts(result)
    print(f"Audits: results/{FILE} in each suite")
    return 0


def _plain(result: AuditResult) -> dict[str, object]:
    """Values by section and site, and the verdicts."""
    sections = {name: asdict(section)["sites"] for name, section in result.sections.items()}
    return {
        "sections": sections,
        "verdicts": {site: asdict(one) for site, one in result.verdicts.items()},
    }


def _print_table(path: Path, result: AuditResult) -> None:
    """A row per site."""
    table = Table(
        title=f"{escape(str(path))}: {result.tokens:,} test tokens of {result.documents:,} "
        "documents; value ± half of the 95% interval",
        title_justify="left",
    )
    table.add_column("site", no_wrap=True)
    for _, _, head in SHOWN:
        table.add_column(head, justify="right")
    for site in result.verdicts:
        cells = [_cell(result.value(site, section, metric)) for section, metric, _ in SHOWN]
        table.add_row(escape(site), *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _print_verdicts(result: AuditResult) -> None:
    for site, one in result.verdicts.items():
        print(f"{site}: {' '.join(one.sentences)}")
    assumptions = dict.fromkeys(
        line for one in result.verdicts.values() for line in one.assumptions
    )
    for line in assumptions:
        print(f"Assumed: {line}")


def _cell(value: Value) -> str:
    """`0.123 ±0.002`, or a dash where it is undefined."""
    if value.value is None:
        return "–"
    if value.low is None or value.high is None or value.low == value.high:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} ±{(value.high - value.low) / 2:.1g}"
