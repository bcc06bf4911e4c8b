"""Pilots: short runs of a few small SAEs on the user's model, and what they measured.

One run reads all sites, with an SAE for each and SAEs that all of them, or some, share. Two runs of
different lengths vary width, k and experts at one or two sites (the shorter one lacks the SAE that
the first run has already). In each, one pass of the language model feeds all SAEs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saeworks.advice.law import Readings, Sizes
from saeworks.config import DEFAULT_SAE, RunConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus
from saeworks.results.headlines import DELTA_CE
from saeworks.results.names import LOG
from saeworks.train.base import Say
from saeworks.train.live_job import LiveJob
from saeworks.train.variants import suite_dirs

DENSE, EXPERTS = DEFAULT_SAE["arch"], "switch"
"""The architectures that are advised: one dictionary, and one divided into experts."""
NARROW, WIDE, PILOT_EXPERTS = 2, 8, 4
"""Widths of the pilots, in times D, and the experts that the wide one is divided into."""
SHORTER = 4
"""The longest pilot is so many times as long as the others."""
STEPS, BATCHES = 256, (128, 4096)
"""Steps of the longest pilot, at least, and the smallest and largest batch."""
LEAST_TOKENS = STEPS * BATCHES[0]
"""Of the longest pilot."""
EVAL_TOKENS = (8192, 2048)
"""Held-out tokens that every pilot is measured on; the second where time is short."""
_ONLY_AT_THE_END = 2**40


@dataclass(frozen=True)
class Design:
    """What is piloted, but for how long.

    Attributes:
        config: the user's run: its model, text, sites and whatever it sets of training.
        sites: all that are trained at, in the model's order.
        k: the values that are allowed.
        one_width: whether all sites have the same D, so that they can share an SAE.
    """

    config: RunConfig
    sites: tuple[str, ...]
    k: tuple[int, ...]
    one_width: bool

    @property
    def few(self) -> tuple[str, ...]:
        """The sites at which width, k and experts vary: two, a quarter from either end."""
        count = len(self.sites)
        if count <= 2:
            return self.sites
        return (self.sites[count // 4], self.sites[count - 1 - count // 4])

    @property
    def groupings(self) -> tuple[int, ...]:
        """Numbers of groups that are piloted."""
        if not self.one_width or len(self.sites) == 1:
            return ()
        return tuple(sorted({1, -(-len(self.sites) // 3)} - {len(self.sites)}))

    @property
    def base_k(self) -> int:
        return sorted(self.k)[len(self.k) // 2]

    @property
    def varied(self) -> list[dict[str, Any]]:
        """The SAEs in which width, k and experts vary, one at a time."""
        base = {"arch": DENSE, "expansion": NARROW, "k": self.base_k}
        others = sorted({min(self.k), max(self.k)} - {self.base_k}) or [2 * self.base_k]
        wide = {**base, "expansion": WIDE}
        return [
            base,
            *({**base, "k": k} for k in others),
            wide,
            {**wide, "arch": EXPERTS, "experts": PILOT_EXPERTS},
        ]

    def sample(self, batch: int) -> RunConfig:
        """A run with an SAE of each shape at all sites, to be timed."""
        groups = ({"method": "even", "groups": 1},) if self.groupings else ("per-site",)
        saes = tuple({**sae, "groups": list(groups)} for sae in self.varied)
        return self._run(self.sites, saes, 64 * batch, batch, EVAL_TOKENS[0])

    def runs(self, tokens: int, batch: int, eval_tokens: int, longest: int) -> dict[str, RunConfig]:
        """Name → run, the shorter ones first.

        Args:
            tokens: of the longest, as it was planned; the others follow from it.
            longest: of the longest, as it is afforded.
        """
        base = {"arch": DENSE, "expansion": NARROW, "k": self.base_k}
        grouped = [{"method": "even", "groups": n} for n in self.groupings]
        layers = ({**base, "groups": ["per-site", *grouped]},)
        varied, short = tuple(self.varied), -(-tokens // SHORTER)
        return {
            "layers": self._run(self.sites, layers, short, batch, eval_tokens),
            "short": self._run(self.few, varied[1:], short, batch, eval_tokens),
            "long": self._run(self.few, varied, longest, batch, eval_tokens),
        }

    def _run(
        self,
        sites: tuple[str, ...],
        saes: tuple[dict[str, Any], ...],
        tokens: int,
        batch: int,
        eval_tokens: int,
    ) -> RunConfig:
        train = replace(
            self.config.train,
            tokens=tokens,
            batch=batch,
            eval_every=_ONLY_AT_THE_END,
            eval_tokens=eval_tokens,
        )
        return replace(self.config, sites=sites, saes=saes, groups=("per-site",), train=train)


def batch_of(tokens: int) -> int:
    """Tokens per step of the pilots, and of the run that they are for: a power of two."""
    least, most = BATCHES
    power: int = 1 << (max(1, tokens // STEPS).bit_length() - 1)
    return min(most, max(least, power))


def run_pilot(
    config: RunConfig, lm: LanguageModel, corpus: Corpus, out: Path, say: Say
) -> LiveJob | None:
    """Train one of the runs, or what is left of it; None where it was interrupted.

    Of what a run says, only how far it is and that it was interrupted: its warnings are of a run as
    short as a pilot must be.
    """

    def briefly(line: str) -> None:
        if line.startswith(("training", "interrupted")):
            say(line)

    job = LiveJob.prepare(config, lm, corpus)
    outcome, _ = job.run(out, briefly)
    return job if outcome == "finished" else None


def seconds_of(job: LiveJob, out: Path) -> float:
    """Of a finished pilot's training."""
    from saeworks.suite import load_suite

    folder = next(iter(suite_dirs(job.variants, out).values()))
    return float(load_suite(folder).meta["seconds"])


