"""One concept steered at one site: what is pushed, and what every push does.

Shapes: M latents, n chosen latents, D model width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import Bank
from saeworks.measure.progress import Tick
from saeworks.measure.steering.config import SteeringConfig
from saeworks.measure.steering.curves import Effect, PushCurve
from saeworks.measure.steering.fit import Classes, ConceptSums, candidates, check_live, weights
from saeworks.measure.steering.judges import FiringJudge, Judge
from saeworks.measure.steering.pushes import (
    Cost,
    Push,
    Writer,
    Written,
    ablation,
    differences,
    of_direction,
    of_latents,
)
from saeworks.measure.steering.targets import Target
from saeworks.measure.tasks.cases import Task
from saeworks.results.series import SteeredBy

Curves = dict[SteeredBy, PushCurve]
Texts = dict[tuple[SteeredBy | None, float], Tensor]
"""Kind of push (None: the untouched model) and strength → prompts with continuations."""


@dataclass(frozen=True)
class Steered:
    """What was measured of a concept with one SAE.

    Attributes:
        correlations: of the latents with the concept; None of given ones without a concept.
        tokens: prompts with continuations, of single pushes.
    """

    target: Target
    judge: Judge
    latents: list[int]
    correlations: list[float | None]
    norm: float
    prompt_tokens: int
    curves: Curves
    ablated: Effect
    tokens: Texts


@dataclass(frozen=True)
class Bench:
    """What every push is measured with.

    Attributes:
        task, clean_task_P: the task, if there is one, and its logit differences without a push.
    """

    lm: LanguageModel
    config: SteeringConfig
    fitted: ConceptSums
    cost: Cost
    task: Task | None
    clean_task_P: NDArray[np.float64] | None

    def effects(
        self,
        site: str,
        pushes: Sequence[tuple[Push, float]],
        writer: Writer,
        judge: Judge,
        tick: Tick,
    ) -> tuple[NDArray[np.float64], list[Effect], list[Tensor]]:
        """Counted predictions of each document, and each push's effect and texts."""
        count_R, more = self.cost.of(site, pushes, tick)
        effects, texts = [], []
        for more_R, (push, strength) in zip(more, pushes, strict=True):
            written = writer.write(push(strength, None), judge)
            tick(writer.tokens)
            effects.append(self._effect(more_R, written, push, strength))
            texts.append(written.tokens_PX)
        return count_R, effects, texts

    def _effect(
        self, more_R: NDArray[np.float64], written: Written, push: Push, strength: float
    ) -> Effect:
        task_P = None
        if self.task is not None and self.clean_task_P is not None:
            pushed_P = differences(self.lm, self.task, lambda at_BT: push(strength, at_BT))
            task_P = pushed_P - self.clean_task_P
        return Effect.of(more_R, written, task_P)

    def untouched(self, writer: Writer, judge: Judge, rows: int) -> tuple[Effect, Tensor]:
        """The effect of no push, and the texts."""
        written = writer.write({}, judge)
        task_P = None if self.clean_task_P is None else np.zeros_like(self.clean_task_P)
        return Effect.of(np.zeros(rows), written, task_P), written.tokens_PX

    def curves(
        self,
        site: str,
        kinds: Mapping[SteeredBy, Sequence[Push]],
        writer: Writer,
        judge: Judge,
        tick: Tick,
    ) -> tuple[Curves, Texts]:
        """Kinds of pushes at every strength; several pushes of a kind are pooled."""
        strengths = [strength for strength in self.config.pushes if strength]
        each = [
            (by, push, strength)
            for by, pushes in kinds.items()
            for strength in strengths
            for push in pushes
        ]
        asked = [(push, strength) for _, push, strength in each]
        count_R, effects, tokens = self.effects(site, asked, writer, judge, tick)
        untouched, clean_PX = self.untouched(writer, judge, len(count_R))
        texts: Texts = {(None, 0.0): clean_PX}
        by_push: dict[tuple[SteeredBy, float], list[Effect]] = {}
        for (by, _, strength), effect, tokens_PX in zip(each, effects, tokens, strict=True):
            by_push.setdefault((by, strength), []).append(effect)
            texts.setdefault((by, strength), tokens_PX)
        curves: Curves = {}
        for by, pushes in kinds.items():
            if pushes:
                along = tuple(
                    Effect.pooled(by_push[by, strength]) if strength else untouched
                    for strength in self.config.pushes
                )
                curves[by] = PushCurve(by, self.config.pushes, along, count_R)
        return curves, texts


