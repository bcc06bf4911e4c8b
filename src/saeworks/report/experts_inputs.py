"""What evaluations say of experts beyond single numbers, read from the series of their results.

N experts or blocks, n latents on a map.
"""

from typing import Any, Literal, Self, TypeVar

from pydantic import RootModel, TypeAdapter, ValidationError, model_validator

from saeworks.errors import UserError
from saeworks.report.inputs import (
    Histogram,
    Record,
    SuiteData,
    explain,
)

Matrix = list[list[float | None]]
T = TypeVar("T")


class Load(Record):
    """Shares of the visits, mean confidence and live latents of each expert."""

    share: list[float]
    confidence: list[float | None]
    live: list[int]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        return _checked(self, len(self.share) == len(self.confidence) == len(self.live))


class Similarity(Record):
    """Between blocks, the experts or equal runs of latents; matrices null where N is large."""

    kind: Literal["experts", "cut"]
    blocks: int
    live: list[int]
    matrix: Matrix | None = None
    control: Matrix | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        found = [matrix for matrix in (self.matrix, self.control) if matrix is not None]
        return _checked(self, all(_is_square(matrix, self.blocks) for matrix in found))


class Tsne(Record):
    """Places of live latents on two maps."""

    perplexity: float
    latents: list[int]
    expert: list[int]
    decoder: list[tuple[float, float]]
    encoder: list[tuple[float, float]]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        n = len(self.latents)
        return _checked(self, n == len(self.expert) == len(self.decoder) == len(self.encoder))


class Duplicates(Record):
    """Shares of live latents with a neighbour beyond each threshold, and of random rows."""

    thresholds: list[float]
    shares: list[float | None]
    random: list[float | None]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        return _checked(self, len(self.thresholds) == len(self.shares) == len(self.random))


class Domains(Record):
    """Over which experts the visits of each domain go."""

    labels: list[str]
    share: list[list[float | None]]
    documents: list[int]

    @model_validator(mode="after")
    def _one_row_each(self) -> Self:
        return _checked(self, len(self.labels) == len(self.share) == len(self.documents))


class Overlap(Record):
    """Of the chosen expert's active directions, those that another has, too."""

    matrix: Matrix | None = None


class Queen(Record):
    """Concepts with different latents in different experts, over thresholds of φ."""

    thresholds: list[float]
    queen: list[float | None]
    coded: list[float | None]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        return _checked(self, len(self.thresholds) == len(self.queen) == len(self.coded))


class Coded(Record):
    """A concept's latent in one expert."""

    expert: int
    latent: int
    phi: float


class Concept(Record):
    """A known concept, where it is coded."""

    concept: str
    value: str
    places: int
    coded: list[Coded]
    cosine: float | None = None


class Concepts(RootModel[list[Concept]]):
    """All that could be coded in two places or more."""


SERIES: dict[str, tuple[str, Any]] = {
    "load": ("experts", Load),
    "similarity": ("geometry", Similarity),
    "tsne": ("geometry", Tsne),
    "duplicates": ("geometry", Duplicates),
    "domains": ("experts", Domains),
    "overlap": ("experts", Overlap),
    "confidence": ("experts", Histogram),
    "nearest": ("geometry", Histogram),
    "queen": ("consistency", Queen),
    "concepts": ("consistency", Concepts),
}
"""Name → the evaluation that has it, and what it is."""


def series_of(suite: SuiteData, site: str, name: str, cls: type[T]) -> T | None:
    """None where it was not measured.

    Raises:
        UserError: if it is not what it should be.
    """
    evaluation, _ = SERIES[name]
    result = suite.results.get(evaluation)
    found = None if result is None else result.series.get(site, {}).get(name)
    if found is None:
        return None
    try:
        return TypeAdapter(cls).validate_python(found)
    except ValidationError as error:
        raise UserError(
            f"{suite.path / 'results' / evaluation}.json: "
            f"{explain(error, 'series', site, name)}; restore it or write it anew"
        ) from None


def _checked(record: T, good: bool) -> T:
    if not good:
        raise ValueError("its parts are not of one length")
    return record


def _is_square(matrix: Matrix, n: int) -> bool:
    return len(matrix) == n and all(len(row) == n for row in matrix)
