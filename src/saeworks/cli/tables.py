"""The printer of tables: values with half of their intervals, as wide as the terminal allows."""

import math
import os
import sys
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saeworks.cli.printing import say
from saeworks.errors import shown
from saeworks.results.metric import Value
from saeworks.results.result import Result

ABSENT = "–"
"""What was not measured or is not defined."""
_PIPE_WIDTH = 140

Cell = str | Value | None


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], words: int = 1) -> None:
    """Print a table; a row without cells is a rule.

    Args:
        words: columns of words, which come first; numbers are aligned to the right.
    """
    console = terminal()
    for between in (" ", "\n"):
        table = _table(heads, rows, words, between)
        if console.measure(table).maximum <= console.width:
            break
    console.print(table)


def print_values(
    title: str, results: Sequence[Result], headlines: Mapping[str, Sequence[str]]
) -> None:
    """A row per site with its headline metrics, then what the results find.

    Args:
        headlines: evaluation → keys of its metrics, in the order of the columns.
    """
    columns = [
        (result, metric)
        for evaluation, metrics in headlines.items()
        for result in results
        if result.evaluation == evaluation
        for metric in metrics
        if metric in result.metrics
    ]
    sites = list(dict.fromkeys(site for result in results for site in result.sites))
    say(f"{title}: value ± half of the 95% interval")
    print_table(
        ["site", *(result.metrics[metric].title for result, metric in columns)],
        [[site, *(r.sites.get(site, {}).get(key) for r, key in columns)] for site in sites],
    )
    for finding in (finding for result in results for finding in result.findings):
        say(f"- {finding}")


def terminal() -> Console:
    """Where tables are printed; a file or a pipe has no width to fit."""
    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if fits else _PIPE_WIDTH, highlight=False)


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return ABSENT if value is None else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], words: int, between: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for at, head in enumerate(heads):
        lines = "\n".join(map(shown, head.split("\n")))
        table.add_column(escape(lines), justify="left" if at < words else "right", overflow="fold")
    for row in rows:
        if row:
            table.add_row(*(escape(_text(cell, between)) for cell in row))
        else:
            table.add_section()
    return table


def _text(cell: Cell, between: str) -> str:
    """`0.123 ±0.002`, with as many decimals as the interval carries."""
    if isinstance(cell, str):
        return shown(cell)
    if cell is None or cell.value is None:
        return ABSENT
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return number(cell.value)
    half = (cell.high - cell.low) / 2
    decimals = max(0, -math.floor(math.log10(half)))
    return f"{cell.value:.{decimals}f}{between}±{half:.1g}"
