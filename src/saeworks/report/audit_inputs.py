"""Reading results/audit.json for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from saeworks.errors import UserError
from saeworks.report.inputs import (
    Metric,
    Record,
    SuiteData,
    Value,
    check_described,
    explain,
    read_record,
)
from saeworks.results.names import AUDIT


class NormSample(Record):
    """Predicted and actual ‖e‖² of the same tokens."""

    predicted: list[float]
    actual: list[float]
    of_tokens: int

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        _check_alike(self.predicted, self.actual)
        return self


class Positions(Record):
    """The error by position in the context, a bin each."""

    first_position: list[int]
    tokens: list[int]
    fvu: list[float | None]
    fvu_nonlinear: list[float | None]

    @model_validator(mode="after")
    def _bins(self) -> Self:
        _check_alike(self.first_position, self.tokens, self.fvu, self.fvu_nonlinear)
        return self


class Widths(Record):
    """What the curve over an MLP's widths is of."""

    widths: list[int]


def _check_alike(*lists: Sequence[Any]) -> None:
    if len({len(values) for values in lists}) > 1:
        raise ValueError("lists of one series differ in length")


class AuditSection(Record):
    """One measurement at every site."""

    title: str
    about: str = ""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    sites: dict[str, dict[str, Value]] = Field(default_factory=dict)
    series: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _described(self) -> Self:
        check_described(self.sites.values(), self.metrics)
        return self


class AuditVerdict(Record):
    """What the numbers of one site say."""

    degenerate: str | None = None
    sentences: list[str] = Field(default_factory=list)
    assumptions: list[str] = Field(default_factory=list)


class Fold(Record):
    """The tokens that something was fitted or measured on."""

    tokens: int
    documents: int


class AuditFile(Record):
    """results/audit.json."""

    tokens: int
    documents: int
    folds: dict[str, Fold] = Field(default_factory=dict)
    sections: dict[str, AuditSection]
    verdicts: dict[str, AuditVerdict]


@dataclass(frozen=True)
class Audited:
    """A suite with its audit."""

    index: int
    """Its number in the report."""
    suite: SuiteData
    file: AuditFile

    @property
    def label(self) -> str:
        """The suite's."""
        return self.suite.label

    @property
    def sites(self) -> list[str]:
        """The audited sites, in their order."""
        return list(self.file.verdicts)

    def value(self, site: str, section: str, metric: str) -> Value | None:
        """A number, or None where it was not measured or is undefined."""
        found = self.file.sections.get(section)
        value = found.sites.get(site, {}).get(metric) if found else None
        return value if value is not None and value.value is not None else None

    def series(self, site: str, section: str, cls: type[Any]) -> Any:
        """The lists for a chart as a record, or None where there are none.

        Raises:
            UserError: if they are not what they should be.
        """
        found = self.file.sections.get(section)
        raw = found.series.get(site) if found else None
        if not raw:
            return None
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise UserError(
                f"{self.suite.path / 'results' / AUDIT}: "
                f"{explain(error, section, 'series', site)}; run `saeworks audit` again"
            ) from None


def read_audits(suites: Sequence[SuiteData]) -> list[Audited]:
    """The suites that were audited.

    Raises:
        UserError: if a file is not what it should be.
    """
    found = []
    for index, suite in enumerate(suites):
        file = read_record(AuditFile, suite.path / "results" / AUDIT, "audit")
        if file is not None and file.verdicts:
            found.append(Audited(index, suite, file))
    return found
