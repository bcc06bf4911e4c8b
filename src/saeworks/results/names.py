"""The files of a suite that are read as JSON, and the order in which results are shown.

An evaluation's result is `NAME.json` in the suite's `results` folder (`files.seals.RESULTS`).
"""

AUDIT = "audit.json"
COMPARISON = "comparison.json"
LOG = "metrics.jsonl"
PLAN = "plan.json"
FIRST = ("reconstruction", "splice")
"""Evaluations that are shown before the others, which follow by name."""
ON_EXPERTS = frozenset({"geometry", "experts", "consistency", "dedup"})
"""Evaluations that are shown in the section on experts."""
MEAN = "mean over sites"
"""Stands in the place of a site's name in tables of comparisons."""
