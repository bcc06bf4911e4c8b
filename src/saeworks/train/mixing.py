"""The rows that SAEs see in a step: of one site, or of the sites of a group mixed.

Every SAE sees as many rows as the batch has, however many sites it serves, and SAEs with the same
view see the same rows. Shapes: B rows of a batch, D model width, S sites of a view.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.seeds import generator
from saeworks.config import NormaliserKind
from saeworks.dictionary.base import Batch
from saeworks.dictionary.normaliser import Normaliser


@dataclass(frozen=True)
class View:
    """What an SAE sees of a batch.

    Attributes:
        sites: those it serves.
        normaliser: in whose units.
        draw: of every row one site, drawn uniformly; or of the first ⌈B/S⌉ rows all sites.
    """

    sites: tuple[str, ...]
    normaliser: NormaliserKind
    draw: Literal["one", "all"] = "one"

    def batch(
        self,
        x: Mapping[str, Float[Tensor, "B D"]],
        normalisers: Mapping[str, Normaliser],
        *seed: int | str,
        label: Int[Tensor, " B"] | None = None,
    ) -> Batch:
        """B normalised rows, with the index of each one's site where there are several.

        A row is normalised by its own site's map: within a group, layers differ in mean and scale.

        Args:
            x: the same B tokens at every site, raw.
            normalisers: by site.
            seed: of the draw, which depends on nothing but this and the sites.
            label: of the tokens, if any.
        """
        if len(self.sites) == 1:
            (site,) = self.sites
            x_BD = normalisers[site].normalise(x[site])
            return Batch(x_BD, x_BD, label=None if label is None else label.to(x_BD.device))
        first = x[self.sites[0]]
        token_B, site_B = self._drawn(len(first), *seed)
        mixed_BD = torch.empty_like(first)
        for index, site in enumerate(self.sites):
            at = (site_B == index).nonzero().squeeze(1)
            rows_nD = x[site][token_B[at].to(first.device)]
            mixed_BD[at.to(first.device)] = normalisers[site].normalise(rows_nD)
        if label is not None:
            label = label[token_B.to(label.device)].to(first.device)
        return Batch(mixed_BD, mixed_BD, site_B.to(first.device), label=label)

    def _drawn(self, rows: int, *seed: int | str) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """The token and the site of each row."""
        every, sites = torch.arange(rows), len(self.sites)
        if self.draw == "all":
            return every // sites, every % sites
        random = generator(*seed, "draw", *self.sites)
        return every, torch.randint(sites, (rows,), generator=random)
