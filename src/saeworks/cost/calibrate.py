"""How fast this machine does what a run does: some seconds of the run's own work, timed.

The language model reads real text, the SAEs are of the run's shapes and are stepped as the trainer
steps them, on the rows that were read. Nothing is left behind.

Shapes: B tokens in a batch, D model width, M latents.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.feed import Feed
from saeworks.activations.live import RowReader, pass_sequences
from saeworks.activations.ring import DTYPES, INDEX_BYTES, ring_slots
from saeworks.config import RunConfig
from saeworks.cost.estimate import (
    Calibration,
    LMFacts,
    Part,
    PhaseSeconds,
    Workload,
    shapes,
)
from saeworks.cost.machine import Neighbours
from saeworks.cost.precision import choose_precision
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.flops import Phase
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import ARCHS, sae_config
from saeworks.dictionary.selection import Precision
from saeworks.errors import UserError
from saeworks.lm.flops import forward_flops
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure.probe import HeldOutProbe
from saeworks.train import schedule
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step
from saeworks.train.variants import Variant
from saeworks.train.workers import Workers

_POOL_BYTES = 128 * 2**20
_MOST_ROUNDS = 25
_STILL = 1e-9  # learning rate: a step is timed, not made


def parts_of(variants: Sequence[Variant], widths: Mapping[str, int]) -> tuple[Part, ...]:
    """The SAEs of a run: one per variant and group of sites."""
    return tuple(
        Part(variant.name, variant.arch, variant.options[sites[0]], widths[sites[0]], sites)
        for variant in variants
        for sites in variant.grouping.groups.values()
    )


def workload(
    config: RunConfig, lm: LanguageModel, parts: Sequence[Part], widths: Mapping[str, int]
) -> Workload:
    """What the run does, from its configuration, its model and its SAEs.

    Args:
        widths: D of every site that is read.

    Raises:
        UserError: if the ring holds no batch.
    """
    train, buffer = config.train, config.buffer
    steps = schedule.steps(train)
    every = train.eval_every
    stop = forward_flops(lm, config.text.context, list(widths))
    whole = forward_flops(lm, config.text.context)
    row = sum(widths.values()) * DTYPES[buffer.dtype].itemsize
    return Workload(
        parts=tuple(parts),
        planes=dict(widths),
        steps=steps,
        batch=train.batch,
        slots=ring_slots(buffer, widths, train.batch, train.tokens),
        slot_bytes=row + INDEX_BYTES + 8,
        evaluations=-(-steps // every) if every else 0,
        eval_tokens=train.eval_tokens,
        cache_bytes=row + INDEX_BYTES,
        lm=LMFacts(
            d=int(lm.model.get_input_embeddings().embedding_dim),
            blocks=stop.blocks,
            flops=stop.total,
            whole_flops=whole.total,
            bytes=sum(p.numel() * p.element_size() for p in lm.model.parameters()),
        ),
        threads=_threads(lm.device),
        moment_bytes=2 if train.moments == "bf16" else 4,
    )


def calibrate(
    work: Workload, config: RunConfig, lm: LanguageModel, corpus: Corpus, budget: float = 12.0
) -> Calibration:
    """Time reading, drawing, evaluating and stepping.

    Args:
        budget: seconds that it may take; more where one batch of the language model or one round
            of steps alone takes longer.
    """
    start, neighbours = perf_counter(), Neighbours()
    rows = _TimedSample.read(work, config, lm, corpus, budget / 4)
    draw_seconds, x = rows.draw(work)
    clean, probe = _evaluation(work, lm, corpus, rows, x, budget / 6)
    saes = [part.sae for part in work.parts]
    chosen = choose_precision(config.train.precision, saes, lm.device)
    steps = _steps(work, x, lm.device, chosen.precision, budget / 2)
    quiet, reason = neighbours.verdict()
    return Calibration(
        threads=work.threads,
        kept=rows.kept,
        row_seconds=rows.seconds,
        draw_seconds=draw_seconds,
        shapes=steps,
        clean_seconds=clean,
        probe_seconds=probe,
        took=perf_counter() - start,
        quiet=quiet,
        reason=reason,
    )


@dataclass
class _TimedSample:
    """Activations of some text, and how long a row of them took."""

    planes: dict[str, Tensor]
    seconds: float
    token_seconds: float
    kept: float
    sequences: int

    @classmethod
    def read(
        cls, work: Workload, config: RunConfig, lm: LanguageModel, corpus: Corpus, budget: float
    ) -> "_TimedSample":
        """Batches of the run's size, or smaller ones where those would not fit the budget."""
        context, device = config.text.context, lm.device
        full = pass_sequences(config.buffer, context, device)
        sites = list(work.planes)
        sequences = _affordable(lm, sites, context, full, budget)
        together = work.threads if lm.concurrent else 1  # passes, as the run makes them
        batch = sequences * context * together
        pool = max(batch, min(work.slots, _POOL_BYTES // work.slot_bytes))
        dtype = DTYPES[config.buffer.dtype]
        planes = {
            site: torch.zeros(pool, d, dtype=dtype, device=device)
            for site, d in work.planes.items()
        }
        feed = Feed(RowReader(lm, corpus.stream("train", sequences), sites), dtype)
        filled = 0

        def read_some() -> int:
            nonlocal filled
            begin = filled = 0 if filled + batch > pool else filled
            feed.ask(batch, batch)
            for _ in range(together):
                rows = feed.take(batch)
                here = slice(filled, filled + len(rows))
                filled = here.stop
                for site, x_nD in rows.planes.items():
                    planes[site][here] = x_nD
            feed.check()
            return filled - begin

        started = perf_counter()
        counts: list[int] = []
        times: list[float] = []
        with Workers(1, device) as workers:
            if together > 1:
                feed.reading = workers.reading
            while len(times) < 2 or (
                perf_counter() - started < budget and len(times) < _MOST_ROUNDS
            ):
                clock = perf_counter()
                counts.append(read_some())
                _wait(device)
                times.append(perf_counter() - clock)
        if not sum(counts):
            raise UserError(
                "no position of the text is kept for training; lower text.exclude_first or give "
                "other text"
            )
        rates = [time / max(1, n) for time, n in zip(times[1:], counts[1:], strict=True)]
        kept = sum(counts) / (len(counts) * batch)
        row = statistics.median(rates)  # without the first batch, which also warms up
        for plane in planes.values():  # drawing is from a ring that is too large for a cache
            for begin in range(filled, pool, max(1, filled)):
                rest = plane[begin : begin + filled]
                rest.copy_(plane[: len(rest)])
        return cls(planes, row, row * kept, kept, sequences)

    def draw(self, work: Workload) -> tuple[float, dict[str, Tensor]]:
        """Seconds to draw and normalise a batch at one plane; one batch of each."""
        drawn: dict[str, Tensor] = {}
        seconds = []
        for site, plane in self.planes.items():
            normaliser = Normaliser.estimate(plane[:4096].float())
            for _ in range(3):
                rows = torch.randint(len(plane), (work.batch,), device=plane.device)
                begin = perf_counter()
                drawn[site] = normaliser.normalise(plane[rows].float())
                _wait(plane.device)
                seconds.append(perf_counter() - begin)
        return statistics.median(seconds), drawn


def _affordable(
    lm: LanguageModel, sites: Sequence[str], context: int, full: int, budget: float
) -> int:
    """Sequences of a forward pass, at most `full`, of which a few fit the budget."""
    sequences = 1
    while sequences < full:
        tokens_BT = torch.zeros(sequences, context, dtype=torch.long)
        once = _timed(partial(lm.capture, tokens_BT, sites), lm.device)
        if 6 * once > budget:
            break
        sequences = min(full, 2 * sequences)
    return sequences


def _evaluation(
    work: Workload,
    lm: LanguageModel,
    corpus: Corpus,
    rows: _TimedSample,
    x: Mapping[str, Tensor],
    budget: float,
) -> tuple[float, float]:
    """Seconds of a held-out evaluation: once for the clean model, and for every SAE and site."""
    if not work.evaluations:
        return 0.0, 0.0
    context = next(iter(corpus.stream("held_out", 1, epochs=1))).tokens.shape[1]
    afford = int(budget / 4 / max(rows.token_seconds, 1e-9) * work.lm.flops / work.lm.whole_flops)
    tokens = min(work.eval_tokens, max(context, afford))
    stream = corpus.stream("held_out", rows.sequences, epochs=1)
    probe = HeldOutProbe(lm, stream, tokens)
    part = work.parts[0]
    site = part.sites[0]
    sae = _built(part, x[site], part.sae.phases[-1], lm.device)
    first = _timed(lambda: probe({site: sae}), lm.device)
    again = _timed(lambda: probe({site: sae}), lm.device)
    scale = work.eval_tokens / tokens
    return max(0.0, first - again) * scale, again * scale


def _steps(
    work: Workload,
    x: Mapping[str, Tensor],
    device: torch.device,
    precision: Precision,
    budget: float,
) -> dict[str, tuple[PhaseSeconds, ...]]:
    """Of every shape and phase, a step by itself and a step beside others."""
    threads = work.threads
    # the table over G goes up to an SAE per site, however few this run has
    beside = max(len(work.parts), len(work.planes)) >= threads > 1
    by_shape = shapes(work.parts)
    each = budget / sum(len(part.sae.phases) * (1 + beside) for part, _ in by_shape.values())
    seconds: dict[str, tuple[PhaseSeconds, ...]] = {}
    for shape, (part, count) in by_shape.items():
        x_BD = x[part.sites[0]]
        rounds = 2 if count >= 2 * threads else 1
        phases = []
        for phase in part.sae.phases:
            saes = [_built(part, x_BD, phase, device)]
            saes += [deepcopy(saes[0]) for _ in range(min(count, 2) - 1)]  # no cache holds two
            alone = _step_seconds(saes, x_BD, precision, each, 1) / len(saes)
            together = None
            if beside:
                saes += [deepcopy(saes[0]) for _ in range(rounds * threads - len(saes))]
                together = _step_seconds(saes, x_BD, precision, each, threads) / rounds
            phases.append(PhaseSeconds(phase.share, alone, together))
        seconds[shape] = tuple(phases)
    return seconds


def _built(part: Part, x_BD: Float[Tensor, "B D"], phase: Phase, device: torch.device) -> SAE:
    """An initialised SAE, with about as many active latents as in that phase of a run."""
    sae = ARCHS[part.arch](part.d, sae_config(part.arch, part.options, "cost"))
    sae.initialise(x_BD[:1024].cpu(), torch.Generator().manual_seed(0))
    if phase.assumed and phase.active < sae.width / 2:
        _thin(sae, x_BD[:512].cpu(), phase.active)
    return sae.to(device)


@torch.no_grad()
def _thin(sae: SAE, x_BD: Float[Tensor, "B D"], active: float) -> None:
    """Lower the bias that decides whether a latent is active, until `active` are."""
    if not sae.gate:
        return
    z = (x_BD @ sae.w_enc.T).flatten()
    above = max(1, round(active * len(x_BD)))
    sae.get_parameter(sae.gate).fill_(-float(z.kthvalue(max(1, len(z) - above)).values))


def _step_seconds(
    saes: Sequence[SAE],
    x_BD: Float[Tensor, "B D"],
    precision: Precision,
    budget: float,
    at_once: int,
) -> float:
    """One step of each, one by one or on so many threads, as the trainer makes them: the median of
    some rounds after a first one, which counts itself where it has used up the budget."""
    device = x_BD.device
    dead = torch.empty(0, dtype=torch.int64, device=device)
    label_B = torch.zeros(len(x_BD), dtype=torch.int64, device=device)
    batch, context = Batch(x_BD, x_BD, label=label_B), Context(dead, 0.5, precision)
    jobs = [(sae, DictionaryAdam(sae, _STILL)) for sae in saes]

    def step(job: tuple[SAE, DictionaryAdam]) -> None:
        train_step(*job, batch, context, _STILL)

    with Workers(at_once, device) as workers:
        rounds: list[float] = []
        begin = perf_counter()
        first = _timed(lambda: workers.run(step, jobs), device)
        while perf_counter() - begin < budget and len(rounds) < _MOST_ROUNDS:
            rounds.append(_timed(lambda: workers.run(step, jobs), device))
    return statistics.median(rounds) if rounds else first


def _threads(device: torch.device) -> int:
    """SAEs that are stepped at once, where there are as many."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def _timed(work: Callable[[], object], device: torch.device) -> float:
    begin = perf_counter()
    with torch.enable_grad():
        work()
    _wait(device)
    return perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
