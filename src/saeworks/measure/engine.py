"""One engine, many studies: shared sweeps over the held-out tokens.

In each sweep the language model runs once over all tokens that any study wants, one site's
activations are in memory at a time, and every SAE encodes a token once, whoever asks for its code.
`eval` and `audit` are two sets of studies (`saeworks.measure.run`, `saeworks.measure.audit.run`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.measure import banks as limits
from saeworks.measure.banks import Bank, code_rows, double_rows_at_once, kept_rows, sites_of
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick, Tracker, silent
from saeworks.measure.sums import PerDocument
from saeworks.results.audit import AuditResult
from saeworks.results.figure import Figure
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result


@dataclass(frozen=True)
class Subject:
    """What studies measure: SAEs on one language model, and its held-out tokens.

    Attributes:
        banks: by name, such as a suite's path.
        all_tokens: the held-out tokens, in the order that every study takes them in.
        without_outliers: the same, of which fewer are kept where training left outliers out.
        corpus: what the tokens are from; None where only the tokens are known.
    """

    banks: Mapping[str, Bank]
    lm: LanguageModel
    all_tokens: HeldOut
    without_outliers: HeldOut
    corpus: Corpus | None = None

    @classmethod
    def of(cls, banks: Mapping[str, Bank], lm: LanguageModel, held_out: HeldOut) -> "Subject":
        """The subject for given tokens."""
        return cls(banks, lm, held_out, held_out)

    @cached_property
    def sites(self) -> list[str]:
        """The sites of all banks, in the model's order.

        Raises:
            UserError: as `sites_of`.
        """
        return sites_of(self.banks, self.lm)

    def held_out(self, tokens: int) -> HeldOut:
        """The first so many tokens, without outliers where training left them out."""
        return self.with_outliers(tokens).keeping(self.without_outliers)

    def with_outliers(self, tokens: int) -> HeldOut:
        """The same sequences with all their tokens."""
        return self.all_tokens.first(tokens)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a site's activations, as one reading sees them.

    Attributes:
        x_ND: float32.
        document_N: row of the per-document sums.
        token_N: token ids.
        place_N: the token's place in `held_out.tokens_NT`, counted through all its sequences.
        number: of the chunk, from 0 at each batch and site; the same rows at every site.
        last: of its batch and site.
    """

    x_ND: Float[Tensor, "N D"]
    document_N: Int[Tensor, " N"]
    token_N: Int[Tensor, " N"]
    place_N: Int[Tensor, " N"]
    number: int
    last: bool
    _encodings: "_Encodings"
    _at_N: Int[Tensor, " N"] | None

    def code(self, sae: SAE) -> SparseCode:
        """What an SAE encodes the rows as; computed once in a sweep."""
        code = self._encodings.code(sae)
        return code if self._at_N is None else code_rows(code, self._at_N)

    def x_hat(self, sae: SAE) -> Float[Tensor, "N D"]:
        """Its reconstruction; computed once in a sweep."""
        x_hat_ND = self._encodings.x_hat(sae)
        return x_hat_ND if self._at_N is None else x_hat_ND[self._at_N]


@dataclass(frozen=True)
class ModelBatch:
    """Sequences that went through the language model together, as one reading sees them.

    Attributes:
        number: of the batch, for messages.
        sequence_B: their numbers in the reading's `held_out`.
        held_out: the sequences, on the model's device.
        logits_BTV: of the untouched model; None unless the reading wants them.
    """

    number: int
    sequence_B: Int[Tensor, " B"]
    held_out: HeldOut
    logits_BTV: Float[Tensor, "B T V"] | None


class _Encodings:
    """Codes and reconstructions of the same rows by any SAEs, each made when it is asked for."""

    def __init__(self, x_ND: Tensor) -> None:
        self._x_ND = x_ND
        self._codes: dict[SAE, SparseCode] = {}
        self._x_hats: dict[SAE, Tensor] = {}

    def code(self, sae: SAE) -> SparseCode:
        if sae not in self._codes:
            self._codes[sae] = sae.encode_sparse(self._x_ND)
        return self._codes[sae]

    def x_hat(self, sae: SAE) -> Tensor:
        if sae not in self._x_hats:
            self._x_hats[sae] = sae.decode(self.code(sae))
        return self._x_hats[sae]


