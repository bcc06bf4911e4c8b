"""A run on the activations of a cache: no language model is loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch

from saeworks.activations.base import ActivationSource
from saeworks.activations.cache import INDEX, Cache, CachedRows, read_index
from saeworks.activations.ring import RingSource, ring_slots
from saeworks.config import RunConfig, TrainConfig
from saeworks.cost.calibrate import parts_of
from saeworks.cost.estimate import Part
from saeworks.errors import UserError
from saeworks.files.access import sha256
from saeworks.groups.grouping import Groupings
from saeworks.lm.device import choose_device
from saeworks.measure.rows import RowsProbe
from saeworks.train import schedule
from saeworks.train.base import Job
from saeworks.train.log import check_loggers
from saeworks.train.run_dir import differences
from saeworks.train.trainer import FinishedVariant, Probe
from saeworks.train.variants import resolved_variants


@final
@dataclass(frozen=True)
class CachedJob(Job):
    """A run whose rows are those of the run that wrote the cache, in the same order.

    Attributes:
        slots: of its ring.
    """

    cache: Cache
    slots: int

    @classmethod
    def prepare(cls, config: RunConfig) -> "CachedJob":
        """Open the cache and resolve sites, groups and variants.

        Raises:
            UserError: if there is no finished cache, its model, text, order or sites are not the
                run's, it is too short, or the run needs the language model.
        """
        check_loggers(config.log)
        cache = Cache(Path(str(config.source.cache)))
        index, train = cache.index, config.train
        _check_order(config, cache)
        widths = _sites(config, cache)
        groupings = Groupings(widths, index.model["fingerprint"], str(index.model["name"]))
        variants = resolved_variants(config, groupings)
        _check_alone(config, parts_of(variants, widths))
        slots = ring_slots(config.buffer, widths, train.batch, train.tokens)
        rows = read_rows(train, slots)
        if rows > index.tokens:
            raise UserError(
                f"source.cache: {cache.path} holds {index.tokens:,} tokens, and the run reads "
                f"{rows:,}; lower train.tokens, or write a longer cache"
            )
        device = choose_device(config.device)
        return cls(config, index.model, widths, variants, device, cache, slots)

    def source(self) -> ActivationSource:
        config, rows = self.config, CachedRows(self.cache, list(self.widths), self.device)
        train = config.train
        return RingSource(rows, config.buffer, train.batch, config.seed, train.tokens)

    def probe(self, source: ActivationSource) -> Probe | None:
        held_out = self.cache.index.held_out
        if held_out is None or not self.config.train.eval_every:
            return None
        tensors = self.cache.tensors(held_out)
        return RowsProbe(
            {site: tensors[f"x/{site}"].to(self.device, torch.float32) for site in self.widths}
        )

    def notes(self) -> list[str]:
        index = self.cache.index
        lines = [f"activations of {index.model['name']} from {self.cache.path}; it is not loaded"]
        if self.config.train.eval_every:
            held_out = "FVU on the cache's held-out tokens, without ΔCE"
            lines.append(
                f"held-out checks: {held_out if index.held_out else 'none, as the cache has none'}"
            )
        if self.slots != index.shard:
            lines.append(
                f"note: the ring has {self.slots:,} slots, and that of the run which wrote the "
                f"cache {index.shard:,}: rows are the same, drawn in another order than a run on "
                "the language model would draw them"
            )
        return lines

    def identity(self) -> dict[str, Any]:
        return {"cache": sha256(self.cache.path / INDEX)}

    def record(self, trained: FinishedVariant) -> dict[str, Any]:
        batch, parts = self.config.train.batch, parts_of(self.variants, self.widths)
        each = sum(part.flops(batch) for part in parts if part.variant == trained.variant)
        saes = trained.tokens * each
        return {"cost": {"flops": saes, "flops_lm": 0.0, "flops_saes": saes}}


def settings_of(path: Path) -> dict[str, Any]:
    """What a run on a cache takes from it, where nothing else is said: model, text, sites, seed and
    buffer.

    Raises:
        UserError: if there is no cache.
    """
    return read_index(path).config


def read_rows(train: TrainConfig, slots: int) -> int:
    """Rows that a run reads: whole fills of its ring."""
    return -(-schedule.steps(train) * train.batch // slots) * slots


def _check_order(config: RunConfig, cache: Cache) -> None:
    """Refuse a run whose rows would be others, or come in another order."""
    wanted = {
        "model": asdict(config.model),
        "text": asdict(config.text),
        "seed": config.seed,
        "buffer.dtype": config.buffer.dtype,
        "buffer.exclude_norm_above": config.buffer.exclude_norm_above,
    }
    written = dict(cache.index.config)
    written |= {f"buffer.{key}": value for key, value in written.pop("buffer").items()}
    different = differences({key: written[key] for key in wanted}, wanted)
    if different:
        raise UserError(
            f"source.cache: {cache.path} is of another run ({'; '.join(different)}); go back to "
            "its settings, or write a cache for these"
        )


def _sites(config: RunConfig, cache: Cache) -> dict[str, int]:
    """The run's sites in the cache, with their widths."""
    index = cache.index
    if list(config.sites) == index.config["sites"]:
        return index.sites
    for site in config.sites:
        if site not in index.sites:
            raise UserError(
                f"source.cache: {cache.path} has no site {site!r}; it has {', '.join(index.sites)}"
            )
    if index.limits and set(config.sites) != index.sites.keys():
        raise UserError(
            "source.cache: tokens were left out for their norm at any of the cache's sites; train "
            f"on all of them ({', '.join(index.sites)}), or write a cache of fewer"
        )
    return {site: d for site, d in index.sites.items() if site in config.sites}


def _check_alone(config: RunConfig, parts: Sequence[Part]) -> None:
    """Refuse what needs the language model."""
    labelled = any(part.sae.labels is not None for part in parts)
    needs = {
        "error": config.error is not None,
        "train.audit": config.train.audit,
        "an SAE that is trained on labels": labelled,
    }
    for what, is_wanted in needs.items():
        if is_wanted:
            raise UserError(f"{what} needs the language model; leave it out, or source.cache")
