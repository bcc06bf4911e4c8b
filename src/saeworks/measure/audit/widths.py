"""SAEs of one architecture, several widths and about equal L0 at one site: what they share.

Which SAEs belong together follows from the L0 counted on the fit fold. Per token, ‖e‖ at one width
is predicted from ‖e‖ and ‖u‖ at another by least squares on the second fold; of the test fold the
second moments of all norms are kept by document, from which every R² follows.

Shapes: W SAEs of a family, P = 1 + 2W numbers per token: 1, ‖e‖ of each, ‖u‖ of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.measure import bootstrap
from saeworks.measure.audit import folds
from saeworks.measure.audit.fits import Parts, Rows, square
from saeworks.measure.audit.measurement import Place
from saeworks.measure.audit.norm import fired
from saeworks.measure.audit.scaling import added_percent
from saeworks.results.metric import Value

ALIKE = 1.25
"""L0s of a family differ by no more than this factor."""
BATCHES = 1.01
"""Numbers of training tokens in a family differ by no more than this factor: runs end on whole
batches."""


@dataclass(frozen=True)
class TrainedWith:
    """How an SAE was trained, as far as SAEs that are compared must agree.

    Attributes:
        tokens: None where it is not known.
        sites: how many sites share the SAE.
    """

    tokens: int | None = None
    sites: int = 1

    def like(self, other: "TrainedWith") -> bool:
        """Whether two agree."""
        if self.tokens is None or other.tokens is None:
            return self.tokens == other.tokens and self.sites == other.sites
        less, more = sorted((self.tokens, other.tokens))
        return more <= BATCHES * less and self.sites == other.sites


@dataclass(frozen=True)
class Sized:
    """An SAE as far as scaling goes.

    Attributes:
        l0: on the fit fold.
    """

    name: str
    arch: str
    width: int
    l0: float
    trained: TrainedWith = TrainedWith()


@dataclass(frozen=True)
class SaeFamily:
    """SAEs that are compared.

    Attributes:
        members: by width, each width once.
        left_out: others of the architecture, and why.
    """

    members: tuple[Sized, ...]
    left_out: tuple[tuple[Sized, str], ...]


def families(saes: Sequence[Sized]) -> list[SaeFamily]:
    """Families of at least two widths. From the smallest L0 on, an architecture's SAEs are put
    together as long as they are within `ALIKE` of it and trained like it; of equal widths the
    first named counts."""
    grouped = []
    for arch in dict.fromkeys(sae.arch for sae in saes):
        of_arch = [sae for sae in saes if sae.arch == arch]
        rest = sorted(of_arch, key=lambda sae: sae.l0)
        while rest:
            least = rest[0]
            near = [
                sae
                for sae in rest
                if sae.l0 <= ALIKE * least.l0 and sae.trained.like(least.trained)
            ]
            rest = [sae for sae in rest if sae not in near]
            by_width: dict[int, Sized] = {}
            for sae in of_arch:
                if sae in near:
                    by_width.setdefault(sae.width, sae)
            members = tuple(by_width[width] for width in sorted(by_width))
            if len(members) > 1:
                left = [(sae, _why(sae, near, least)) for sae in of_arch if sae not in members]
                grouped.append(SaeFamily(members, tuple(left)))
    return grouped


def _why(one: Sized, near: Sequence[Sized], least: Sized) -> str:
    if one in near:
        return "another SAE of its width is compared"
    trained, theirs = one.trained, least.trained
    if trained.sites != theirs.sites:
        return (
            f"it is one SAE of {trained.sites} sites"
            if trained.sites > 1
            else "it is of this site only"
        )
    if not trained.like(theirs):
        known = [
            f"{tokens:,}" if tokens else "unknown" for tokens in (trained.tokens, theirs.tokens)
        ]
        return f"it is trained on {known[0]} tokens, not about {known[1]}"
    return f"its L0 is not within a factor {ALIKE} of the others'"


class Norms:
    """Second moments of the norms of a family's errors."""

    def __init__(self, family: SaeFamily, place: Place) -> None:
        self.family = family
        self._p = 1 + 2 * len(family.members)
        none_RPP = torch.zeros(
            place.documents, self._p, self._p, dtype=torch.float64, device=place.device
        )
        self._test_RPP, self._second_PP = none_RPP, none_RPP.new_zeros(self._p, self._p)

    def _rows(self, found: Mapping[str, Parts]) -> Tensor:
        parts = [found[sized.name] for sized in self.family.members]
        columns = [square(part.e_ND).sqrt() for part in parts]
        columns += [square(part.u_ND).sqrt() for part in parts]
        return torch.stack([torch.ones_like(columns[0]), *columns], dim=1)

    def second(self, found: Mapping[str, Parts]) -> None:
        """Add tokens on which the lines are fitted."""
        rows_NP = self._rows(found)
        self._second_PP += rows_NP.T @ rows_NP

    def test(self, document_N: Tensor, found: Mapping[str, Parts]) -> None:
        """Add tokens on which R² is measured."""
        rows_NP = self._rows(found)
        self._test_RPP.index_add_(0, document_N, rows_NP[:, :, None] * rows_NP[:, None, :])

    def pairs(self, resamples: int, seed: int) -> dict[tuple[int, int], dict[str, Value]]:
        """For every pair (i, j) of widths, i the smaller: `r2` of ‖e_j‖ from ‖e_i‖,
        `r2_with_nonlinear` with ‖u_i‖ added, and `added_percent`."""
        flat = self._test_RPP.flatten(1).cpu().numpy()
        drawn = bootstrap.resampled(dict(enumerate(flat.T)), flat[:, 0] > 0, resamples, seed)
        test_DPP = np.stack(list(drawn.sums.values()), axis=1).reshape(-1, self._p, self._p)
        fit_PP = self._second_PP.cpu().numpy()
        count, values = len(self.family.members), {}
        for i in range(count):
            for j in range(i + 1, count):
                first_D = _r2(fit_PP, test_DPP, [0, 1 + i], 1 + j)
                both_D = _r2(fit_PP, test_DPP, [0, 1 + i, 1 + count + i], 1 + j)
                with np.errstate(divide="ignore", invalid="ignore"):
                    added_D = added_percent(first_D, both_D)
                values[i, j] = {
                    "r2": drawn.interval(first_D),
                    "r2_with_nonlinear": drawn.interval(both_D),
                    "added_percent": drawn.interval(added_D),
                }
        return values


