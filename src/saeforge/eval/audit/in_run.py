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

from saeforge.errors import UserError
from saeforge.eval.audit import folds
from saeforge.eval.audit.least_squares import Factor, varies
from saeforge.eval.audit.measurement import CONSTANT
from saeforge.eval.audit.moments import Cross, Gram
from saeforge.eval.held_out import HeldOut

NAMES = ("fvu_nonlinear", "nonlinear_share", "r2_error")


@dataclass
class _Site:
    """What is known of x at a site: its Gram by fold, and the factor of the fit fold's."""

    grams: dict[int, Gram]
    factor: Factor | None = None
    whole: bool = field(default=False)

    def shifted(self, fold: int, x_ND: Tensor) -> Tensor:
        """x less the shift of the fold's Gram, which counts the rows in the first time."""
        gram = self.grams[fold]
        return x_ND - gram.shift_D if self.whole else gram.add(x_ND)

    def finish(self, where: str) -> None:
        """All tokens were seen; of constant activations there is no factor."""
        if not self.whole and bool(varies(self.grams[folds.FIT]).any()):
            self.factor = Factor.of(self.grams[folds.FIT], where)
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
            site: _Site({fold: Gram(d, device) for fold in (folds.FIT, folds.TEST)})
            for site, d in widths.items()
        }

    def tally(self, site: str) -> "Tally":
        """For one evaluation of one SAE."""
        return Tally(self, site, self._sites[site])


class Tally:
    """Moments of x with e in two folds."""

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
        """The numbers of `NAMES`, those of `saeforge audit` on the same tokens; NaN where they are
        undefined.

        Σ‖u‖² = tr(S_ee − 2WᵀS_xe + WᵀS_xxW) + n‖(ē' − ē) − (x̄' − x̄)W‖², S and the primed means of
        the test fold, W and the others of the fit fold.
        """
        self._known.finish(f"site {self._site}")
        if self._known.factor is None:
            return dict.fromkeys(NAMES, math.nan)
        fit, test = self._crosses[folds.FIT], self._crosses[folds.TEST]
        fit_x, test_x = self._known.grams[folds.FIT], self._known.grams[folds.TEST]
        weight_DD = self._known.factor.fit(fit).weight_DV
        e_D, x_D = test.mean_V - fit.mean_V, test_x.mean_D - fit_x.mean_D
        spread = float(test.variance_V.sum())
        explained_DD = 2 * test.centred_DV(test_x) - test_x.scatter_DD @ weight_DD
        u = spread - float((weight_DD * explained_DD).sum())
        u += test.n * float((e_D - x_D @ weight_DD).square().sum())
        u = max(u, 0.0)  # of an affine SAE it is a rounding error
        e = spread + test.n * float(test.mean_V.square().sum())
        centred = spread + test.n * float(e_D.square().sum())
        variance = float(test_x.scatter_DD.trace()) + test.n * float(x_D.square().sum())
        return {
            "fvu_nonlinear": u / variance if variance > 0 else math.nan,
            "nonlinear_share": u / e if e > 0 else math.nan,
            "r2_error": 1 - u / centred if centred > CONSTANT * variance else math.nan,
        }
