"""The files of a suite that are read as JSON, and the order in which results are shown.

An evaluation's result is `NAME.json` in the suite's `results` folder (`files.seals.RESULTS`).
"""

from fnmatch import fnmatchcase
from typing import Final, Literal

AUDIT = "audit.json"
COMPARISON = "comparison.json"
LOG = "metrics.jsonl"
PLAN = "plan.json"
FIRST = ("reconstruction", "splice")
"""Evaluations that are shown before the others, which follow by name."""
EXPERTS: Final = "experts"
"""The evaluation of experts; also an SAE's option with their number, the metric and its unit."""
GEOMETRY = "geometry"
CONSISTENCY = "consistency"
"""The evaluation, and its metric."""
DEDUP = "dedup"
EXPLANATIONS = "explanations"
"""The evaluation of what explains single latents."""
CIRCUITS = "circuits"
"""The evaluation of a task's circuits is `circuits_TASK`."""
ALL_SITES = "all sites at once"
"""Stands in the place of a site's name where all sites of a suite were replaced together."""
ON_EXPERTS = (EXPERTS, GEOMETRY, CONSISTENCY, DEDUP)
"""Evaluations that are shown in the section on experts, in the order of their tables."""
CONCEPTS = "concepts"
"""The evaluation of known concepts; of `consistency` a series, and the metric that counts them."""
ON_LATENTS = (CONCEPTS, "concepts_*", EXPLANATIONS, "study", "circuits_*", "steer")
"""Evaluations of what latents mean and do, `*` for any name. Each has a section of the report to
itself, in the order of a reader's questions: do latents match known concepts; can they be
explained; do people find them interpretable; do circuits run through few of them; does pushing one
do what it says."""
BlockKind = Literal["experts", "cut"]
"""What the blocks of an SAE's latents are: its experts, or equal runs of latents."""
MEAN = "mean over sites"
"""Stands in the place of a site's name in tables of comparisons."""


def question(evaluation: str) -> int | None:
    """The place of an evaluation in `ON_LATENTS`; None if it is not there."""
    matches = (at for at, name in enumerate(ON_LATENTS) if fnmatchcase(evaluation, name))
    return next(matches, None)


def command(evaluation: str) -> str:
    """The command that writes an evaluation's result."""
    name = "eval" if question(evaluation) is None else evaluation.partition("_")[0]
    return f"saeworks {'explain' if evaluation == EXPLANATIONS else name}"