def _r2(
    fit_PP: NDArray[np.float64], test_DPP: NDArray[np.float64], features: list[int], target: int
) -> NDArray[np.float64]:
    """Held-out R² of least squares, from second moments; the mean is that of the fit."""
    gram_FF = fit_PP[np.ix_(features, features)]
    weights_F, *_ = np.linalg.lstsq(gram_FF, fit_PP[features, target], rcond=None)
    left_P, total_P = np.zeros(len(fit_PP)), np.zeros(len(fit_PP))
    left_P[target] = total_P[target] = 1.0
    left_P[features] = -weights_F
    total_P[0] = -fit_PP[0, target] / max(fit_PP[0, 0], 1.0)
    left_D = np.einsum("p,dpq,q->d", left_P, test_DPP, left_P)
    total_D = np.einsum("p,dpq,q->d", total_P, test_DPP, total_P)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_D: NDArray[np.float64] = 1.0 - left_D / total_D
    return r2_D


class Widths:
    """All SAEs of a site through the phases, as far as they are compared with one another.

    Args:
        trained: how each was trained, where that is known.
    """

    def __init__(self, place: Place, trained: Mapping[str, TrainedWith]) -> None:
        self.place, self._trained = place, trained
        self._counts: dict[str, tuple[str, int, Tensor]] = {}
        self._tokens: dict[str, int] = {}
        self.norms: list[Norms] = []

    def fit(self, name: str, rows: Rows) -> None:
        """Count the latents that fire."""
        if rows.sae is None or rows.code is None:
            return
        zero = torch.zeros((), dtype=torch.float64, device=self.place.device)
        arch, width, total = self._counts.get(name, (rows.sae.arch, rows.sae.width, zero))
        self._counts[name] = (arch, width, total + fired(rows).sum())
        self._tokens[name] = self._tokens.get(name, 0) + len(rows.x_ND)

    def fitted(self) -> None:
        """Put the SAEs into families, as their L0 is now known."""
        saes = [
            Sized(
                name,
                arch,
                width,
                float(total) / max(self._tokens[name], 1),
                self._trained.get(name, TrainedWith()),
            )
            for name, (arch, width, total) in self._counts.items()
        ]
        self.norms = [Norms(family, self.place) for family in families(saes)]

    def add(self, phase: int, document_N: Tensor, found: Mapping[str, Parts | None]) -> None:
        """Count tokens of the second or the test fold in."""
        parts = {name: sae_parts for name, sae_parts in found.items() if sae_parts is not None}
        for norms in self.norms:
            if phase == folds.SECOND:
                norms.second(parts)
            elif phase == folds.TEST:
                norms.test(document_N, parts)
