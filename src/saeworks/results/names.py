"""The files in a suite's `results` folder, and the order in which they are shown.

An evaluation's result is `NAME.json` there. The folder itself is `files.seals.RESULTS`.
"""

AUDIT = "audit.json"
COMPARISON = "comparison.json"
FIRST = ("reconstruction", "splice")
"""Evaluations that are shown before the others, which follow by name."""
ON_EXPERTS = frozenset({"geometry", "experts", "consistency", "dedup"})
"""Evaluations that are shown in the section on experts."""
