"""FVU_nl and R² of the error while training: an audit's core numbers from moments alone.

x is the same at every evaluation, so its moments and their factor are kept; an evaluation adds two
products x'e of what the probe has encoded anyway, and no pass over the tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.errors import UserError
from saeworks.measure.audit import folds
from saeworks.measure.audit.least_squares import Factor, varies
from saeworks.measure.audit.measurement import CONSTANT
from saeworks.measure.audit.moments import Cross, Gram
from saeworks.measure.audit.split import NONLINEAR_SHARE
from saeworks.measure.audit.vector import R2_ERROR
from saeworks.measure.held_out import HeldOut
from saeworks.results.headlines import FVU_NONLINEAR

NAMES = (FVU_NONLINEAR, NONLINEAR_SHARE, R2_ERROR)


@dataclass
class _Site:
    """What is known of x at a site: its Gram by fold, and the factors of the fit and the second
    fold's."""

    grams: dict[int, Gram]
    factors: dict[int, Factor] = field(default_factory=dict)
    whole: bool = field(default=False)

    def shifted(self, fold: int, x_ND: Tensor) -> Tensor:
        """x less the shift of the fold's Gram, which counts the rows in the first time."""
        gram = self.grams[fold]
        return x_ND - gram.shift_D if self.whole else gram.add(x_ND)

    def finish(self, where: str) -> None:
        """Factor the Grams after the last token; constant activations get no factor."""
        fitted = {fold: gram for fold, gram in self.grams.items() if fold != folds.TEST}
        if not self.whole and all(bool(varies(gram).any()) for gram in fitted.values()):
            self.factors = {fold: Factor.of(gram, where) for fold, gram in fitted.items()}
        self.whole = True


class InRunAudit:
    """The audit's split of the documents, and x's moments, for every evaluation of a run.

    Args:
        held_out: the tokens, as every evaluation sees them.
        widths: site → D.

    Raises:
        UserError: if there are too few tokens or documents for a well-posed fit.
    """

    def __init__(
        self, held_out: HeldOut, widths: Mapping[str, int], device: torch.device, seed: int = 0
    ) -> None:
        kept_n = held_out.row_NT[held_out.keep_NT]
        tokens_R = torch.bincount(kept_n, minlength=held_out.rows).cpu().numpy()
        try:
            fold_R = folds.assign(tokens_R, seed)
            for site, d in widths.items():
                folds.check_size(tokens_R, fold_R, d, f"site {site}")
        except UserError as error:
            raise UserError(f"train.audit: {error}; set train.eval_tokens") from None
        self.fold_R = torch.from_numpy(fold_R).to(device)
        self._sites = {
            site: _Site({fold: Gram(d, device) for fold in dict.fromkeys(folds.phases(fold_R))})
            for site, d in widths.items()
        }

    def tally(self, site: str) -> "FoldMoments":
        """New moments of e, for one evaluation of one SAE."""
        return FoldMoments(self, site, self._sites[site])


class FoldMoments:
    """Moments of x with e in every fold."""

    def __init__(self, audit: InRunAudit, site: str, known: _Site) -> None:
        self._audit, self._site, self._known = audit, site, known
        gram = known.grams[folds.FIT]
        d, device = len(gram.shift_D), gram.shift_D.device
        self._crosses = {fold: Cross(d, d, device) for fold in known.grams}

    def add(
        self, batch: HeldOut, x_ND: Float[Tensor, "N D"], x_hat_ND: Float[Tensor, "N D"]
    ) -> None:
        """Count the kept rows of a batch in."""
        fold_N = self._audit.fold_R[batch.row_NT[batch.keep_NT]]
        for fold, cross in self._crosses.items():
            at_N = fold_N == fold
            if bool(at_N.any()):
                wide_ND = x_ND[at_N].double()
                e_ND = wide_ND - x_hat_ND[at_N].double()
                cross.add(self._known.shifted(fold, wide_ND), e_ND)

    def values(self) -> dict[str, float]:
        """The numbers of `NAMES`, those of `saeworks audit` on the same tokens; NaN where they are
        undefined.

        Σ⟨u, u'⟩ = tr(S_ee − (V + W)ᵀS_xe + VᵀS_xxW) + n⟨m_V, m_W⟩ with m_W = (ē' − ē) − (x̄' − x̄)W,
        S and the primed means of the test fold, V and W with their means of the fit and of the
        second fold.
        """
        self._known.finish(f"site {self._site}")
        if not self._known.factors:
            return dict.fromkeys(NAMES, math.nan)
        maps = [factor.fit(self._crosses[fold]) for fold, factor in self._known.factors.items()]
        first, again = maps[0], maps[-1]  # of two documents there is one
        test, test_x = self._crosses[folds.TEST], self._known.grams[folds.TEST]
        e_D, x_D = test.mean_V - first.y_mean_V, test_x.mean_D - first.x_mean_D
        spread, moment_DD = float(test.variance_V.sum()), test.centred_DV(test_x)
        u = spread - float(((first.weight_DV + again.weight_DV) * moment_DD).sum())
        u += float((first.weight_DV * (test_x.scatter_DD @ again.weight_DV)).sum())
        left_D, again_D = (
            test.mean_V - map_.y_mean_V - (test_x.mean_D - map_.x_mean_D) @ map_.weight_DV
            for map_ in (first, again)
        )
        u += test.n * float(left_D @ again_D)
        u = max(u, 0.0)  # of an affine SAE it is a rounding error
        e = spread + test.n * float(test.mean_V.square().sum())
        centred = spread + test.n * float(e_D @ (test.mean_V - again.y_mean_V))
        variance = float(test_x.scatter_DD.trace()) + test.n * float(x_D.square().sum())
        return {
            FVU_NONLINEAR: u / variance if variance > 0 else math.nan,
            NONLINEAR_SHARE: u / e if e > 0 else math.nan,
            R2_ERROR: 1 - u / centred if centred > CONSTANT * variance else math.nan,
        }
