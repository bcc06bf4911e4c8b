"""A circuit put in the place of a site: its nodes stay, the others are set to their means.

    x′ = x − Σ_{j ∉ C} (f_j − f̄_j) W_dec[j] − [e ∉ C] (e − ē)

f̄ and ē are means over a case's prompts, clean and patched, at the position (position-specific mean
ablation). With all nodes in C, x′ is x to the bit; with none it is x̄, whatever the SAE.

Shapes: P pairs of prompts, T positions, R = P·T rows, G cells (case, position), D model width, M
latents, V variants of a pass, n active pairs.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.base import SparseCode
from saeworks.dictionary.kernels import gather_sum, pair_rows
from saeworks.measure.circuits.prompts import CodedSite, Prompts

EVERY = 2**40
"""Beyond the rank of every latent."""


class Kept(NamedTuple):
    """The nodes of a site that stay: latents of rank `first` to below `end`, and the error."""

    first: int
    end: int
    error: bool


class Circuit(NamedTuple):
    """Which nodes stay, whatever the site.

    Attributes:
        nodes: the top so many per site, by |effect|; EVERY for all.
        error: whether the error is a node, ranked among the latents; else it is always ablated.
        rest: the others of the nodes in their place.
        alone: the error and no latent.
    """

    nodes: int
    error: bool
    rest: bool = False
    alone: bool = False

    def at(self, error_place: int) -> Kept:
        """The same at a site at which so many latents are ranked before the error."""
        if self.alone:
            return Kept(0, 0, True)
        with_error = self.error and error_place < self.nodes
        latents = EVERY if self.nodes == EVERY else self.nodes - with_error
        kept = Kept(0, latents, with_error)
        if self.rest:
            kept = Kept(latents, EVERY, self.error and not with_error)
        return kept if kept.first < kept.end else Kept(0, 0, kept.error)


NOTHING = Circuit(0, error=False)
"""No node."""
WHOLE = Circuit(EVERY, error=True)
"""All latents and the error: the untouched model."""
SPLICED = Circuit(EVERY, error=False)
"""All latents without the error."""
ERROR = Circuit(0, error=True, alone=True)
"""The error without any latent."""


class Means:
    """What the nodes of one SAE at one site are ablated to.

    Attributes:
        code: the mean of every latent that is active in a cell, a row per cell.
        mean_GD: the mean of x.
    """

    def __init__(self, coded: CodedSite, prompts: Prompts) -> None:
        self.sae, self.code, self.mean_GD = coded.sae, _mean_code(coded, prompts), coded.x.mean_GD


class RankedNodes:
    """The nodes of one SAE at one site in an order, and how a circuit of them is put in place.

    Args:
        latents_n: the latents in the order in which they come into circuits; the others come last.
        error_place: how many of them come before the error.
    """

    def __init__(self, means: Means, latents_n: Int[Tensor, " n"], error_place: int) -> None:
        self.sae, self.error_place, self._means = means.sae, error_place, means
        self._rank_M = torch.full((means.sae.width,), EVERY - 1, device=latents_n.device)
        self._rank_M[latents_n] = torch.arange(len(latents_n), device=latents_n.device)

    def reordered(self, latents_n: Int[Tensor, " n"]) -> "RankedNodes":
        """The same nodes with the latents in another order, and the error where it was."""
        return RankedNodes(self._means, latents_n, self.error_place)

    @torch.no_grad()
    def put(
        self,
        x_RD: Float[Tensor, "R D"],
        code: SparseCode,
        cell_R: Int[Tensor, " R"],
        circuit: Circuit,
    ) -> Float[Tensor, "R D"]:
        """x′ of rows with their code, of which a circuit stays."""
        kept = circuit.at(self.error_place)
        if kept.error:
            stays_GD = self._sum(self._means.code, kept, inside=False)
            return x_RD - self._sum(code, kept, inside=False) + stays_GD[cell_R]
        stays_GD = self._means.mean_GD - self._sum(self._means.code, kept, inside=True)
        return stays_GD[cell_R] + self._sum(code, kept, inside=True)

    def _sum(self, code: SparseCode, kept: Kept, *, inside: bool) -> Float[Tensor, "R D"]:
        """Σ_j f_j W_dec[j] over the latents that are kept, or over the others."""
        rank = self._rank_M[code.indices]
        chosen = (rank >= kept.first) & (rank < kept.end)
        values = code.values * (chosen if inside else ~chosen)
        return gather_sum(values, code.indices, self.sae.w_dec, code.offsets)


def rows_of(code: SparseCode, start: int, end: int) -> SparseCode:
    """The code of consecutive rows."""
    shape = (end - start,)
    if code.offsets is None:
        return SparseCode(code.indices[start:end], code.values[start:end], code.width, shape)
    first, last = int(code.offsets[start]), int(code.offsets[end])
    offsets = code.offsets[start : end + 1] - first
    return SparseCode(code.indices[first:last], code.values[first:last], code.width, shape, offsets)


@torch.no_grad()
def _mean_code(coded: CodedSite, prompts: Prompts) -> SparseCode:
    """f̄ by cell, of the clean and the patched prompts; float64 sums."""
    cell_R, sae = prompts.cell_PT.flatten(), coded.sae
    keys, values = [], []
    for code in (coded.clean, coded.patch):
        cell_n = cell_R[pair_rows(code.indices, code.offsets)]
        fires = code.values.flatten() != 0
        keys.append((cell_n * sae.width + code.indices.flatten())[fires])
        values.append(code.values.flatten()[fires].double())
    key_n, place = torch.unique(torch.cat(keys), return_inverse=True)
    total_n = torch.zeros(len(key_n), dtype=torch.float64, device=key_n.device)
    total_n.index_add_(0, place, torch.cat(values))
    cell_n, latent_n = key_n.div(sae.width, rounding_mode="floor"), key_n % sae.width
    count_G = 2 * torch.bincount(cell_R, minlength=prompts.cells)
    bounds = torch.arange(prompts.cells + 1, device=key_n.device)
    offsets = torch.searchsorted(cell_n, bounds)
    mean_n = (total_n / count_G[cell_n]).to(sae.dtype)
    return SparseCode(latent_n, mean_n, sae.width, (prompts.cells,), offsets)
