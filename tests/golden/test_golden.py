"""The losses of a tiny run on a tiny random model, compared with those that were stored.

SAEWORKS_WRITE_GOLDEN=1 make golden      # after a change that is meant to move them
"""

import json
import os
from pathlib import Path

import pytest

from helpers.fakes import fake_trainer

GOLDEN = Path(__file__).with_name("losses.json")


def losses(out: Path) -> dict[str, dict[str, list[float]]]:
    """FVU and every loss term at each logged step: variant and site → name → values."""
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(out.rglob("metrics.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if line["kind"] == "train":
                series = found.setdefault(f"{path.parent.name}/{line['site']}", {})
                for name, value in {**line["loss"], "fvu": line["fvu"]}.items():
                    series.setdefault(name, []).append(value)
    return found


def test_losses_are_the_stored_ones(tmp_path: Path) -> None:
    assert fake_trainer(tmp_path).run() == "finished"
    now = losses(tmp_path)
    if os.environ.get("SAEWORKS_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")
    stored = json.loads(GOLDEN.read_text())
    assert now.keys() == stored.keys()
    for where, series in stored.items():
        assert now[where].keys() == series.keys(), where
        for name, values in series.items():
            assert now[where][name] == pytest.approx(values, rel=1e-4), (where, name)
