"""Outlier tokens of held-out text: left out where training left them out, else counted.

Shapes: N tokens, D model width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.activations.outliers import FAR, beyond, norms
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import for_each_site, logit_batch
from saeworks.measure.engine import Chunk, Reading
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tracker
from saeworks.results.headlines import FVU, FVU_WITHOUT_OUTLIERS, OUTLIER_SHARE
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result

EXCLUDED_SHARE, WITH_EXCLUDED = "excluded_share", "fvu_with_excluded"
_WHERE = f"whose norm is above {FAR:.0f} times the median (of the first held-out batch)"
METRICS = {
    OUTLIER_SHARE: Metric(
        "Outlier tokens",
        f"Share of the evaluated tokens {_WHERE}; shown where a site has some.",
    ),
    FVU_WITHOUT_OUTLIERS: Metric(
        "FVU without outliers",
        f"FVU of the other tokens, about their own mean, without those {_WHERE}: long vectors have "
        "most of the variance, and what is well reconstructed of them hides the rest.",
        better="lower",
    ),
    EXCLUDED_SHARE: Metric(
        "Excluded tokens",
        "Share of the held-out tokens that are left out, as in training, since their norm at one "
        "of the sites is above the suite's limit (`buffer.exclude_norm_above`).",
    ),
    WITH_EXCLUDED: Metric(
        "FVU with excluded tokens",
        "FVU of all tokens, the excluded ones among them.",
        better="lower",
    ),
}


_ROWS = 8192


@dataclass(frozen=True)
class Usual:
    """A site's tokens without the outliers.

    Attributes:
        limit: the norm above which a token is an outlier.
        mean: of the other tokens, float64.
        others: how many tokens are outliers.
    """

    limit: float
    mean: Float[Tensor, " D"]
    others: int

    @classmethod
    def of(cls, x_ND: Float[Tensor, "N D"]) -> "Usual":
        """Find the outliers from all rows at once: the limit is `FAR` times their median norm."""
        norm_N = norms(x_ND)
        limit = FAR * float(norm_N.median())
        usual_N = norm_N <= limit
        total_D = x_ND.new_zeros(x_ND.shape[1], dtype=torch.float64)
        for start in range(0, len(x_ND), _ROWS):
            part = slice(start, start + _ROWS)
            total_D += x_ND[part][usual_N[part]].double().sum(dim=0)
        count = int(usual_N.sum())
        return cls(limit, total_D / max(count, 1), len(x_ND) - count)


@final
class SiteMeans(Reading):
    """Each site's mean over the kept tokens, and the same without outliers, in float64.

    The limit is `FAR` times the median norm of the first tokens: as many as a batch has whose
    logits fit into memory, whatever else is measured.

    Attributes:
        means: site → mean.
        usual: site → its tokens without the outliers.
    """

    title = "means"

    def __init__(self, lm: LanguageModel, sites: Sequence[str], held_out: HeldOut) -> None:
        self.held_out, self.sites = held_out, sites
        self.means: dict[str, Tensor] = {}
        self.usual: dict[str, Usual] = {}
        self._sums = {
            site: torch.zeros(2, lm.width(site), dtype=torch.float64, device=lm.device)
            for site in sites
        }
        self._limits: dict[str, float] = {}
        self._far = dict.fromkeys(sites, 0)
        self._length = held_out.tokens_NT.shape[1]
        self._first = max(1, logit_batch(lm) // self._length)

    def rows(self, site: str, chunk: Chunk) -> None:
        x_ND, sums = chunk.x_ND, self._sums[site]
        if site not in self._limits:
            sequence_N = chunk.place_N // self._length
            first_n = sequence_N - sequence_N[0] < self._first
            self._limits[site] = FAR * float(norms(x_ND[first_n]).median())
        whole_D = x_ND.double().sum(dim=0)
        sums[0] += whole_D
        far_N = beyond(x_ND, self._limits[site])
        if bool(far_N.any()):
            self._far[site] += int(far_N.sum())
            whole_D = x_ND[~far_N].double().sum(dim=0)
        sums[1] += whole_D

    def finish(self, progress: Tracker) -> None:
        count = self.held_out.kept
        for site, total in self._sums.items():
            far = self._far[site]
            self.means[site] = total[0] / count
            self.usual[site] = Usual(self._limits[site], total[1] / max(count - far, 1), far)


@torch.no_grad()
def without(lm: LanguageModel, held_out: HeldOut, limits: Mapping[str, float]) -> HeldOut:
    """The held-out tokens but for those with a norm above a site's limit, as training leaves them
    out; one pass of the language model, none without limits.

    Raises:
        UserError: if none is left, or a site is not the model's.
    """
    if not limits:
        return held_out
    far: list[Tensor] = []
    now: HeldOut | None = None

    def visit(site: str, rows_ND: Tensor, batch: HeldOut) -> None:
        nonlocal now
        if batch is not now:
            now = batch
            far.append(torch.zeros(len(rows_ND), dtype=torch.bool, device=rows_ND.device))
        far[-1] |= beyond(rows_ND, limits[site])

    for_each_site(lm, lm.sites(sorted(limits)), held_out, visit, lambda done: None)
    keep_NT = held_out.keep_NT.clone()
    keep_NT[held_out.keep_NT] = ~torch.cat(far).cpu()
    if not bool(keep_NT.any()):
        raise UserError(
            "every held-out token has a norm above the suite's limits (norm_limits of suite.json); "
            "name the model and the text that it was trained on"
        )
    return replace(held_out, keep_NT=keep_NT)


def notes(results: Iterable[Result]) -> list[str]:
    """Sentences on a suite's FVU: on the three sites whose outliers change it most, and on the
    tokens that were left out."""
    sentences = []
    for result in results:
        pairs = {
            site: [_number(values, name) for name in (OUTLIER_SHARE, FVU, FVU_WITHOUT_OUTLIERS)]
            for site, values in result.sites.items()
        }
        known = {site: (s, a, b) for site, (s, a, b) in pairs.items() if s and a and b}
        for site in sorted(known, key=lambda site: -known[site][2] / known[site][1])[:3]:
            share, fvu, plain = known[site]
            sentences.append(
                f"{share:.2%} of the tokens at {site} have norms above {FAR:.0f} times the median; "
                f"FVU is {fvu:.3g} with them and {plain:.3g} without, as long vectors have most of "
                "the variance"
            )
        whole = {site: _number(v, WITH_EXCLUDED) for site, v in result.sites.items()}
        if known_whole := {site: fvu for site, fvu in whole.items() if fvu is not None}:
            share = _number(next(iter(result.sites.values())), EXCLUDED_SHARE) or 0.0
            fvus = ", ".join(f"{fvu:.3g} at {site}" for site, fvu in list(known_whole.items())[:3])
            sentences.append(
                f"{share:.2%} of the tokens are left out, as in training "
                f"(buffer.exclude_norm_above); with them FVU is {fvus}"
            )
    return sentences


def _number(values: Mapping[str, Value], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else value.value
