"""`sw.audit`: the decomposition of arrays that the caller has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.errors import UserError
from saeworks.measure.audit import folds
from saeworks.measure.audit.engine import SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.ladder import NormLadder
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.noise import NullTargets
from saeworks.measure.audit.norm import R2_NORM, NormProbeOfError
from saeworks.measure.audit.shrinkage import ALPHA, ShrinkageLadder
from saeworks.measure.audit.split import FvuSplit
from saeworks.measure.audit.vector import R2_ERROR, VectorProbe
from saeworks.measure.audit.verdict import doubt, why_degenerate
from saeworks.measure.banks import double_rows_at_once
from saeworks.results.headlines import FVU, FVU_NONLINEAR
from saeworks.results.metric import Value

BASE: tuple[type[Measurement], ...] = (
    VectorProbe,
    NormProbeOfError,
    FvuSplit,
    ShrinkageLadder,
    NormLadder,
    NullTargets,
)
"""Measurements that need only x and x̂."""


def base(place: Place) -> list[Measurement]:
    """The measurements of `BASE`, made for a place."""
    return [kind(place) for kind in BASE]


@dataclass(frozen=True)
class Audit:
    """The audit of one SAE; every number is held out and pooled over the test documents.

    Attributes:
        sections: measurement → metric → value with its 95% interval (over documents).
        folds: fit, second, test → number of tokens.
        reason: why it is degenerate, or None.
        doubt: why its numbers are not firm (too few documents or tokens), in words, or None.
    """

    sections: dict[str, dict[str, Value]]
    folds: dict[str, int]
    reason: str | None
    doubt: str | None

    def __getitem__(self, key: str) -> Value:
        """A number with its interval, as `audit["split.fvu"]`."""
        section, _, metric = key.partition(".")
        return self.sections[section][metric]

    @property
    def fvu(self) -> float:
        """Σ‖e‖²/Σ‖x − x̄‖²."""
        return _number(self.sections[FvuSplit.name][FVU])

    @property
    def fvu_nonlinear(self) -> float:
        """Σ⟨u, u′⟩/Σ‖x − x̄‖², without the cost of fitting ℓ; see docs/notes/numerics.md."""
        return _number(self.sections[FvuSplit.name][FVU_NONLINEAR])

    @property
    def r2_error(self) -> float:
        """R² of x → e, pooled; NaN where e is constant."""
        return _number(self.sections[VectorProbe.name][R2_ERROR])

    @property
    def r2_error_norm(self) -> float:
        """R² of x → ‖e‖²; NaN where ‖e‖² is constant."""
        return _number(self.sections[NormProbeOfError.name][R2_NORM])

    @property
    def alpha(self) -> float:
        """α* of min Σ‖x − αx̂ − c‖²; NaN where x̂ is constant."""
        return _number(self.sections[ShrinkageLadder.name][ALPHA])

    @property
    def degenerate(self) -> bool:
        """Whether the decomposition is trivial: FVU ≈ 1, or a nearly affine SAE; see `reason`."""
        return self.reason is not None


def _number(value: Value) -> float:
    return float("nan") if value.value is None else value.value


def audit(
    x: Tensor | NDArray[Any],
    x_hat: Tensor | NDArray[Any],
    documents: Tensor | NDArray[Any] | Sequence[int],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Audit:
    """Decompose the error e = x − x̂ of an SAE into ℓ = OLS[e | x] and u = e − ℓ.

    The maps are fitted on half of the documents (by tokens); ℓ again, and what is fitted to ℓ and u
    themselves, on a quarter; everything is measured on the last quarter. Works in float64, a chunk
    of rows at a time (Engels et al. 2024, Decomposing the Dark Matter of Sparse Autoencoders,
    section 3).

    Args:
        x: activations [tokens, d].
        x_hat: their reconstructions [tokens, d].
        documents: the document of each token, any integers [tokens].
        resamples: of the documents, behind each interval.
        seed: of the split and the resamples.

    Raises:
        UserError: if shapes do not fit, there is only one document, there are too few tokens for a
            well-posed fit, x is constant, a value is NaN or infinite, documents are no integers,
            or an option is negative.
    """
    for key, value in (("seed", seed), ("resamples", resamples)):
        if value < 0:
            raise UserError(f"audit: {key} = {value}: it must be at least 0")
    x_ND, x_hat_ND, document_N = _checked(x, x_hat, documents)
    numbers_N = torch.unique(document_N, return_inverse=True)[1]
    tokens_R = torch.bincount(numbers_N).cpu().numpy()
    folds_R = folds.assign(tokens_R, seed)
    width = x_ND.shape[1]
    folds.check_size(tokens_R, folds_R, width, "x")
    place = Place(width, len(tokens_R), x_ND.device, seed)
    site = SiteAudit("x", place, ["x_hat"], base)
    fold_N = torch.from_numpy(folds_R).to(x_ND.device)[numbers_N]
    for phase, fold in enumerate(folds.phases(folds_R)):
        rows_n = (fold_N == fold).nonzero()[:, 0]
        for part_n in torch.split(rows_n, double_rows_at_once(width)):
            made = {"x_hat": _known(x_hat_ND[part_n])}
            site.add(phase, x_ND[part_n], Tokens(numbers_N[part_n]), made)
        site.finish(phase)
    sections = site.saes["x_hat"].values(resamples, seed)
    named = {"fit": folds.FIT, "second": folds.SECOND, "test": folds.TEST}
    return Audit(
        sections,
        {name: int(tokens_R[folds_R == fold].sum()) for name, fold in named.items()},
        why_degenerate(sections),
        doubt(sections),
    )


def _known(x_hat_ND: Tensor) -> Callable[[Tensor], SaeOutput]:
    return lambda x_ND: SaeOutput(x_hat_ND)


def document_numbers(documents: Any, tokens: int, where: str = "audit") -> Tensor:
    """The document of each token, in whatever form it came.

    Raises:
        UserError: if it is not one integer for each.
    """
    way_out = f"give one integer for each of the {tokens} tokens"
    if isinstance(documents, Tensor):
        document_N = documents
    else:
        try:
            array = np.asarray(documents)
        except ValueError as error:  # lists of unequal lengths
            raise UserError(f"{where}: documents is no list of numbers; {way_out}") from error
        if array.dtype.kind not in "iu":
            raise UserError(f"{where}: documents holds {array.dtype.name}; {way_out}")
        document_N = torch.as_tensor(array.astype(np.int64))
    if document_N.shape != (tokens,) or document_N.dtype.is_floating_point:
        raise UserError(
            f"{where}: documents has shape {list(document_N.shape)} and type {document_N.dtype}; "
            f"{way_out}"
        )
    return document_N.long()


def _checked(x: Any, x_hat: Any, documents: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors on one device, of fitting shapes and finite."""
    x_ND, x_hat_ND = torch.as_tensor(x).detach(), torch.as_tensor(x_hat).detach()
    document_N = document_numbers(documents, len(x_ND) if x_ND.dim() else 0)
    if x_ND.dim() != 2 or 0 in x_ND.shape:
        raise UserError(f"audit: x has shape {list(x_ND.shape)}; give activations [tokens, d]")
    if x_hat_ND.shape != x_ND.shape:
        raise UserError(
            f"audit: x_hat has shape {list(x_hat_ND.shape)} but x {list(x_ND.shape)}; give the "
            "reconstruction of the same tokens by an SAE of the same width"
        )
    for name, rows_ND in (("x", x_ND), ("x_hat", x_hat_ND)):
        if not rows_ND.is_floating_point():
            raise UserError(
                f"audit: {name} is of type {rows_ND.dtype}; give floating point numbers"
            )
        chunks = torch.split(rows_ND, double_rows_at_once(rows_ND.shape[1]))
        if not all(bool(torch.isfinite(chunk_ND).all()) for chunk_ND in chunks):
            raise UserError(f"audit: NaN or infinity in {name}; leave those tokens out")
    return x_ND, x_hat_ND.to(x_ND.device), document_N.to(x_ND.device)
