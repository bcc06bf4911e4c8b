"""Options of `saeworks concepts`. It imports no torch."""

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT, Device
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class ConceptsConfig:
    """Which concepts latents are compared with, and on how much."""

    labels: str = "auto"
    """Where concepts come from: `embedded` (the grammar's), `rules` (for any English text), a
    .jsonl file of labelled documents, `sae-probes` or `sae-probes/PATTERN` (that package's data
    sets); `auto` is `embedded` where the text is, else `rules`."""
    tokens: int = 40_000
    """Held-out tokens (fewer where the text has fewer): half to choose and fit on, half to score
    on."""
    k: tuple[int, ...] = (1, 2, 5, 10)
    """Latents of the sparse probes."""
    least: int = 20
    """Tokens with a concept, and without it, that each half must have; other concepts are left
    out."""
    texts: int = 200
    """Texts of each data set of sae-probes, half of them positive."""
    baselines: bool = True
    """Also measure MLP neurons, PCA directions and SAEs with random directions, on the same
    tokens."""
    bootstrap: int = 1000
    """Resamples of the documents behind each interval."""
    seed: int = 0
    """Seed of the halves, of the bootstrap and of the random directions."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        for key in ("tokens", "least", "texts"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least 1")
        for key in ("bootstrap", "seed"):
            if getattr(self, key) < 0:
                raise UserError(f"{key} = {getattr(self, key)}: it must be at least 0")
        if not self.k or min(self.k) < 1:
            raise UserError(f"k = {self.k}: numbers of latents, each at least 1, such as 1 2 5 10")
