"""What a run costs before it starts: operations, seconds, memory, disk; and what groups save.

Pure: a `Workload` says what a run does, a `Calibration` how fast this machine does it (measured by
`saeworks.cost.calibrate`), and `predicted` puts them together.

Shapes: B tokens in a batch, D model width, M latents, L sites, G groups.
"""

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from saeworks.dictionary.base import SAE, Trainable
from saeworks.dictionary.flops import Flops, Phase
from saeworks.dictionary.registry import ARCHS, sae_config

AUTHORS_CONTEXT = 1024
_FLOAT, _CHECKPOINTS_KEPT = 4, 2


def authors_lm(tokens: float, layers: int, d: int, context: int = AUTHORS_CONTEXT) -> float:
    """A = N·L·(24d² + 4·T·d): the language model's forward, as the authors of Group-SAE count
    (2410.21508, §5; reproduced in their numbers with T = 1024)."""
    return tokens * layers * (24.0 * d * d + 4.0 * context * d)


def authors_sae(tokens: float, d: int, width: int) -> float:
    """T = 10·d·m·N: five dense products per training step of one SAE (ibid.)."""
    return 10.0 * d * width * tokens


def saving(lm: float, sae: float, groups: int, sites: int) -> float:
    """Δ(G) = 1 − (A + G·T)/(A + L·T), the share that G SAEs save against one per site (ibid.)."""
    return 1 - (lm + groups * sae) / (lm + sites * sae)


def meta_sae(arch: str, d: int, options: Mapping[str, Any]) -> SAE:
    """An SAE without memory for its weights: enough to ask it what it costs.

    Raises:
        UserError: as `sae_config`.
    """
    config = sae_config(arch, options, "cost")
    with torch.device("meta"):
        return ARCHS[arch](d, config)


def flops(arch: str, d: int, *, batch: int = 4096, **options: Any) -> Flops:
    """Operations per token of an SAE's training step, by part, on average over a run:
    `flops("topk", d=768, width=24576, k=32)`.

    Args:
        batch: rows per step, over which what is done once per step is spread.

    Raises:
        UserError: as `build_sae`.
    """
    sae = meta_sae(arch, d, options)
    return Flops.mean([(phase.share, sae.flops(phase.active, batch)) for phase in sae.phases])


def spent(sae: Trainable, batch: int, step: int, steps: int) -> float:
    """Operations of the first `step` of a run's steps, each of `batch` rows."""
    total, before = 0.0, 0.0
    for phase in sae.phases:
        share = min(max(step / steps - before, 0.0), phase.share)
        total += share * steps * batch * sae.flops(phase.active, batch).total
        before += phase.share
    return total


@dataclass(frozen=True)
class Part:
    """One SAE of a run.

    Attributes:
        variant: name of its variant.
        arch: name in ARCHS.
        options: of the architecture, `width` among them.
        d: D of its sites.
        sites: the sites it serves.
    """

    variant: str
    arch: str
    options: Mapping[str, Any]
    d: int
    sites: tuple[str, ...]

    @cached_property
    def sae(self) -> SAE:
        """On the meta device."""
        return meta_sae(self.arch, self.d, self.options)

    @property
    def shape(self) -> str:
        """The same for SAEs whose steps cost the same."""
        return json.dumps([self.arch, self.d, dict(self.options)], sort_keys=True)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.sae.parameters())

    def flops(self, batch: int) -> float:
        """Of one token, on average over the run."""
        return sum(p.share * self.sae.flops(p.active, batch).total for p in self.sae.phases)


@dataclass(frozen=True)
class LMFacts:
    """What a run needs to know of its language model.

    Attributes:
        d: width of its residual stream.
        blocks: blocks that run before the last site is reached.
        flops: per token, up to the last site.
        whole_flops: per token, to the logits (held-out evaluation).
        bytes: of its weights.
    """

    d: int
    blocks: int
    flops: float
    whole_flops: float
    bytes: int


