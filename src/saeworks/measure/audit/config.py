"""Options of an audit."""

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class AuditConfig:
    """What `saeworks audit` measures, and on how much."""

    tokens: int = 200_000
    """Held-out tokens: half to fit on, a quarter for what is fitted to the parts, a quarter to
    measure on."""
    bootstrap: int = 1000
    """Resamples of the test documents behind each interval."""
    seed: int = 0
    """Seed of the split into folds, the bootstrap and the null targets."""
    adjacent: bool = True
    """Also what the site before knows of each site's error."""
    pursuit: int = 4096
    """Tokens of the second and of the test fold whose codes are also found by pursuit; 0: none."""
    mlp: int = 16384
    """Tokens of the fit fold that MLP probes are trained on; 0: none."""
    wide: int = 0
    """Tokens of the fit fold that wide SAEs without penalty (4, 16 and 64 times D latents) are
    trained on, beside the MLP probes; 0: none. About 1.3·10⁸ times D² operations for each SAE:
    at D = 256 two or three minutes on four cores."""
    codes: int = 16384
    """Tokens of the fit fold to whose codes a factor for each latent and a decoder are fitted, for
    the shrinkage ladder and the attribution; 0: none."""
    zeroing: int = 16384
    """Tokens of the second and of the test fold for the grid of the synthetic test, in which the
    weakest latents are zeroed; 0: no grid."""
    downstream: int = 20_000
    """Tokens of the test fold on which parts are put back into the model; 0: none."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""

    def __post_init__(self) -> None:
        for key, least in (
            ("tokens", 1),
            ("bootstrap", 0),
            ("seed", 0),
            *((key, 0) for key in ("pursuit", "mlp", "wide", "codes", "zeroing", "downstream")),
        ):
            if getattr(self, key) < least:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least {least}")
