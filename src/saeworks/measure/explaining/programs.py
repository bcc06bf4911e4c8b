"""Program explanations of one SAE's latents, and how well they and their controls do.

Shapes: N kept tokens of the judging half, n latents, R documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from saeworks.measure import bootstrap
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.fitting import Fitter
from saeworks.measure.explaining.predicates import Predicates
from saeworks.measure.explaining.program import Program
from saeworks.measure.explaining.readings import DrawnFirings, Halves
from saeworks.measure.explaining.scoring import Answers, Sums, auroc, balanced, f1
from saeworks.measure.explaining.stretches import Sample, Stretches
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick
from saeworks.results.metric import Value

OWN, TOKEN_ONLY, SHUFFLED = "own", "token", "shuffled"
"""A latent's program; the one that may ask for the token alone; another latent's program."""
_TOKEN = 0
"""The question for the token itself."""


@dataclass(frozen=True)
class Scored:
    """A latent's program.

    Attributes:
        f1, balanced: on the judging half, by kind of program.
        intervals: of F1 and balanced accuracy of its own program, over documents.
        detection, fuzzing: on its contexts: for each, whether the latent fires there (the marks are
            right), and whether the program says so.
    """

    program: Program
    text: str
    f1: dict[str, float]
    balanced: dict[str, float]
    intervals: tuple[Value, Value]
    auroc: float
    detection: Answers
    fuzzing: Answers


class Programs:
    """Fits and judges programs on the same tokens.

    Args:
        every: predicates of all kept tokens.
    """

    def __init__(
        self,
        every: Predicates,
        held_out: HeldOut,
        halves: Halves,
        stretches: Stretches,
        config: ExplainConfig,
    ) -> None:
        self.config, self.halves, self.stretches = config, halves, stretches
        fitting = every.at(halves.fitting)
        self.judging = every.at(halves.judging)
        self.fit = Fitter(fitting, config.rules)
        self.fit_token = Fitter(fitting, 1, (_TOKEN,))
        row_N = held_out.row_NT[held_out.keep_NT].numpy()[halves.judging]
        self._document_N, self._documents = row_N, held_out.rows
        self._all_R = np.bincount(row_N, minlength=held_out.rows).astype(np.float64)
        self._rows = len(every.codes)

    def scored(self, trace: DrawnFirings, samples: Sequence[Sample], tick: Tick) -> list[Scored]:
        """The program of each traced latent, and its scores."""
        fits, fires, own, token = [], [], [], []
        for rows in trace.rows:
            fits.append(_within(self.halves.fitting, rows))
            fires.append(np.zeros(len(self.halves.judging), bool))
            fires[-1][_within(self.halves.judging, rows)] = True
            own.append(self.fit.program(fits[-1]))
            token.append(self.fit_token.program(fits[-1]))
            tick(1)
        levels = [program.decided(self.judging) for program in own]
        said = {
            OWN: [p.levels()[0][at_N] > 0 for p, at_N in zip(own, levels, strict=True)],
            TOKEN_ONLY: [p.levels()[0][p.decided(self.judging)] > 0 for p in token],
        }
        said[SHUFFLED] = [*said[OWN][1:], *said[OWN][:1]]
        values, intervals = self._values(said, fires)
        return [
            Scored(
                program,
                program.text(self.judging),
                {kind: values[kind, slot][0] for kind in said},
                {kind: values[kind, slot][1] for kind in said},
                intervals[slot],
                auroc(program.levels()[1][levels[slot]], fires[slot]),
                *self._on_contexts(said[OWN][slot], samples[slot]),
            )
            for slot, program in enumerate(own)
        ]

    def _values(
        self, said: dict[str, list[np.ndarray]], fires: list[np.ndarray]
    ) -> tuple[dict[tuple[str, int], tuple[float, float]], list[tuple[Value, Value]]]:
        """F1 and balanced accuracy by kind and latent, and those of its own with intervals."""
        sums: dict[tuple[str, int, str], np.ndarray] = {}
        for kind, predicted in said.items():
            for slot, (says_N, fires_N) in enumerate(zip(predicted, fires, strict=True)):
                for key, at_N in (("hits", says_N & fires_N), ("predicted", says_N)):
                    sums[kind, slot, key] = self._by_document(at_N)
        fired = [self._by_document(fires_N) for fires_N in fires]

        def of(kind: str, slot: int, total: Callable[[np.ndarray], np.ndarray]) -> Sums:
            columns = {key: total(sums[kind, slot, key]) for key in ("hits", "predicted")}
            return columns | {"fired": total(fired[slot]), "n": total(self._all_R)}

        def once(column_R: np.ndarray) -> np.ndarray:
            return np.asarray(column_R.sum(keepdims=True))

        values, intervals = {}, []
        measured_R = self._all_R > 0
        columns = {(slot, key): sums[OWN, slot, key] for slot in range(len(fires)) for key in _SUMS}
        columns |= {(slot, "fired"): column for slot, column in enumerate(fired)}
        columns[-1, "n"] = self._all_R
        config = self.config
        draws = bootstrap.resampled(columns, measured_R, config.bootstrap, config.seed)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 has no value
            for kind in said:
                for slot in range(len(fires)):
                    sums_1 = of(kind, slot, once)
                    pair = (f1(sums_1), balanced(sums_1))
                    values[kind, slot] = (float(pair[0][0]), float(pair[1][0]))
            for slot in range(len(fires)):
                drawn = {key: draws.sums[slot, key] for key in (*_SUMS, "fired")}
                drawn["n"] = draws.sums[-1, "n"]
                intervals.append((draws.interval(f1(drawn)), draws.interval(balanced(drawn))))
        return values, intervals

    def _by_document(self, at_N: Bool[np.ndarray, " N"]) -> np.ndarray:
        counts = np.bincount(self._document_N[at_N], minlength=self._documents)
        return counts.astype(np.float64)

    def _on_contexts(
        self, says_N: Bool[np.ndarray, " N"], sample: Sample
    ) -> tuple[Answers, Answers]:
        """What the program says of a latent's contexts: it fires in a stretch where it fires on
        one of its tokens; marks are right where it fires on half of them or more."""
        says = np.zeros(self._rows, bool)
        says[self.halves.judging] = says_N
        start_S, end_S = self.stretches.start_S, self.stretches.end_S
        detection = [
            (fires, bool(says[start_S[at] : end_S[at]].any())) for at, fires in sample.detection
        ]
        fuzzing = [(one.right, bool(says[one.rows].mean() >= 0.5)) for one in sample.fuzzing]
        return detection, fuzzing


_SUMS = ("hits", "predicted")


def _within(half: Int[np.ndarray, " h"], rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k2"]:
    """Places in a half of those rows that are in it."""
    at = np.searchsorted(half, rows)
    at = np.minimum(at, len(half) - 1)
    return np.asarray(at[half[at] == rows])
