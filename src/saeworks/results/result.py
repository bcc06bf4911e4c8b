"""What an evaluation found: values with intervals per site, and how to read them.

The report and the docs read nothing else, so everything a reader needs (titles, units, what was
replaced, over which tokens) is in the JSON.
"""

import re
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.files.seals import write_sealed
from saeworks.results.figure import Figure, without_defaults
from saeworks.results.metric import Metric, Value
from saeworks.results.records import SCHEMA, check_described, read_record

PLACEHOLDER = re.compile(r"\{(\w+)(%?)\}")
"""Of a metric's value in a sentence: `{key}` is a number, `{key%}` a percentage."""
TABLE = "table"
"""The key of the sentence that is the caption of a result's table."""


@dataclass(frozen=True, config=STRICT)
class Result:
    """One evaluation of one suite: metrics, their values per site, series for charts."""

    evaluation: str
    """Its name, and its file's name in the suite's `results` folder."""
    title: str
    """For a heading."""
    config: dict[str, Any]
    """Everything the numbers depend on: tokens asked for, seed, model, text, interval."""
    tokens: int
    """Held-out tokens it was measured on."""
    documents: int
    """Documents they come from."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """What the keys of `sites` mean."""
    sites: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Site → metric → value."""
    series: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Site → histogram or list, as plain JSON; a long list as `files.access.LazyList`."""
    figures: tuple[Figure, ...] = ()
    """How it is drawn."""
    sentences: dict[str, str] = field(default_factory=dict)
    """Series → what is said of it under its figure, with a `PLACEHOLDER` for each value; `TABLE` →
    the caption of the table, where it is not the title."""
    findings: tuple[str, ...] = ()
    """What the numbers say, in whole sentences with their intervals, the most important first."""
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        check_described(self.sites.values(), self.metrics)
        placeholders = (PLACEHOLDER.finditer(sentence) for sentence in self.sentences.values())
        check_described(((place[1] for place in places) for places in placeholders), self.metrics)

    def write(self, path: Path) -> None:
        """Write JSON atomically, sealed; NaN and infinity become null."""
        data = asdict(replace(self, series={}, figures=()))
        data |= {"series": self.series, "figures": without_defaults(self.figures)}
        for optional in ("sentences", "findings"):
            if not data[optional]:
                del data[optional]
        write_sealed(path, data)

    def values(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Site → metric → value, low, high, as plain data."""
        return {
            site: {name: asdict(value) for name, value in values.items()}
            for site, values in self.sites.items()
        }

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read JSON strictly.

        Raises:
            UserError: if the file is missing, not JSON, of another schema, not what was written, of
                another suite, has an unknown key, or a site has a metric that `metrics` does not
                describe.
        """
        return read_record(cls, path, "result", "saeworks eval")