class Reading(ABC):
    """A study's part in one sweep: which tokens it wants to see, and what it keeps of them.

    Every method may be left as it is. They are called in this order: `begin`, then for each batch
    of the language model `rows` (at each site, in the model's order) and `batch`, then `finish`.

    Attributes:
        title: what is measured, for the line of progress.
        held_out: its tokens; it sees those that are kept.
        sites: where it wants activations.
        width: latents of the widest SAE whose code it wants; 0 for none: it then gets all of a
            batch's rows in one chunk.
        needs: readings that are over before it begins.
        beside: a reading in whose sweep it goes, since it wants the same codes.
        logits: whether `batch` wants the untouched model's logits.
        batch_tokens: tokens of a batch at most; None for the engine's own number.
        passes: tokens of the language-model passes that `batch` makes itself, for the progress.
    """

    title: str
    held_out: HeldOut
    sites: Collection[str] = ()
    width: int = 0
    needs: Sequence["Reading"] = ()
    beside: "Reading | None" = None
    logits: bool = False
    batch_tokens: int | None = None
    passes: int = 0

    def begin(self) -> None:  # noqa: B027 - nothing, by default
        """Called when the sweep begins, once what the reading needs is there."""

    def rows(self, site: str, chunk: Chunk) -> None:  # noqa: B027
        """Count rows of a site in."""

    def batch(self, batch: ModelBatch, tick: Tick) -> None:  # noqa: B027
        """Called after a batch went through the model; may make further passes over it."""

    def finish(self, progress: Tracker) -> None:  # noqa: B027
        """Called when the sweep is over."""


@dataclass(frozen=True)
class Measured:
    """A result and the sums by document behind it; none where it has no metric."""

    result: Result | AuditResult
    sums: PerDocument = field(default_factory=dict)