def shared_pushes(
    bench: Bench, site: str, classes: Classes, seed: int
) -> dict[SteeredBy, list[Push]]:
    """Pushes that need no SAE: the difference of means, and random directions."""
    norm, direction_D = bench.fitted.scale(site), classes.mean_difference()
    generator = torch.Generator().manual_seed(seed)
    random = [
        torch.randn(len(direction_D), generator=generator, dtype=torch.float64).to(direction_D)
        for _ in range(bench.config.controls)
    ]
    return {
        "mean difference": [of_direction(site, direction_D, norm)],
        "random directions": [of_direction(site, random_D, norm) for random_D in random],
    }


@dataclass(frozen=True)
class Trial:
    """A concept at a site, with one SAE.

    Attributes:
        choosing, testing: prompts on which latents are chosen, and measured.
    """

    bench: Bench
    bank: Bank
    site: str
    target: Target
    classes: Classes
    live_M: Tensor
    choosing: Writer
    testing: Writer
    tick: Tick

    @property
    def sae(self) -> SAE:
        """The site's."""
        return self.bank[self.site]

    def judge(self) -> Judge:
        """Who judges the text."""
        return self.target.judge or FiringJudge(self.sae, self.site, self.bench.config.latents)

    def shared(self, seed: int) -> tuple[Curves, Texts]:
        """The curves that need no SAE."""
        kinds = shared_pushes(self.bench, self.site, self.classes, seed)
        return self.bench.curves(self.site, kinds, self.testing, self.judge(), self.tick)

    def steered(self, shared: tuple[Curves, Texts], seed: int) -> Steered:
        """Choose latents, push them and random ones, and put them beside the others."""
        latents, norm = self._latents(), self.bench.fitted.scale(self.site)
        kinds: dict[SteeredBy, list[Push]] = {
            "latents": [self._push(latents)],
            "random latents": [self._push([latent]) for latent in self._random(latents, seed)],
        }
        testing = (self.testing, self.judge(), self.tick)
        curves, tokens = self.bench.curves(self.site, kinds, *testing)
        removed = [(ablation(self.bank, self.site, latents), 0.0)]
        _, ablated, _ = self.bench.effects(self.site, removed, *testing)
        r_M = self.classes.correlation()
        given = self.target.label_NT is None
        order: tuple[SteeredBy, ...] = (
            "latents",
            "mean difference",
            "random latents",
            "random directions",
        )
        every = curves | shared[0]
        return Steered(
            self.target,
            self.judge(),
            latents,
            [None if given else float(r_M[latent]) for latent in latents],
            norm,
            self.testing.prompts_PT.shape[1],
            {by: every[by] for by in order if by in every},
            ablated[0],
            shared[1] | tokens,
        )

    def _push(self, latents: Sequence[int]) -> Push:
        fitted, config = self.bench.fitted, self.bench.config
        a_n = weights(self.sae, latents, None if config.latents else self.classes)
        return of_latents(self.bank, self.site, latents, a_n, config.edit, fitted.scale(self.site))

    def _latents(self) -> list[int]:
        config, where = self.bench.config, f"{self.target.name} at {self.site}"
        if config.latents:
            tokens = self.bench.fitted.held_out.kept
            check_live(self.live_M, config.latents, self.site, tokens)
            return list(config.latents)
        if config.together > 1 or config.candidates == 1:
            return candidates(self.classes, config.together, where)
        strength = sorted(config.strengths)[len(config.strengths) // 2]
        judge, moved = self.judge(), {}
        for latent in candidates(self.classes, config.candidates, where):
            push, rates = self._push([latent]), []
            for signed in (strength, -strength):
                written = self.choosing.write(push(signed, None), judge)
                rates.append(written.hits_P.sum() / max(written.tokens_P.sum(), 1))
                self.tick(self.choosing.tokens)
            moved[latent] = rates[0] - rates[1]
        return [max(moved, key=lambda latent: moved[latent])]

    def _random(self, latents: Sequence[int], seed: int) -> list[int]:
        """Live latents but the chosen ones."""
        live = [at for at in self.live_M.nonzero()[:, 0].tolist() if at not in latents]
        rng = np.random.default_rng(seed)
        count = min(self.bench.config.controls, len(live))
        return [int(at) for at in rng.choice(live, count, replace=False)] if count else []
