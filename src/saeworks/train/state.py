"""All that a run is at a step: its SAEs in training, their units, and where it is in the text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saeworks.activations import outliers
from saeworks.activations.base import ActivationSource
from saeworks.activations.offset import mean_over_std, offset_warning
from saeworks.activations.outliers import Outliers
from saeworks.activations.seeds import derive_seed, generator
from saeworks.config import BufferConfig, NormaliserKind
from saeworks.dictionary.base import SAE, Batch
from saeworks.dictionary.normaliser import Normaliser
from saeworks.train.checkpoints import Checkpoint
from saeworks.train.learner import Learner
from saeworks.train.mixing import View


@dataclass
class RunState:
    """What a checkpoint holds of a run, but for its log.

    Attributes:
        learners: the SAEs, each with its optimiser.
        source: the activations.
        seed: of the initialisation and of what is drawn.
        step: steps done.
        position: of the source after them.
        normalisers: of each kind that a learner wants, by site.
        mean_over_std: site → ‖μ‖/‖σ‖ of the rows that its normaliser was estimated on; None where
            they do not vary.
    """

    learners: list[Learner]
    source: ActivationSource
    seed: int
    step: int = 0
    position: dict[str, Any] = field(default_factory=dict)
    normalisers: dict[NormaliserKind, dict[str, Normaliser]] = field(default_factory=dict)
    mean_over_std: dict[str, float | None] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.learners[0].idle_M.device

    def of(self, variant: str) -> list[Learner]:
        """The learners of a variant."""
        return [learner for learner in self.learners if learner.member.variant == variant]

    def batch(
        self, view: View, x: Mapping[str, Tensor], step: int, label: Tensor | None = None
    ) -> Batch:
        """What an SAE sees at a step; −1 for its initialisation."""
        on_device = {site: x[site].to(self.device) for site in view.sites}
        return view.batch(
            on_device, self.normalisers[view.normaliser], self.seed, step, label=label
        )

    def bank(self, variant: str) -> dict[str, SAE]:
        """site → SAE on raw activations."""
        return {
            site: learner.at(index, self.normalisers[learner.view.normaliser][site])
            for learner in self.of(variant)
            for index, site in enumerate(learner.view.sites)
        }

    def initialise(self, buffer: BufferConfig, batch: int, say: Callable[[str], None]) -> None:
        """Normalisers first, then SAEs, on the first rows of the run.

        Args:
            batch: rows that SAEs are initialised on.
        """
        torch.manual_seed(derive_seed(self.seed, "global"))
        kinds = self._kinds()
        head: dict[str, Tensor] = {}
        far: dict[str, Outliers] = {}
        for site in dict.fromkeys(site for sites in kinds.values() for site in sites):
            x_ND = self.source.head(site, max(buffer.normaliser_tokens, batch))
            first_ND = x_ND[: buffer.normaliser_tokens].to(self.device)
            head[site] = x_ND[:batch].clone()
            far[site] = Outliers.of(first_ND)
            self.mean_over_std[site] = mean_over_std(first_ND)
            for kind, sites in kinds.items():
                if site in sites:
                    frozen = "centre-scale" if kind == "learnable" else kind
                    normaliser = Normaliser.estimate(first_ND, frozen)
                    self.normalisers.setdefault(kind, {})[site] = normaliser
        raw = {site for kind in ("scale-only", "none") for site in kinds.get(kind, ())}
        off_centre = {site: self.mean_over_std[site] for site in raw}
        for warning in (outliers.warning(far), offset_warning(off_centre)):
            if warning:
                say(f"warning: {warning}")
        for view in dict.fromkeys(learner.view for learner in self.learners):
            x_BD = self.batch(view, head, -1).x
            for learner in self.learners:
                if learner.view == view:
                    member = learner.member
                    random = generator(self.seed, member.group, member.variant)
                    learner.sae.initialise(x_BD, random)

    def facts(self) -> dict[str, Any]:
        """What is no tensor, as plain JSON values."""
        seconds = [learner.seconds for learner in self.learners]
        return {
            "source": self.position,
            "mean_over_std": self.mean_over_std,
            "step_seconds": [None if math.isnan(value) else value for value in seconds],
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors by the names of their files; those that are trained go on changing."""
        shared = {"rng": torch.get_rng_state()}
        for kind, by_site in self.normalisers.items():
            for site, normaliser in by_site.items():
                shared[f"{kind}:{site}.mean"] = normaliser.mean
                shared[f"{kind}:{site}.scale"] = normaliser.scale
        saes = {f"sae-{i:04d}": learner.tensors() for i, learner in enumerate(self.learners)}
        return {"run": shared, **saes}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds."""
        facts, shared = checkpoint.state, checkpoint.tensors("run")
        self.step = int(facts["step"])
        for kind, sites in self._kinds().items():
            for site in sites:
                mean, scale = (shared[f"{kind}:{site}.{name}"] for name in ("mean", "scale"))
                normaliser = Normaliser(mean, scale).to(self.device)
                self.normalisers.setdefault(kind, {})[site] = normaliser
        torch.set_rng_state(shared["rng"])
        self.source.load_state_dict(facts["source"])
        self.mean_over_std = dict(facts["mean_over_std"])
        seconds = facts["step_seconds"]
        for i, (learner, value) in enumerate(zip(self.learners, seconds, strict=True)):
            learner.load(checkpoint.tensors(f"sae-{i:04d}"))
            learner.seconds = math.nan if value is None else float(value)

    def _kinds(self) -> dict[NormaliserKind, list[str]]:
        """The sites of each kind of normaliser."""
        kinds: dict[NormaliserKind, list[str]] = {}
        for view in dict.fromkeys(learner.view for learner in self.learners):
            sites = kinds.setdefault(view.normaliser, [])
            sites += [site for site in view.sites if site not in sites]
        return kinds
