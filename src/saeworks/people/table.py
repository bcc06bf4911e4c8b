"""The answers of a study as a table of CSV."""

import csv
import io
from pathlib import Path

from saeworks.errors import UserError
from saeworks.files.access import write_text
from saeworks.people.judged import Analysis

_WHOSE = ("place", "suite", "site", "group", "latent", "largest_activation")
_TOLD = ("rater", "verdict", "note", "seconds", "at")


def write_csv(analysis: Analysis, path: Path) -> int:
    """Write a row per answer, unblinded; the number of rows.

    Cells that a spreadsheet would take for a formula get an apostrophe before them.

    Raises:
        UserError: if the name does not end with .csv, or it cannot be written.
    """
    if path.suffix != ".csv":
        raise UserError(f"--export {path}: the name of a table ends with .csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*_WHOSE, *_TOLD])
    rows = 0
    for place, latent in enumerate(analysis.judged):
        drawn, suite = latent.drawn, analysis.study.suites[latent.drawn.suite]
        whose = (place, suite.label, drawn.site, suite.groups[drawn.site], drawn.latent)
        for name, answer in latent.answers.items():
            told = (name, answer.verdict, answer.note, answer.seconds, answer.at)
            writer.writerow([_harmless(cell) for cell in (*whose, drawn.largest, *told)])
            rows += 1
    write_text(path, text.getvalue())
    return rows


def _harmless(cell: object) -> object:
    """A cell that no spreadsheet runs."""
    if isinstance(cell, str) and cell.lstrip()[:1] in tuple("=+-@\t\r"):
        return f"'{cell}"
    return cell
