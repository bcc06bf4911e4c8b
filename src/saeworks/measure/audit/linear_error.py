"""ℓ = B*x + c of trained SAEs on the first tokens of a text: for SAEs trained on ℓ and u."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saeworks.activations.error import component
from saeworks.activations.feed import Feed
from saeworks.activations.live import Reader, RowReader, Stream
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.audit.folds import PER_PARAMETER
from saeworks.measure.audit.least_squares import Affine, Factor
from saeworks.measure.audit.moments import Cross, Gram


@dataclass(frozen=True)
class LinearError:
    """ℓ of one SAE.

    Attributes:
        tokens: that it was fitted on.
        rank, condition: of x's correlation matrix, as the fit used it.
    """

    map: Affine
    tokens: int
    rank: int
    condition: float

    def tensors(self) -> dict[str, Tensor]:
        """What `Affine` is made of, by name."""
        affine = self.map
        return {"weight": affine.weight_DV, "x_mean": affine.x_mean_D, "mean": affine.y_mean_V}

    def facts(self) -> dict[str, Any]:
        """All but the map, for a suite's record."""
        return {name: value for name, value in vars(self).items() if name != "map"}


def read_map(tensors: Mapping[str, Tensor]) -> Affine:
    """The map that `LinearError.tensors` gave."""
    return Affine(tensors["weight"], tensors["x_mean"], tensors["mean"])


def check_tokens(tokens: int, bank: Mapping[str, SAE]) -> None:
    """Refuse a fit that would be ill-posed.

    Raises:
        UserError: saying how many tokens are needed.
    """
    for site, sae in bank.items():
        needed = PER_PARAMETER * (sae.d + 1)
        if tokens < needed:
            raise UserError(
                f"error.tokens = {tokens}: too few to fit the {sae.d + 1} parameters per output "
                f"of site {site} on; give at least {needed}, better {100 * sae.d}"
            )


@torch.no_grad()
def fit_linear_errors(
    lm: Reader,
    stream: Stream,
    bank: Mapping[str, SAE],
    tokens: int,
    tick: Callable[[float], None],
    limits: Mapping[str, float] | None = None,
) -> dict[str, LinearError]:
    """B* and c of every site by least squares on the first kept tokens of a text, in float64.

    Deterministic: the same model, text, SAEs and threads give the same bytes.

    Args:
        tick: told the share that is done; it may raise to break off.
        limits: site → norm; tokens beyond one are left out.

    Raises:
        UserError: as `check_tokens`; if x is constant at a site, or a value is NaN or infinite.
    """
    check_tokens(tokens, bank)
    feed = Feed(RowReader(lm, stream, list(bank), limits), torch.float32)
    grams = {site: Gram(sae.d, lm.device) for site, sae in bank.items()}
    crosses = {site: Cross(sae.d, sae.d, lm.device) for site, sae in bank.items()}
    done = 0
    while done < tokens:
        rows = feed.take(tokens - done)
        feed.check()
        for site, sae in bank.items():
            x_ND = rows.planes[site]
            e_ND = component("e", x_ND, sae, None).double() if len(rows) else x_ND.double()
            crosses[site].add(grams[site].add(x_ND.double()), e_ND)
        done += len(rows)
        tick(done / tokens)
    return {site: _solved(site, grams[site], crosses[site]) for site in bank}


def _solved(site: str, gram: Gram, cross: Cross) -> LinearError:
    factor = Factor.of(gram, f"site {site}")
    affine = factor.fit(cross)
    if not all(torch.isfinite(t).all() for t in (affine.weight_DV, affine.y_mean_V)):
        raise UserError(f"site {site}: NaN or infinity in the error of its SAE; train that again")
    return LinearError(affine, gram.n, factor.rank, factor.condition)
