"""Which latents stand for a concept, and the direction between its tokens and the others.

Shapes: N rows, D model width, M latents, n chosen latents; 2 classes: the concept does not stand,
it does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.banks import Bank, firing, widest
from saeworks.measure.engine import Chunk, Reading
from saeworks.measure.held_out import HeldOut
from saeworks.measure.interventions import activations
from saeworks.measure.progress import Tracker
from saeworks.measure.steering.targets import Target

_LEAST_FIRED = 8
"""Tokens of a concept on which a latent must fire to be chosen for it."""


class Classes:
    """Sums over the tokens of two classes.

    Attributes:
        tokens_2, x_2D: their number, and the sum of x.
        fired_2M, f_2M: by class, tokens on which each latent fires and the sum of its activations;
            `squares_M` of their squares.
    """

    def __init__(self, d: int, width: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.tokens_2, self.x_2D = zeros(2), zeros(2, d)
        self.fired_2M, self.f_2M, self.squares_M = zeros(2, width), zeros(2, width), zeros(width)

    def add_x(self, x_ND: Tensor, label_N: Tensor) -> None:
        """Count rows in, of label 0 and 1."""
        for label in (0, 1):
            rows_ND = x_ND[label_N == label]
            self.tokens_2[label] += len(rows_ND)
            self.x_2D[label] += rows_ND.sum(dim=0, dtype=torch.float64)

    def add_code(self, owner: Tensor, latents: Tensor, values: Tensor, label_N: Tensor) -> None:
        """Count what fires in."""
        for label in (0, 1):
            mine = label_N[owner] == label
            at, f = latents[mine], values[mine]
            self.fired_2M[label].index_add_(0, at, torch.ones_like(f))
            self.f_2M[label].index_add_(0, at, f)
            self.squares_M.index_add_(0, at, f.square())

    def correlation(self) -> Float[Tensor, " M"]:
        """Pearson's r of each latent's activation with the label; −1 of those that fire on fewer
        than a few tokens of the concept."""
        n = self.tokens_2.sum()
        p, mean_M = self.tokens_2[1] / n, self.f_2M.sum(0) / n
        variance_M = (self.squares_M / n - mean_M.square()).clamp_min(0)
        covariance_M = self.f_2M[1] / n - p * mean_M
        r_M = covariance_M / (variance_M * p * (1 - p)).sqrt()
        enough_M = (self.fired_2M[1] >= _LEAST_FIRED) & r_M.isfinite()
        return torch.where(enough_M, r_M, -1.0)

    def rise(self) -> Float[Tensor, " M"]:
        """The mean activation where the concept stands less that where it does not."""
        return self.f_2M[1] / self.tokens_2[1] - self.f_2M[0] / self.tokens_2[0]

    def mean_difference(self) -> Float[Tensor, " D"]:
        """The mean of x where the concept stands less that where it does not."""
        return self.x_2D[1] / self.tokens_2[1] - self.x_2D[0] / self.tokens_2[0]


@final
class ConceptSums(Reading):
    """Sums of the tokens that latents are chosen on; then, once they are there, what is steered.

    Args:
        given: latents whose firing is the label of a target without one.
        then: called at the end.

    Attributes:
        classes: (bank, site, target's name) → sums.
        live: (bank, site) → on how many tokens each latent fires.
    """

    title = "where concepts stand"

    def __init__(
        self,
        banks: Mapping[str, Bank],
        sites: Sequence[str],
        targets: Sequence[Target],
        half: HeldOut,
        given: Sequence[int],
        then: Callable[[Tracker], None],
    ) -> None:
        self.held_out, self.sites, self.width = half, sites, widest(banks)
        self.banks, self.targets, self.given, self._then = banks, targets, given, then
        self.classes: dict[tuple[str, str, str], Classes] = {}
        self.live: dict[tuple[str, str], Tensor] = {}
        self._norm: dict[str, tuple[float, Tensor, int]] = {}
        self._label_X = {
            target.name: target.label_NT.flatten()
            for target in targets
            if target.label_NT is not None
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        x_ND = chunk.x_ND
        squares, x_D, count = self._norm.get(site, (0.0, x_ND.new_zeros(x_ND.shape[1]).double(), 0))
        squares += float(x_ND.double().square().sum())
        self._norm[site] = (squares, x_D + x_ND.sum(dim=0, dtype=torch.float64), count + len(x_ND))
        for name, bank in self.banks.items():
            if site in bank:
                self._code(name, site, bank[site], chunk)

    def _code(self, name: str, site: str, sae: SAE, chunk: Chunk) -> None:
        owner, latents, values = firing(chunk.code(sae))
        live_M = self.live.setdefault(
            (name, site), torch.zeros(sae.width, dtype=torch.int64, device=latents.device)
        )
        live_M += torch.bincount(latents, minlength=sae.width)
        for target in self.targets:
            key = (name, site, target.name)
            if key not in self.classes:
                self.classes[key] = Classes(sae.d, sae.width, chunk.x_ND.device)
            label_N = self._labels(target, sae, chunk)
            self.classes[key].add_x(chunk.x_ND, label_N)
            self.classes[key].add_code(owner, latents, values, label_N)

    def _labels(self, target: Target, sae: SAE, chunk: Chunk) -> Int[Tensor, " N"]:
        if target.label_NT is not None:
            label_N = self._label_X[target.name][chunk.place_N.cpu()]
            return label_N.to(chunk.x_ND.device)
        index_n = torch.tensor(list(self.given), device=chunk.x_ND.device)
        f_Nn = activations(sae, chunk.x_ND, index_n)
        return (f_Nn > 0).any(dim=1).to(torch.int8)

    def finish(self, progress: Tracker) -> None:
        self._then(progress)

    def scale(self, site: str) -> float:
        """√(E‖x − x̄‖²) at a site: the norm of a push of strength 1."""
        squares, x_D, count = self._norm[site]
        return float(np.sqrt(squares / count - float((x_D / count).square().sum())))


def candidates(classes: Classes, count: int, what: str) -> list[int]:
    """The latents that correlate best with the concept.

    Raises:
        UserError: if none fires more where it stands.
    """
    r_M = classes.correlation()
    best = [at for at in r_M.topk(min(count, len(r_M))).indices.tolist() if r_M[at] > 0]
    if not best:
        raise UserError(
            f"{what}: no latent fires more on its tokens than on others; raise tokens, or choose "
            "another concept or site"
        )
    return best


def check_live(live_M: Tensor, latents: Sequence[int], where: str, tokens: int) -> None:
    """Refuse given latents that never fire.

    Raises:
        UserError: naming the first.
    """
    for latent in latents:
        if not int(live_M[latent]):
            raise UserError(
                f"latent {latent} at {where} never fires on the {tokens:,} tokens that directions "
                "are fitted on, so nothing is known of it; choose another, or raise tokens"
            )


def weights(sae: SAE, latents: Sequence[int], classes: Classes | None) -> Float[Tensor, " n"]:
    """What each of several latents adds to a push of norm 1: in the ratio of their rises on the
    concept, or as much of each where it is None, such that ‖Σ a_i w_i‖ = 1.

    Raises:
        UserError: if their decoder rows are 0, or cancel.
    """
    index_n = torch.tensor(latents, device=sae.w_dec.device)
    a_n = torch.ones(len(latents), device=index_n.device, dtype=torch.float64)
    if classes is not None and len(latents) > 1:
        a_n = classes.rise()[index_n].clamp_min(0)
    norm = float((a_n @ sae.w_dec[index_n].double()).norm())
    if not norm > 0:
        raise UserError(
            f"latents {', '.join(map(str, latents))} add nothing: their decoder rows are 0, or "
            "cancel; choose others"
        )
    return a_n / norm
