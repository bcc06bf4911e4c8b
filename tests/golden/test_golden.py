"""The losses of a tiny run on a tiny random model, compared with those that were stored."""

import json
from pathlib import Path

from helpers.fakes import fake_trainer
from helpers.stored import compare

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
    compare(losses(tmp_path), GOLDEN)
