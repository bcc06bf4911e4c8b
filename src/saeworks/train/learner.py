"""One SAE of a run while it is trained: its optimiser, its dead latents, its last step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saeworks.config import NormaliserKind, TrainConfig
from saeworks.dictionary.base import SAE, Trainable
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.site_affine import SiteAffine
from saeworks.train import schedule
from saeworks.train.mixing import View
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import Stepped
from saeworks.train.variants import RunSAE


@dataclass(frozen=True)
class Numbers:
    """A step's numbers on the device.

    Attributes:
        dead: share of the latents that were dead.
        sites: how many the SAE serves.
    """

    step: Stepped
    dead: Tensor
    sites: int

    def by_site(self) -> list[dict[str, Any]]:
        """As plain numbers, for each site; those that are not measured per site are the same for
        all. Waits for the device."""
        shared = {
            "loss": {name: term.item() for name, term in self.step.losses.items()},
            "dead": self.dead.item(),
            "grad_norm": self.step.grad_norm.item(),
        }
        stats = {name: number.tolist() for name, number in self.step.stats.items()}
        return [
            {**{k: v[i] if isinstance(v, list) else v for k, v in stats.items()}, **shared}
            for i in range(self.sites)
        ]


@dataclass
class Learner:
    """An SAE in training.

    Attributes:
        member: what was asked for.
        view: what it sees of a batch.
        idle_M: tokens since each latent fired.
        dead: the latents that are dead.
        last: its last step, once there is one.
        warned: whether it has said its warning.
        seconds: of its steps; NaN where they are not known.
        unseen: steps that were not checked yet: number, names and values of losses and gradient.
    """

    member: RunSAE
    sae: Trainable
    view: View
    config: TrainConfig
    optimiser: DictionaryAdam
    idle_M: Tensor
    dead: Tensor
    lr: float
    last: Stepped | None = field(default=None, repr=False)
    warned: bool = False
    seconds: float = 0.0
    unseen: list[tuple[int, list[str], Tensor]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, member: RunSAE, config: TrainConfig, normaliser: NormaliserKind) -> "Learner":
        """A new one.

        Args:
            config: the run's, before what the variant has of its own.
            normaliser: the run's kind, where the variant names none.

        Raises:
            UserError: if the variant's own options make no configuration.
        """
        sae: Trainable = member.sae
        view = View(member.sites, member.normaliser or normaliser, member.draw)
        if view.normaliser == "learnable":
            sae = SiteAffine(member.sae, len(view.sites))
        config = schedule.variant_config(config, member.train, f"variant {member.variant}")
        lr = schedule.base_lr(config, sae.width)
        adam = (config.betas, config.eps, config.clip, config.moments)
        optimiser = DictionaryAdam(sae, lr, *adam)
        device = next(sae.parameters()).device
        idle_M = torch.zeros(sae.width, dtype=torch.int64, device=device)
        dead = torch.empty(0, dtype=torch.int64, device=device)
        return cls(member, sae, view, config, optimiser, idle_M, dead, lr)

    @property
    def name(self) -> str:
        return f"{self.member.variant} at {self.member.group}"

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold, by name."""
        sae = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        optimiser = {f"adam.{name}": t for name, t in self.optimiser.state_dict().items()}
        return {**sae, **optimiser, "idle": self.idle_M, "dead": self.dead}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.sae.load_state_dict(_under("sae.", tensors))
        self.optimiser.load_state_dict(_under("adam.", tensors))
        self.idle_M.copy_(tensors["idle"])
        self.dead = tensors["dead"].to(self.idle_M.device)

    def at(self, index: int, normaliser: Normaliser) -> SAE:
        """The SAE of one of its sites, on raw activations."""
        return self.sae.for_site(index).folded(normaliser.mean, normaliser.scale)

    def shared(self, normalisers: Mapping[str, Normaliser]) -> tuple[SAE, Mapping[str, Normaliser]]:
        """The SAE in the units in which its sites share it, and the way there from each."""
        if not isinstance(self.sae, SiteAffine):
            return self.member.sae, {site: normalisers[site] for site in self.view.sites}
        return self.member.sae, {
            site: self.sae.normaliser(index, normalisers[site])
            for index, site in enumerate(self.view.sites)
        }

    def numbers(self, threshold: int) -> "Numbers":
        """Those of the last step, wherever they are; does not wait for the device.

        Args:
            threshold: tokens without firing from which a latent is dead.
        """
        assert self.last is not None  # a step was made before it is logged
        dead = (self.idle_M >= threshold).float().mean()
        return Numbers(self.last, dead, len(self.view.sites))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
