"""The options of a human study. It imports no torch."""

from typing import Annotated

from pydantic.dataclasses import dataclass
from tyro.conf import UseAppendAction

from saeworks.config import STRICT
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class HumanStudyConfig:
    """What a new study shows."""

    latents: int = 96
    """Latents of each suite, as many of every site."""
    site: Annotated[tuple[str, ...], UseAppendAction] = ()
    """Only these sites, as the suites name them and as often as needed; by default all that the
    suites have in common."""
    seed: int = 0
    """Seed of the choice of latents and of their order."""

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise UserError(f"latents = {self.latents}: must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed = {self.seed}: must be from 0 to 2**63 - 1")
