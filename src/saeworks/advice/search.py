"""Every run that could be made, what it costs and what the law predicts of it; and the best one.

Shapes: C runs, S sites, R draws of the law.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from saeworks.advice.budget import Budget, Goal
from saeworks.advice.costs import Speeds
from saeworks.advice.law import Array, FVULaw, Sizes, interval
from saeworks.advice.pilot import DENSE, EXPERTS
from saeworks.cost.estimate import Part, Predicted, Workload
from saeworks.groups.partition import even
from saeworks.results.headlines import DELTA_CE

EXPANSIONS, NUMBERS = (1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16)
"""Widths (times D) and numbers of experts that are weighed: up to four times the pilots'."""
LENGTHS = 24
EVALUATIONS = 4
"""Held-out evaluations in an advised run, where it has any."""
_LONGER = 64


@dataclass(frozen=True)
class Kind:
    """What SAEs a run has, but for its length: G groups, M = `expansion`·D, N experts, k."""

    groups: int
    expansion: int
    experts: int
    k: int

    @property
    def sae(self) -> dict[str, Any]:
        """The entry of a run's `saes`."""
        experts = {"experts": self.experts} if self.experts > 1 else {}
        arch = EXPERTS if experts else DENSE
        return {"arch": arch, "expansion": self.expansion, "k": self.k, **experts}


@dataclass(frozen=True)
class Option:
    """A run, what it costs, and what is predicted of it.

    Attributes:
        tokens: rows that every SAE is trained on.
        ring: bytes of the run's ring.
        cost: its seconds are in the middle of what is expected.
        fvu_RS, delta_ce_RS: draws, by site.
    """

    kind: Kind
    tokens: int
    ring: int
    cost: Predicted
    fvu_RS: Array
    delta_ce_RS: Array

    def mean(self, metric: str) -> tuple[float, float, float]:
        """The mean over the sites: its median and the ends of its interval."""
        draws = self.delta_ce_RS if metric == DELTA_CE else self.fvu_RS
        middle, low, high = interval(draws.mean(axis=1))
        return float(middle), float(low), float(high)


