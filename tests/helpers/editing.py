"""Files of a suite, changed as whoever writes them would: sealed anew where they are sealed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saeworks.files.seals import SEAL, SUITE, write_sealed


def edit(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file; with suite.json, its results come to be of the changed suite."""
    data = json.loads(file.read_text(encoding="utf-8"))
    sealed = data.pop(SEAL, None) is not None
    change(data)
    if not sealed:
        file.write_text(json.dumps(data), encoding="utf-8")
    else:
        write_sealed(file, data)
    if file.name == SUITE:
        for result in (file.parent / "results").rglob("[!.]*.json"):
            if SEAL in json.loads(result.read_text(encoding="utf-8")):
                edit(result, lambda _: None)