class Study(ABC):
    """What is measured of SAEs, from the tensor to the result: one file in `measure/studies/`.

    CONTRIBUTING.md says how to add one.

    Attributes:
        name: of its file in `results/`.
        title: of the result.
        metrics: what its values are.
        headline: those in the table of `saeworks eval`.
        figures: how they and its series are drawn.
        sentences: what is said of its series, and of its table: `Result.sentences`.
        readings: what it wants to see; several studies may share one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]] = MappingProxyType({})
    headline: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[tuple[Figure, ...]] = ()
    sentences: ClassVar[Mapping[str, str]] = MappingProxyType({})
    readings: Sequence[Reading] = ()

    @abstractmethod
    def results(self) -> Mapping[str, Measured]:
        """Bank → its result, once all readings are over; banks it says nothing of are left out."""

    @classmethod
    def result(
        cls,
        config: Any,
        tokens: HeldOut,
        sites: Mapping[str, Mapping[str, Value]] = MappingProxyType({}),
        series: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        metrics: Mapping[str, Metric] | None = None,
        about: Mapping[str, Any] = MappingProxyType({}),
        sentences: Mapping[str, str] | None = None,
        findings: Sequence[str] = (),
    ) -> Result:
        """The result of this study for one bank on given tokens.

        Args:
            config: the dataclass of its options, as `EvalConfig`.
            sites: site → metric → value.
            series: site → lists for figures.
            metrics: where there are others than the study's own.
            about: what else the numbers depend on.
            sentences: where there are others than the study's own.
            findings: what the numbers of this bank say.
        """
        return Result(
            evaluation=cls.name,
            title=cls.title,
            config=asdict(config) | {"held_out": tokens.digest, **about},
            tokens=tokens.kept,
            documents=tokens.documents,
            metrics=dict(cls.metrics if metrics is None else metrics),
            sites={site: dict(values) for site, values in sites.items()},
            series={site: dict(lists) for site, lists in series.items()},
            figures=cls.figures,
            sentences=dict(cls.sentences if sentences is None else sentences),
            findings=tuple(findings),
        )


@torch.no_grad()
def measure(
    lm: LanguageModel, studies: Sequence[Study], progress: Tracker = silent
) -> list[Mapping[str, Measured]]:
    """Run all studies in as few sweeps as what they need of one another allows; the results are in
    their order.

    Raises:
        UserError: if an activation is NaN or infinite, or whatever a study refuses.
    """
    sweep(lm, [reading for study in studies for reading in study.readings], progress)
    return [study.results() for study in studies]


@torch.no_grad()
def sweep(lm: LanguageModel, readings: Sequence[Reading], progress: Tracker = silent) -> None:
    """Run readings, and those that they need."""
    for together in _sweeps(readings):
        for reading in together:
            reading.begin()
        batches = list(_batches(together))
        titles = ", ".join(dict.fromkeys(reading.title for reading in together))
        length = together[0].held_out.tokens_NT.shape[1]
        total = sum(len(at_n) for at_n, _ in batches) * length
        with progress(titles, total + sum(reading.passes for reading in together)) as tick:
            for number, (at_n, logits) in enumerate(batches):
                _Batch(lm, together, number, at_n).run(logits, tick)
        for reading in together:
            reading.finish(progress)


def _sweeps(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The readings by sweep: each after those that it needs, as early as it can."""
    place: dict[Reading, int] = {}

    def of(reading: Reading) -> int:
        if reading not in place:
            after = [of(other) + 1 for other in reading.needs]
            beside = [] if reading.beside is None else [of(reading.beside)]
            place[reading] = max([0, *after, *beside])
        return place[reading]

    for reading in readings:
        of(reading)
    return [
        [reading for reading, at in place.items() if at == number]
        for number in range(max(place.values(), default=-1) + 1)
    ]