@dataclass(frozen=True)
class Space:
    """The runs that are possible.

    Attributes:
        law: fitted to the pilots.
        speeds: of this machine.
        work: of the user's run, in the pilots' batches; its SAEs and its length are replaced.
        numbers_of_groups: those that are weighed.
        k: values that are allowed.
        most_tokens: that the text has.
        least_tokens: of the shortest pilot.
    """

    law: FVULaw
    speeds: Speeds
    work: Workload
    numbers_of_groups: Sequence[int]
    k: Sequence[int]
    most_tokens: float | int
    least_tokens: int

    @cached_property
    def kinds(self) -> list[Kind]:
        """All of them: an expert has at least two latents for each active one."""
        narrowest = min(self.work.planes.values())
        kinds = [
            Kind(*each) for each in product(self.numbers_of_groups, EXPANSIONS, NUMBERS, self.k)
        ]
        return [kind for kind in kinds if kind.expansion * narrowest >= 2 * kind.k * kind.experts]

    def sharing(self, kind: Kind) -> Array:
        """[S]: how many sites share each site's SAE."""
        sharing_S = np.empty(len(self.work.planes))
        for group in even(len(sharing_S), kind.groups):
            sharing_S[group] = len(group)
        return sharing_S

    def work_of(self, kind: Kind, tokens: float | int) -> Workload:
        """What the run does; its ring is such that the last fill is used up like the others."""
        batch = self.work.batch
        steps = max(1, math.ceil(tokens / batch))
        fills = math.ceil(steps * batch / self.work.slots)
        return replace(
            self.work,
            parts=self._parts(kind),
            steps=steps,
            slots=math.ceil(steps / fills) * batch,
            evaluations=EVALUATIONS if self.work.evaluations else 0,
        )

    def cost(self, kind: Kind, tokens: float | int) -> Predicted:
        """With seconds in the middle of what is expected."""
        return self.speeds.predict(self.work_of(kind, tokens))

    def _parts(self, kind: Kind) -> tuple[Part, ...]:
        if kind not in self._known:
            sites = list(self.work.planes)
            groups = [tuple(sites[i] for i in g) for g in even(len(sites), kind.groups)]
            sae = kind.sae
            arch, expansion = sae.pop("arch"), sae.pop("expansion")
            self._known[kind] = tuple(
                Part("advised", arch, {"width": expansion * d, **sae}, d, group)
                for group in groups
                for d in [self.work.planes[group[0]]]
            )
        return self._known[kind]

    @cached_property
    def _known(self) -> dict[Kind, tuple[Part, ...]]:
        return {}

    def affordable(self, kind: Kind, budget: Budget) -> float:
        """The most tokens that a budget and the text allow; 0 where not even memory does.

        Operations and seconds grow linearly with the tokens, but for whole fills of the ring.
        """
        least = self.least_tokens
        short, long = self.cost(kind, least), self.cost(kind, _LONGER * least)
        if budget.memory is not None and sum(long.memory.values()) > budget.memory:
            return 0.0
        most = self.most_tokens
        for limit, less, more in (
            (budget.seconds, self.seconds(short), self.seconds(long)),
            (budget.flops, sum(short.flops.values()), sum(long.flops.values())),
        ):
            if limit is not None:
                rate = (more - less) / ((_LONGER - 1) * least)
                most = min(most, least + (limit - less) / rate)
        return max(0.0, most)

    def seconds(self, cost: Predicted) -> float:
        """At the upper end of what is expected."""
        assert cost.seconds is not None
        return self.speeds.slower * cost.seconds.total

    def option(self, kind: Kind, tokens: float | int) -> Option:
        """With its predictions."""
        rows = max(1, int(tokens // self.work.batch)) * self.work.batch
        work = self.work_of(kind, rows)
        fvu_RS = self.law.fvu(
            Sizes.of([(kind.expansion, kind.experts, kind.k, rows)]), self.sharing(kind)
        )
        return Option(
            kind,
            rows,
            work.slots * work.slot_bytes,
            self.speeds.predict(work),
            fvu_RS,
            self.law.delta_ce(fvu_RS),
        )

    def best(self, budget: Budget) -> list[Option]:
        """The run whose FVU is lowest at the upper end of its interval, so that of two with one
        middle the surer is taken; and the best of another sort. None where the budget allows no
        run as long as a pilot."""
        most = [(kind, self.affordable(kind, budget)) for kind in self.kinds]
        most = [(kind, tokens) for kind, tokens in most if tokens >= self.least_tokens]
        highs = [(self._high(kind, tokens), kind, tokens) for kind, tokens in most]
        ranked = [(kind, tokens) for _, kind, tokens in sorted(highs, key=lambda row: row[0])]
        return [self.option(*each) for each in _first_two(ranked)]

    def _high(self, kind: Kind, tokens: float | int) -> float:
        size = Sizes.of([(kind.expansion, kind.experts, kind.k, tokens)])
        return float(interval(self.law.mean_fvu(size, self.sharing(kind)), axis=1)[2][0])

    def cheapest(self, budget: Budget, target: Goal) -> list[Option]:
        """The cheapest run that reaches the target at the upper end of its interval, and the
        cheapest of another sort. By seconds, or by operations where only these are bounded."""
        by_flops = budget.seconds is None and budget.flops is not None
        reaching = []
        for kind in self.kinds:
            most = self.affordable(kind, budget)
            if most < self.least_tokens:
                continue
            lengths_C = np.geomspace(self.least_tokens, most, LENGTHS)
            tokens = self._enough(kind, lengths_C, target)
            if tokens is not None:
                cost = self.cost(kind, tokens)
                price = sum(cost.flops.values()) if by_flops else self.seconds(cost)
                reaching.append((price, kind, tokens))
        ranked = [(kind, tokens) for _, kind, tokens in sorted(reaching, key=lambda row: row[0])]
        return [self.option(*each) for each in _first_two(ranked)]

    def _enough(self, kind: Kind, lengths_C: Array, target: Goal) -> float | None:
        """The first of these lengths that reaches the target."""
        sizes = [(kind.expansion, kind.experts, kind.k, tokens) for tokens in lengths_C]
        mean_CR = self.law.mean_fvu(Sizes.of(sizes), self.sharing(kind))
        if target.metric == DELTA_CE:
            sharing_S = self.sharing(kind)
            mean_CR = np.stack(
                [self.law.delta_ce(self.law.fvu(Sizes.of([s]), sharing_S)).mean(1) for s in sizes]
            )
        reached = interval(mean_CR, axis=1)[2] <= target.value
        return float(lengths_C[int(np.argmax(reached))]) if reached.any() else None

    def limit(self) -> Option:
        """The widest dense SAEs, one per site, with the largest k that is allowed, had they learned
        all that they can: what no run reaches."""
        dense = [kind for kind in self.kinds if kind.experts == 1]
        widest = max(dense, key=lambda kind: (kind.groups, kind.expansion, kind.k))
        return self.option(widest, 1e4 * self.least_tokens)


def _first_two(ranked: Sequence[tuple[Kind, float]]) -> Iterator[tuple[Kind, float]]:
    """The first, and the first one that has another number of groups, or experts where it has none,
    or none where it has."""
    if not ranked:
        return
    yield ranked[0]
    first = ranked[0][0]
    for kind, tokens in ranked[1:]:
        if (kind.groups, kind.experts > 1) != (first.groups, first.experts > 1):
            yield kind, tokens
            return
