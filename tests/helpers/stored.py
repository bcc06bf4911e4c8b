"""Values that are stored with the tests, compared with those of today.

SAEWORKS_WRITE_GOLDEN=1 make golden      # after a change that is meant to move them
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Processors differ in the last bits of a sum, and so a little in what follows from many sums.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
_DIGEST = re.compile(r"[0-9a-f]{64}")


def compare(now: Mapping[str, Any], file: Path) -> None:
    """Fail at the first place where plain data is not what `file` holds; write the file first, if
    that is asked for: a line for each key, floats with six digits."""
    if os.environ.get("SAEWORKS_WRITE_GOLDEN"):
        lines = (f"{json.dumps(key)}:{_compact(now[key])}" for key in sorted(now))
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    stored = json.loads(file.read_text(encoding="utf-8"))
    place = difference(stored, now)
    assert place is None, f"{file.name} ≠ today: {place}"


def _compact(value: Any) -> str:
    return json.dumps(rounded(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def rounded(value: Any) -> Any:
    """Floats with six significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def without(value: Any, keys: frozenset[str]) -> Any:
    """Plain data without the keys named, and without values that are a SHA-256, at any depth."""
    if isinstance(value, dict):
        return {
            key: without(part, keys)
            for key, part in value.items()
            if key not in keys and not (isinstance(part, str) and _DIGEST.fullmatch(part))
        }
    return [without(part, keys) for part in value] if isinstance(value, list) else value


def difference(stored: Any, now: Any, place: str = "") -> str | None:
    """The first place where two pieces of plain data differ, and how; None where they agree."""
    if _is_number(stored) and _is_number(now):
        near = math.isclose(now, stored, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return None if near else f"{place}: {stored!r} is now {now!r}"
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in stored.keys() | now.keys():
            if key not in stored or key not in now:
                return f"{place}/{key} is {'gone' if key in stored else 'new'}"
        pairs = [(f"{place}/{key}", stored[key], now[key]) for key in stored]
    elif isinstance(stored, list) and isinstance(now, list):
        if len(stored) != len(now):
            return f"{place}: {len(stored)} entries are now {len(now)}"
        pairs = [(f"{place}/{at}", *both) for at, both in enumerate(zip(stored, now))]
    else:
        same = type(stored) is type(now) and stored == now
        return None if same else f"{place}: {stored!r} is now {now!r}"
    places = (difference(before, after, where) for where, before, after in pairs)
    return next((where for where in places if where is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
