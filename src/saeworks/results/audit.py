"""What an audit found: sections of metrics per site, and a verdict in words.

The report and the docs read nothing else.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.files.seals import write_sealed
from saeworks.results.figure import without_defaults
from saeworks.results.metric import Value
from saeworks.results.records import SCHEMA, read_record
from saeworks.results.section import Section


@dataclass(frozen=True, config=STRICT)
class Verdict:
    """What the numbers of one site say, in words."""

    degenerate: str | None
    """Why the decomposition is trivial here; None where it is not."""
    sentences: tuple[str, ...]
    """What is claimed, each sentence with its numbers."""
    assumptions: tuple[str, ...]
    """What the reading rests on."""


@dataclass(frozen=True, config=STRICT)
class Fold:
    """The tokens that something was fitted or measured on."""

    tokens: int
    documents: int
    """They come from."""


@dataclass(frozen=True, config=STRICT)
class AuditResult:
    """The audit of one suite: `results/audit.json`."""

    title: str
    config: dict[str, Any]
    """Everything the numbers depend on: tokens asked for, seed, model, text, intervals."""
    tokens: int
    """Tokens of the test documents. What is measured on the first of them only, or fitted on some
    tokens of a fold, says in its series on how many."""
    documents: int
    """Documents they come from."""
    folds: dict[str, Fold]
    """fit, second, test."""
    sections: dict[str, Section]
    """Measurement → what it found."""
    verdicts: dict[str, Verdict]
    """By site."""
    evaluation: Literal["audit"] = "audit"
    schema: Literal[1] = SCHEMA

    def value(self, site: str, section: str, metric: str) -> Value:
        """A number; `Value(None)` where it was not measured."""
        measured = self.sections.get(section)
        return measured.sites.get(site, {}).get(metric, Value(None)) if measured else Value(None)

    def write(self, path: Path) -> None:
        """Write JSON atomically, sealed; NaN and infinity become null."""
        data = asdict(replace(self, sections={}))
        data["sections"] = {
            name: asdict(replace(section, figures=()))
            | {"figures": without_defaults(section.figures)}
            for name, section in self.sections.items()
        }
        write_sealed(path, data)

    @classmethod
    def read(cls, path: Path) -> "AuditResult":
        """Read JSON strictly.

        Raises:
            UserError: if the file is missing, not JSON, of another schema, not what was written, of
                another suite, or has an unknown key.
        """
        return read_record(cls, path, "audit", "saeworks audit")
