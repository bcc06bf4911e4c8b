"""Options of an audit."""

from pydantic.dataclasses import dataclass

from saeforge.config import STRICT
from saeforge.errors import UserError


@dataclass(frozen=True, config=STRICT)
class AuditConfig:
    """What `saeforge audit` measures, and on how much."""

    tokens: int = 200_000
    """Held-out tokens: half to fit on, a quarter for what is fitted to the parts, a quarter to
    measure on."""
    bootstrap: int = 1000
    """Resamples of the test documents behind each interval."""
    seed: int = 0
    """Seed of the split into folds, the bootstrap and the null targets."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""

    def __post_init__(self) -> None:
        for key, least in (("tokens", 1), ("bootstrap", 0), ("seed", 0)):
            if getattr(self, key) < least:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least {least}")
