"""Reading results/audit.json for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from saeworks.files.seals import RESULTS
from saeworks.report.suites import SuiteData
from saeworks.results.audit import AuditResult
from saeworks.results.metric import Value
from saeworks.results.names import AUDIT
from saeworks.results.records import parse


class Record(BaseModel):
    """Keys that a report does not show are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


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


@dataclass(frozen=True)
class Audited:
    """A suite with its audit."""

    index: int
    """Its number in the report."""
    suite: SuiteData
    file: AuditResult

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
        file = str(self.suite.path / RESULTS / AUDIT)
        way_out = "run `saeworks audit` again"
        return parse(cls, raw, file, way_out, "sections", section, "series", site)


def read_audits(suites: Sequence[SuiteData]) -> list[Audited]:
    """The suites that were audited."""
    return [
        Audited(index, suite, suite.audit)
        for index, suite in enumerate(suites)
        if suite.audit is not None and suite.audit.verdicts
    ]