def readings(jobs: Mapping[str, tuple[LiveJob, Path]], sites: Sequence[str]) -> Readings:
    """What finished pilots measured.

    Raises:
        UserError: if a log lacks a number, or no FVU is above 0.
    """
    rows = [row for job, out in jobs.values() for row in _rows(job, out, sites)]
    pilots = list(dict.fromkeys(row["pilot"] for row in rows))
    return Readings(
        Sizes.of([row["size"] for row in rows]),
        np.array([pilots.index(row["pilot"]) for row in rows]),
        np.array([row["site"] for row in rows]),
        np.array([row["sharing"] for row in rows], dtype=float),
        np.array([row["fvu"] for row in rows]),
        np.array([row["delta_ce"] for row in rows]),
    )


def _rows(job: LiveJob, out: Path, sites: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per SAE and site."""
    tokens = float(job.work.rows)
    for variant in job.variants:
        measured = _held_out(suite_dirs(job.variants, out)[variant.name] / LOG)
        for group, sharing in variant.grouping.groups.items():
            for site in sharing:
                options, found = variant.options[site], measured.get(site, {})
                fvu, delta_ce = found.get("held_out_fvu"), found.get(DELTA_CE)
                if not (isinstance(fvu, float) and fvu > 0 and isinstance(delta_ce, float)):
                    raise UserError(
                        f"pilot {out / variant.name}: FVU {fvu} and ΔCE {delta_ce} at {site} make "
                        "no law; choose other sites, or another --out to pilot again"
                    )
                expansion = options["width"] / job.widths[site]
                size = (expansion, options.get("experts", 1), options["k"], tokens)
                yield {
                    "pilot": (out, variant.name, group),
                    "size": size,
                    "site": sites.index(site),
                    "sharing": len(sharing),
                    "fvu": fvu,
                    "delta_ce": delta_ce,
                }


def _held_out(log: Path) -> dict[str, dict[str, Any]]:
    """Site → the last held-out numbers."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return {line["site"]: line for line in lines if line["kind"] == "held_out"}
