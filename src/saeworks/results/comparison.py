"""One suite beside its baseline: `results/comparison.json`."""

from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.files.seals import RESULTS, write_sealed
from saeworks.results.metric import Metric, Value
from saeworks.results.names import COMPARISON
from saeworks.results.records import SCHEMA, check_described, check_lengths, read_record
from saeworks.results.series import Histogram


@dataclass(frozen=True, config=STRICT)
class Paired:
    """One metric of a suite and of its baseline, with 95% intervals from the same resamples."""

    suite: Value
    baseline: Value
    difference: Value
    """suite − baseline."""
    ratio: Value | None = None
    """suite / baseline, where that says something."""


@dataclass(frozen=True, config=STRICT)
class Named:
    """A suite by its path, variant and seed."""

    path: str
    """Relative to the folder of the suite that was compared."""
    variant: str
    seed: int | None = None


@dataclass(frozen=True, config=STRICT)
class Matched:
    """How well the baseline's latents are matched by those of another SAE at the same site."""

    mmcs: float | None
    mmco: float | None


@dataclass(frozen=True, config=STRICT)
class SiteAlignment:
    """One site's dictionaries."""

    suite: Matched
    """The baseline's latents in the suite's SAE."""
    seeds: list[Matched]
    """The baseline's latents in the baseline's SAE of each other seed."""
    live: int
    """Latents of the baseline that fire on the tokens: those that the means run over."""
    silent: int
    """Latents of the baseline that never do."""
    suite_live: int
    """Latents of the suite's SAE that fire here."""
    suite_silent: int
    """Latents of the suite's SAE that never do."""


@dataclass(frozen=True, config=STRICT)
class Spread:
    """How the latents of one SAE spread over the sites that share it."""

    sites: list[str]
    live: int
    """Latents that fire at any of the sites; the others are left out of all below."""
    silent: int
    lives_at: list[int]
    """How many latents live at one site, at two, … at all of them."""
    effective: float | None
    """Mean effective number of sites: exp of the entropy of a latent's firing over the sites."""
    effective_histogram: Histogram
    """Latents by their effective number of sites."""
    share: list[list[float]]
    """Heat map: a row per bin of latents, a column per site: the mean share of a latent's firing
    that is at the site; a row's sum is 1."""
    latents: list[int]
    """Latents of each row, which are in the order of their centre of mass over the sites."""
    lives: float
    """The share of its largest frequency from which a latent counts as living at a site."""

    def __post_init__(self) -> None:
        check_lengths(self.sites, self.lives_at, *self.share)
        check_lengths(self.share, self.latents)


@dataclass(frozen=True, config=STRICT)
class Alignment:
    """The dictionaries of a suite beside those of its baseline."""

    tokens: int
    """Held-out tokens on which firing was counted."""
    documents: int
    held_out: str
    """SHA-256 of those tokens."""
    metrics: dict[str, Metric]
    sites: dict[str, SiteAlignment]
    spread: dict[str, Spread] = field(default_factory=dict)
    """Of every SAE that several sites share, by the name of its group."""


@dataclass(frozen=True, config=STRICT)
class Comparison:
    """One suite beside its baseline."""

    suite: Named
    baseline: Named
    """What it is compared with."""
    seeds: list[Named]
    """The baseline trained with other seeds, for the alignment's scale."""
    config: dict[str, Any]
    """Everything the numbers depend on: model, held-out tokens' SHA-256, resamples."""
    tokens: dict[str, int]
    """Evaluation → held-out tokens."""
    documents: dict[str, int]
    """Evaluation → documents they come from."""
    metrics: dict[str, Metric]
    """What the keys of `sites` and `mean` mean."""
    sites: dict[str, dict[str, Paired]]
    """Every site of both → metric → its values."""
    mean: dict[str, Paired]
    """The same of the mean over those sites; the ratio is that of the means."""
    alignment: Alignment | None = None
    """How the two dictionaries correspond."""
    notes: list[str] = field(default_factory=list)
    """What differs besides the SAEs, and the regime that the ratio is of."""
    evaluation: Literal["comparison"] = "comparison"
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        check_described([*self.sites.values(), self.mean], self.metrics)

    def write(self, folder: Path) -> None:
        """Write `results/comparison.json` of a suite's folder atomically, sealed."""
        write_sealed(folder / RESULTS / COMPARISON, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Comparison":
        """Read a suite's comparison strictly.

        Raises:
            UserError: if it is missing, not JSON, not of this schema, not what was written, or of
                another suite.
        """
        return read_record(cls, folder / RESULTS / COMPARISON, "comparison", "saeworks compare")
