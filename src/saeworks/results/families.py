"""SAEs of one architecture, several widths and about equal L0 at one site, as the series of the
audit's section on scaling."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.results.metric import Value
from saeworks.results.records import check_lengths

SECTION = "scaling"
"""The section's name."""


@dataclass(frozen=True, config=STRICT)
class FvuPart:
    """One of the parts that add up to an FVU, with its colour."""

    label: str
    ink: int
    value: Value


@dataclass(frozen=True, config=STRICT)
class FamilyMember:
    """One SAE of a family."""

    suite: str
    width: int
    l0: float
    fvu: Value
    fvu_nonlinear: Value
    bands: dict[str, float | None]
    """As the section's metrics call them, without intervals."""
    parts: list[FvuPart]
    """From below; the interval of FVU_nl is on its part, that of FVU on the last."""


@dataclass(frozen=True, config=STRICT)
class Curve:
    """A law as drawn."""

    width: list[float]
    fvu: list[float]

    def __post_init__(self) -> None:
        check_lengths(self.width, self.fvu)


@dataclass(frozen=True, config=STRICT)
class Law:
    """FVU = c + a·W^(−m)."""

    c: Value
    a: Value
    m: Value
    identified: bool
    """Whether the widths say what c is."""
    why: str
    residual: float
    scatter: float
    curve: Curve


@dataclass(frozen=True, config=STRICT)
class NormPair:
    """‖e‖ at one width from that at a smaller one; both are places among the family's SAEs."""

    narrow: int
    wide: int
    r2: Value
    r2_with_nonlinear: Value
    """With ‖u‖ of the narrow one added."""
    added_percent: Value
    """By ‖u‖, of what was left."""


@dataclass(frozen=True, config=STRICT)
class LeftOut:
    """An SAE that is not compared."""

    suite: str
    width: int
    l0: float
    why: str


@dataclass(frozen=True, config=STRICT)
class Family:
    """All that is told of a family at a site."""

    arch: str
    saes: list[FamilyMember]
    own: int
    """The place of the suite's own SAE among them."""
    law: Law | None = None
    """None of fewer than three widths."""
    per_token: list[NormPair] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