def _batches(readings: Sequence[Reading]) -> Iterator[tuple[Int[Tensor, " n"], bool]]:
    """Sequences that go through the model together, and whether their logits are wanted."""
    sequences = max(len(reading.held_out.tokens_NT) for reading in readings)
    length = readings[0].held_out.tokens_NT.shape[1]
    step_n = torch.zeros(sequences, dtype=torch.int64)
    logits_n = torch.zeros(sequences, dtype=torch.bool)
    for reading in readings:
        wanted_n = reading.held_out.keep_NT.any(dim=1)
        of_reading = slice(0, len(wanted_n))
        most = max(1, (reading.batch_tokens or limits.LM_TOKENS) // length)
        least_n = torch.where(step_n[of_reading] > 0, step_n[of_reading].clamp_max(most), most)
        step_n[of_reading] = torch.where(wanted_n, least_n, step_n[of_reading])
        logits_n[of_reading] |= wanted_n & reading.logits
    at_n = step_n.nonzero()[:, 0]
    steps, logits = step_n[at_n].tolist(), logits_n[at_n].tolist()
    start = 0
    while start < len(at_n):
        end = start + 1
        while (
            end < len(at_n)
            and end - start < steps[start]
            and (steps[end], logits[end]) == (steps[start], logits[start])
        ):
            end += 1
        yield at_n[start:end], logits[start]
        start = end


class _Batch:
    """Sequences on their way through the model, for all readings of a sweep that want them."""

    def __init__(
        self, lm: LanguageModel, readings: Sequence[Reading], number: int, at_n: Tensor
    ) -> None:
        self.lm, self.number = lm, number
        longest = max((r.held_out for r in readings), key=lambda held: len(held.tokens_NT))
        self.tokens_BT = longest.tokens_NT[at_n].to(lm.device)
        by_reading = {r: r.held_out.at(at_n[at_n < len(r.held_out.tokens_NT)]) for r in readings}
        by_reading = {
            reading: part for reading, part in by_reading.items() if bool(part.keep_NT.any())
        }
        keep_BT = torch.zeros(self.tokens_BT.shape, dtype=torch.bool)
        for part in by_reading.values():
            keep_BT[: len(part.keep_NT)] |= part.keep_NT
        self.keep_BT = keep_BT.to(lm.device)
        self.parts = [
            _Part(reading, part, keep_BT, at_n, lm) for reading, part in by_reading.items()
        ]
        self.width = max((part.reading.width for part in self.parts), default=0)
        widths = [lm.width(site) for part in self.parts for site in part.reading.sites]
        self.step = double_rows_at_once(max(widths, default=1))

    def run(self, logits: bool, tick: Tick) -> None:
        """Run the batch through the model and let the readings see it."""
        wanted = {site for part in self.parts for site in part.reading.sites}
        hooks = {site: self._observer(site) for site in wanted}
        logits_BTV = self.lm.run(self.tokens_BT, hooks, logits=logits)
        tick(self.tokens_BT.numel())
        for part in self.parts:
            own_BTV = None
            if part.reading.logits:
                assert logits_BTV is not None
                own_BTV = logits_BTV[: len(part.sequence_B)]
            batch = ModelBatch(self.number, part.sequence_B, part.held_out, own_BTV)
            part.reading.batch(batch, tick)

    def _observer(self, site: str) -> Callable[[Tensor], None]:
        parts = [part for part in self.parts if site in part.reading.sites]

        def observe(x_BTD: Tensor) -> None:
            x_ND = kept_rows(x_BTD, self.keep_BT, site, self.number)
            for whole in (True, False):
                seen = [part for part in parts if (part.reading.width == 0) is whole]
                cuts = [slice(0, len(x_ND))] if whole else self._cuts(len(x_ND)) if seen else []
                for number, cut in enumerate(cuts):
                    encodings = _Encodings(x_ND[cut])
                    for part in seen:
                        part.read(site, x_ND[cut], cut, number, encodings)

        return observe

    def _cuts(self, rows: int) -> list[slice]:
        """Rows that go through the widest SAE, and into float64, at once; alike at all sites."""
        step = min(self.step, limits.rows_at_once(self.width))
        return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


class _Part:
    """What one reading sees of a batch."""

    def __init__(
        self,
        reading: Reading,
        part: HeldOut,
        keep_BT: Bool[Tensor, "B T"],
        at_n: Int[Tensor, " n"],
        lm: LanguageModel,
    ) -> None:
        keep_NT, length = part.keep_NT, keep_BT.shape[1]
        own_BT = torch.zeros_like(keep_BT)
        own_BT[: len(keep_NT)] = keep_NT
        self.reading, self.held_out = reading, part.to(lm.device)
        self.sequence_B = at_n[: len(keep_NT)]
        self._inside_N = own_BT[keep_BT]
        self._before_N = torch.cat([torch.zeros(1, dtype=torch.int64), self._inside_N.cumsum(0)])
        place_NT = self.sequence_B[:, None] * length + torch.arange(length)
        self._document_N, self._token_N, self._place_N = (
            of_NT[keep_NT].to(lm.device) for of_NT in (part.row_NT, part.tokens_NT, place_NT)
        )

    def read(self, site: str, x_ND: Tensor, cut: slice, number: int, encodings: _Encodings) -> None:
        """Hand the reading those rows of a cut that it wants, if there are any."""
        rows = slice(int(self._before_N[cut.start]), int(self._before_N[cut.stop]))
        count = rows.stop - rows.start
        if not count:
            return
        at_N = None
        if count < cut.stop - cut.start:
            at_N = self._inside_N[cut].nonzero()[:, 0].to(x_ND.device)
            x_ND = x_ND[at_N]
        chunk = Chunk(
            x_ND,
            self._document_N[rows],
            self._token_N[rows],
            self._place_N[rows],
            number,
            rows.stop == len(self._document_N),
            encodings,
            at_N,
        )
        self.reading.rows(site, chunk)