@dataclass(frozen=True)
class Workload:
    """What a run does.

    Attributes:
        parts: its SAEs.
        planes: D by site that the language model is read at.
        batch: rows per step of every SAE.
        slots: of the ring; it is filled whole.
        slot_bytes: of one slot, over all planes.
        evaluations: held-out evaluations while training.
        eval_tokens: of each.
        cache_bytes: per token in an activation cache.
        threads: of the processor; 1 where SAEs are stepped one after the other.
        moment_bytes: of a number of Adam's moments.
    """

    parts: tuple[Part, ...]
    planes: Mapping[str, int]
    steps: int
    batch: int
    slots: int
    slot_bytes: int
    evaluations: int
    eval_tokens: int
    cache_bytes: int
    lm: LMFacts
    threads: int = 1
    moment_bytes: int = _FLOAT

    @property
    def rows(self) -> int:
        """Vectors that every SAE is trained on."""
        return self.steps * self.batch

    @property
    def read(self) -> int:
        """Rows that the language model puts into the ring: whole fills."""
        return -(-self.rows // self.slots) * self.slots

    def flops_of(self, variant: str) -> dict[str, float]:
        """Operations of a suite's training: its SAEs', and the language model's as if it had been
        read for this suite alone."""
        each = sum(part.flops(self.batch) for part in self.parts if part.variant == variant)
        lm, saes = self.read * self.lm.flops, self.rows * each
        return {"flops": lm + saes, "flops_lm": lm, "flops_saes": saes}


@dataclass(frozen=True)
class PhaseSeconds:
    """Seconds of one SAE's step: with all threads to itself, and with one thread, while as many
    others as there are threads are stepped beside it (None where that never happens)."""

    share: float
    alone: float
    beside: float | None


@dataclass(frozen=True)
class Calibration:
    """How fast this machine does what a run does.

    Attributes:
        threads: that it was measured with.
        kept: share of the tokens read that become rows.
        row_seconds: to read a row from the language model into the ring, at all planes.
        draw_seconds: to draw and normalise a batch at one plane.
        shapes: `Part.shape` → seconds of a step, by phase.
        clean_seconds, probe_seconds: held-out evaluation: once per run, and per SAE evaluated at
            a site.
        took: seconds that measuring took.
        quiet, reason: whether other processes left it undisturbed; None where that cannot be told.
    """

    threads: int
    kept: float
    row_seconds: float
    draw_seconds: float
    shapes: Mapping[str, tuple[PhaseSeconds, ...]]
    clean_seconds: float
    probe_seconds: float
    took: float
    quiet: bool | None
    reason: str

    @property
    def caveat(self) -> str:
        """What a calibration is worth on a machine that others use, or may use."""
        if self.quiet:
            return ""
        if self.quiet is None:
            return f" ({self.reason}): seconds are too many if other processes were busy"
        return f", but {self.reason}: no seconds are predicted; ask again when they are done"

    def step_seconds(self, parts: Sequence[Part]) -> float:
        """Of one step of all these SAEs, on average over the run; no evaluation, no draw.

        Phases end at other times in other SAEs; each moment between two ends is laid out anew.
        """
        ends = sorted({end for part in parts for end in _ends(self.shapes[part.shape])})
        seconds, before = 0.0, 0.0
        for end in ends:
            middle = (before + end) / 2
            now = [_phase_at(self.shapes[part.shape], middle) for part in parts]
            seconds += (end - before) * self._laid_out(now)
            before = end
        return seconds

    def _laid_out(self, steps: Sequence[PhaseSeconds]) -> float:
        """One after the other, or each in its turn on the first thread that is free."""
        if self.threads == 1 or len(steps) < self.threads:
            return sum(step.alone for step in steps)
        free = [0.0] * self.threads
        for step in steps:
            assert step.beside is not None
            heapq.heapreplace(free, free[0] + step.beside)
        return max(free)


def _ends(phases: Sequence[PhaseSeconds]) -> list[float]:
    total, ends = 0.0, []
    for phase in phases:
        total += phase.share
        ends.append(min(1.0, round(total, 9)))
    ends[-1] = 1.0
    return ends


def _phase_at(phases: Sequence[PhaseSeconds], moment: float) -> PhaseSeconds:
    return next(phase for phase, end in zip(phases, _ends(phases), strict=True) if moment <= end)


@dataclass(frozen=True)
class Seconds:
    """Predicted wall-clock, in the order in which it is spent.

    Attributes:
        first_fill: reading the ring full before the first step (part of `lm`).
        lm: reading all activations from the language model.
        draws: drawing and normalising batches.
        steps: training steps.
        evaluation: held-out evaluations while training.
    """

    first_fill: float
    lm: float
    draws: float
    steps: float
    evaluation: float

    @property
    def total(self) -> float:
        """The language model and the steps take turns, so the sum."""
        return self.lm + self.draws + self.steps + self.evaluation


@dataclass(frozen=True)
class GroupCost:
    """What a run with one SAE for each of G groups costs, and saves against one per site."""

    groups: int
    flops: float
    saving: float
    authors_flops: float
    authors_saving: float
    seconds: float | None
    seconds_saving: float | None


@dataclass(frozen=True)
class Predicted:
    """A run's cost.

    Attributes:
        saes, parameters: how many, and of all of them.
        rows: vectors that every SAE is trained on.
        lm_tokens: that the language model reads for training (those that are left out of it
            included, where that share was measured).
        flops: by part: `lm`, `saes`, `evaluation`.
        authors_flops: `lm` and `saes`, as the authors of Group-SAE count.
        seconds: None where nothing was calibrated, or other processes were busy meanwhile: what was
            measured then is theirs as much as this machine's.
        memory: bytes by part.
        disk: bytes by part; `cache` only where activations are cached.
        assumptions: what is estimated, and how.
    """

    saes: int
    parameters: int
    rows: int
    lm_tokens: int
    flops: dict[str, float]
    authors_flops: dict[str, float]
    seconds: Seconds | None
    memory: dict[str, int]
    disk: dict[str, int]
    assumptions: tuple[str, ...]
    groups: tuple[GroupCost, ...] = field(default=())

    @property
    def lm_share(self) -> dict[str, float | None]:
        """The language model's share of the operations and of the seconds, evaluation left out;
        both are 0 for a run that reads its activations from a cache."""
        work = self.flops["lm"] + self.flops["saes"]
        spent = None
        if self.seconds is not None:
            spent = self.seconds.lm / (self.seconds.total - self.seconds.evaluation)
        return {"flops": self.flops["lm"] / work, "seconds": spent}

    def to_json(self) -> dict[str, Any]:
        """Plain values: all attributes, the total seconds, and both regimes."""
        plain = asdict(self)
        if self.seconds is not None:
            plain["seconds"]["total"] = self.seconds.total
        return {**plain, "lm_share": self.lm_share, "regimes": self.regimes()}

    def regimes(self) -> dict[str, dict[str, float | None]]:
        """The language model read as the run goes, against activations cached by an earlier one
        (whose reading from disk is not timed)."""
        total, lm = sum(self.flops.values()), self.flops["lm"]
        spent = self.seconds
        return {
            "online": {
                "flops": total,
                "seconds": spent.total if spent else None,
                "lm_share": self.lm_share["flops"],
                "cache_bytes": 0,
            },
            "cached": {
                "flops": total - lm,
                "seconds": spent.total - spent.lm if spent else None,
                "lm_share": 0.0,
                "cache_bytes": self.disk["cache"],
            },
        }


def predicted(
    work: Workload, speed: Calibration | None = None, *, groups: bool = True
) -> Predicted:
    """A run's cost; seconds only with a calibration of this machine that nobody disturbed.

    Args:
        groups: also what the run would cost with every number of groups.
    """
    kept = speed.kept if speed else 1.0
    timed = None if speed is None or speed.quiet is False else speed
    first = [part for part in work.parts if part.variant == work.parts[0].variant]
    assumptions = [
        "elementwise work (selection, loss, Adam) and AuxK are not counted in FLOPs",
        *_assumed(work.parts),
    ]
    if speed is None:
        assumptions.append("every token read is trained on: the share kept was not measured")
    return Predicted(
        saes=len(work.parts),
        parameters=sum(part.parameters for part in work.parts),
        rows=work.rows,
        lm_tokens=round(work.read / kept),
        flops=_flops(work, work.parts, kept),
        authors_flops=_authors(work, work.parts),
        seconds=_seconds(work, work.parts, timed) if timed else None,
        memory=_memory(work),
        disk=_disk(work),
        assumptions=tuple(assumptions),
        groups=_groups(work, first, kept, timed) if groups and len(work.planes) > 1 else (),
    )


def _assumed(parts: Sequence[Part]) -> list[str]:
    """A line per architecture of which the active latents are an estimate."""
    lines: dict[str, None] = {}
    for part in parts:
        phases = [phase for phase in part.sae.phases if phase.assumed]
        if phases:
            lines[f"{part.arch}: {_spoken(phases)}"] = None
    return list(lines)


def _spoken(phases: Sequence[Phase]) -> str:
    if len(phases) == 1 and phases[0].share == 1:
        return phases[0].assumed
    return ", then ".join(f"{p.assumed} for {p.share:.0%} of the steps" for p in phases)


def _flops(work: Workload, parts: Sequence[Part], kept: float) -> dict[str, float]:
    pairs = sum(len(part.sites) * 2.0 * part.d * part.sae.width for part in parts)
    passes = sum(len(part.sites) for part in parts)
    evaluated = work.evaluations * work.eval_tokens
    return {
        "lm": work.read / kept * work.lm.flops,
        "saes": work.rows * sum(part.flops(work.batch) for part in parts),
        "evaluation": evaluated * (passes * work.lm.whole_flops + pairs),
    }


def _authors(work: Workload, parts: Sequence[Part]) -> dict[str, float]:
    return {
        "lm": authors_lm(float(work.rows), work.lm.blocks, work.lm.d),
        "saes": sum(authors_sae(float(work.rows), part.d, part.sae.width) for part in parts),
    }


def _seconds(work: Workload, parts: Sequence[Part], speed: Calibration) -> Seconds:
    passes = sum(len(part.sites) for part in parts)
    evaluation = 0.0
    if work.evaluations:
        evaluation = speed.clean_seconds + work.evaluations * passes * speed.probe_seconds
    return Seconds(
        first_fill=work.slots * speed.row_seconds,
        lm=work.read * speed.row_seconds,
        draws=work.steps * len(work.planes) * speed.draw_seconds,
        steps=work.steps * speed.step_seconds(parts),
        evaluation=evaluation,
    )


def _memory(work: Workload) -> dict[str, int]:
    """Gradients and pre-activations exist only for the SAEs that are stepped at the moment."""
    at_once = work.threads if len(work.parts) >= work.threads else 1
    sizes = sorted((part.parameters for part in work.parts), reverse=True)
    return {
        "weights": _FLOAT * sum(sizes),
        "moments": 2 * work.moment_bytes * sum(sizes),
        "gradients": _FLOAT * sum(sizes[:at_once]),
        "ring": work.slots * work.slot_bytes,
        "batches": 2 * _FLOAT * work.batch * sum(work.planes.values()),
        "language model": work.lm.bytes,
    }


def _disk(work: Workload) -> dict[str, int]:
    parameters = sum(part.parameters for part in work.parts)
    weights, state = _FLOAT * parameters, (_FLOAT + 2 * work.moment_bytes) * parameters
    idle = 8 * sum(part.sae.width for part in work.parts)
    return {
        "suites": weights,
        "checkpoints": _CHECKPOINTS_KEPT * (state + idle),
        "cache": work.rows * work.cache_bytes,
    }


def _groups(
    work: Workload, parts: Sequence[Part], kept: float, speed: Calibration | None
) -> tuple[GroupCost, ...]:
    """Every G from 1 to L: one variant's SAEs, of which G are trained, each on as many vectors."""
    sites = list(work.planes)
    served = {site: part for part in parts for site in part.sites}
    each = [
        Part(served[s].variant, served[s].arch, served[s].options, work.planes[s], (s,))
        for s in sites
    ]
    rows = []
    for groups in range(1, len(sites) + 1):
        chosen = [
            Part(
                each[i].variant,
                each[i].arch,
                each[i].options,
                each[i].d,
                tuple(sites[i * len(sites) // groups : (i + 1) * len(sites) // groups]),
            )
            for i in range(groups)
        ]
        seconds = _seconds(work, chosen, speed).total if speed else None
        rows.append(
            (
                groups,
                sum(_flops(work, chosen, kept).values()),
                sum(_authors(work, chosen).values()),
                seconds,
            )
        )
    _, most, authors_most, longest = rows[-1]
    return tuple(
        GroupCost(
            g,
            f,
            1 - f / most,
            a,
            1 - a / authors_most,
            s,
            1 - s / longest if s is not None and longest else None,
        )
        for g, f, a, s in rows
    )


def shapes(parts: Sequence[Part]) -> dict[str, tuple[Part, int]]:
    """Each distinct shape: its first SAE, and how many are of it."""
    count = Counter(part.shape for part in parts)
    first: dict[str, Part] = {}
    for part in parts:
        first.setdefault(part.shape, part)
    return {shape: (part, count[shape]) for shape, part in first.items()}
