"""The tables of the audit beside the truth."""

from collections.abc import Sequence
from pathlib import Path

from experiments.audit_truth.makers import PARTS
from experiments.runs import Found
from experiments.tables import table

WORDS = Path(__file__).parent / "in_plain_words.md"
COLUMNS = {
    "The truth": ("truth", (*PARTS, "introduced", "cross", "fvu")),
    "The audit: linear and nonlinear": (
        "audit",
        ("linear", "nonlinear", "nonlinear at α*", "nonlinear per latent", "σ_a", "σ_r"),
    ),
    "The audit: attribution": (
        "audit",
        (
            *("scale", "coefficients", "chance", "choice", "choice chance"),
            *("rest", "directions", "beyond scale"),
        ),
    ),
    "The audit: probes": (
        "audit",
        ("R² of e", "R² of ‖e‖²", "R² of u (MLP)", "artefact", "linear gone"),
    ),
}


def markdown(rows: Sequence[Found], extra: Sequence[Found], readings: Sequence[Found]) -> str:
    head = ("reading", "verdict", "agrees where the part is there", "where it is not", "misses")
    verdicts = [
        [
            *(reading["reading"], f"**{reading['verdict']}**"),
            *("{} of {}".format(*reading[key]) for key in ("hits", "quiet")),
            *("; ".join(reading[key]) or "–" for key in ("misses", "alarms")),
        ]
        for reading in readings
    ]
    lines = [
        "# The audit beside the truth",
        "",
        "`python -m experiments.audit_truth`. Settings, readings and criteria:",
        "[criteria.md](../criteria.md), written before the run. All numbers but R², `artefact` and",
        "`linear gone` (the shares of R² of e and of the linear error that go when each latent is",
        "rescaled) are shares of the variance of x; `nan`: the audit says that no noise gives such",
        "numbers.",
        "",
        *WORDS.read_text().splitlines(),
        "",
        "## Readings",
        "",
        *table((*head, "false alarms"), verdicts, "llrr"),
    ]
    for title, (which, columns) in COLUMNS.items():
        cells = [
            [row["name"], *(f"{row[which][column]:.3f}" for column in columns)]
            for row in (*rows, *extra)
        ]
        lines += ["", f"## {title}", "", *table(("setting", *columns), cells, "l" + "r" * 9)]
    return "\n".join(lines) + "\n"
