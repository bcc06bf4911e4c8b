"""What is fitted of an SAE on the fit fold, and the parts of its error on the other folds."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.measure.audit.codes import CodeFit, CodeMoments
from saeworks.measure.audit.least_squares import Affine, Factor, varies
from saeworks.measure.audit.moments import Cross, Gram


@dataclass(frozen=True)
class Tokens:
    """Where a chunk's rows come from.

    Attributes:
        document_N: row of the per-document sums.
        token_N: token ids; None where rows have none.
        position_N: place in the context; None where rows have none.
        loss_N: nats the language model loses on the next token; NaN where that is not counted.
    """

    document_N: Int[Tensor, " N"]
    token_N: Int[Tensor, " N"] | None = None
    position_N: Int[Tensor, " N"] | None = None
    loss_N: Float[Tensor, " N"] | None = None

    def part(self, rows: slice) -> "Tokens":
        """Some of the rows."""
        return Tokens(
            self.document_N[rows],
            None if self.token_N is None else self.token_N[rows],
            None if self.position_N is None else self.position_N[rows],
            None if self.loss_N is None else self.loss_N[rows],
        )


@dataclass(frozen=True)
class Rows:
    """A chunk of activations and what an SAE makes of them, float64.

    Attributes:
        x_ND: x.
        x_hat_ND: x̂.
        shifted_ND: x less the shift of the fold's Gram, for `Cross.add`.
        sae: whose code it is; None where only arrays are known.
        before: the same tokens at the site before, where that is followed.
    """

    tokens: Tokens
    x_ND: Float[Tensor, "N D"]
    x_hat_ND: Float[Tensor, "N D"]
    shifted_ND: Float[Tensor, "N D"]
    sae: SAE | None = None
    code: SparseCode | None = None
    before: "Before | None" = None

    def first(self, count: int) -> "Rows":
        """The first rows, without the site before."""
        rows, code = slice(0, count), self.code
        if code is not None and code.offsets is None:
            code = SparseCode(code.indices[rows], code.values[rows], code.width, (count,))
        elif code is not None and code.offsets is not None:
            pairs, offsets = slice(0, int(code.offsets[count])), code.offsets[: count + 1]
            code = SparseCode(
                code.indices[pairs], code.values[pairs], code.width, (count,), offsets
            )
        x_ND, x_hat_ND, shifted_ND = (
            v_ND[rows] for v_ND in (self.x_ND, self.x_hat_ND, self.shifted_ND)
        )
        return Rows(self.tokens.part(rows), x_ND, x_hat_ND, shifted_ND, self.sae, code)


class SaeMoments:
    """What the fit fold leaves of an SAE: moments of x̂ and of x with x̂, and of some codes."""

    def __init__(self, d: int, device: torch.device, codes: int = 0) -> None:
        self.x_hat = Gram(d, device)
        self.cross = Cross(d, d, device)
        self.codes = CodeMoments(codes)

    def add(self, rows: Rows) -> None:
        """Count rows in."""
        self.x_hat.add(rows.x_hat_ND)
        self.cross.add(rows.shifted_ND, rows.x_hat_ND)
        if rows.code is not None and rows.sae is not None:
            self.codes.add(rows.x_ND, rows.code, rows.sae)


@dataclass(frozen=True)
class Fit:
    """The linear maps of an SAE, fitted on the fit fold.

    Attributes:
        factor: of x.
        linear: ℓ = OLS[e | x].
        again: the same, fitted on the second fold; None until that is over.
        alpha: α* of min Σ‖x − αx̂ − c‖²; None where x̂ is constant.
        affine: OLS[x | x̂], the affine recalibration; None where x̂ is constant.
        scalar, diagonal_D: of OLS of e on a·x + c and on diag·x + c.
        codes: what is fitted to the codes; None where they are not known, or not asked for.
    """

    factor: Factor
    linear: Affine
    alpha: float | None
    affine: Affine | None
    x_hat_mean_D: Float[Tensor, " D"]
    x_hat_covariance_DD: Float[Tensor, "D D"]
    scalar: float
    diagonal_D: Float[Tensor, " D"]
    codes: CodeFit | None = None
    again: Affine | None = None

    @classmethod
    def of(cls, factor: Factor, moments: SaeMoments) -> "Fit":
        """Everything follows from the moments in closed form."""
        gram, x_hat = factor.gram, moments.x_hat
        xx_DD, x_hat_DD = gram.scatter_DD, moments.cross.centred_DV(gram)
        xe_DD = xx_DD - x_hat_DD
        e_mean_D = gram.mean_D - x_hat.mean_D
        variance, constant = float(x_hat.scatter_DD.trace()), not bool(varies(x_hat).any())
        spread_D = xx_DD.diagonal()
        varies_D = spread_D > 1e-14 * spread_D.max()
        affine = None
        if not constant:
            weights_DD = Factor.of(x_hat, "reconstruction").solve(x_hat_DD.T)
            affine = Affine(weights_DD, x_hat.mean_D, gram.mean_D)
        return cls(
            factor=factor,
            linear=Affine(factor.solve(xe_DD), gram.mean_D, e_mean_D),
            alpha=None if constant else float(x_hat_DD.trace()) / variance,
            affine=affine,
            x_hat_mean_D=x_hat.mean_D,
            x_hat_covariance_DD=x_hat.scatter_DD / x_hat.n,
            scalar=float(xe_DD.trace() / xx_DD.trace()),
            diagonal_D=torch.where(varies_D, xe_DD.diagonal() / spread_D.clamp_min(1e-300), 0.0),
            codes=moments.codes.solve(),
        )

    def parts(self, rows: Rows) -> "Parts":
        """e, ℓ and u of rows."""
        e_ND = rows.x_ND - rows.x_hat_ND
        l_ND = self.linear(rows.x_ND)
        u_ND = e_ND - l_ND
        again_ND = None if self.again is None else e_ND - self.again(rows.x_ND)
        return Parts(rows, self, e_ND, l_ND, u_ND, again_ND)


@dataclass(frozen=True)
class Parts:
    """Rows with their error e = ℓ + u.

    Attributes:
        again_ND: e − ℓ with the map of the second fold, u′; None until that is known.
    """

    rows: Rows
    fit: Fit
    e_ND: Float[Tensor, "N D"]
    l_ND: Float[Tensor, "N D"]
    u_ND: Float[Tensor, "N D"]
    again_ND: Float[Tensor, "N D"] | None = None

    def alone(self) -> "Before":
        """What is kept of these rows for the next site."""
        return Before(self.rows.x_ND, self.rows.x_hat_ND, self.l_ND, self.u_ND)

    @cached_property
    def common(self) -> dict[str, Float[Tensor, " N"]]:
        """What every measurement's sums share; the means are those of the fit fold, so that nothing
        is estimated on the tokens that are reported on.

        `u` is ⟨u, u′⟩ and no square: ‖u‖² also has the square of what the noise of a fit adds to
        ℓ, a share of about (rank + 1)/tokens that more tokens would not have. The noises of two
        fits on different documents are independent, so their product has none, however alike the
        tokens of a document are. `e_centred` likewise, with the means of both folds. `u_squared`
        and `again_squared` are ‖u‖² and ‖u′‖².
        """
        again = self.fit.again
        assert self.again_ND is not None and again is not None
        return {
            "n": torch.ones_like(self.e_ND[:, 0]),
            "variance": square(self.rows.x_ND - self.fit.linear.x_mean_D),
            "e": square(self.e_ND),
            "e_centred": dot(self.e_ND - self.fit.linear.y_mean_V, self.e_ND - again.y_mean_V),
            "u": dot(self.u_ND, self.again_ND),
            "u_squared": square(self.u_ND),
            "again_squared": square(self.again_ND),
        }


@dataclass(frozen=True)
class Before:
    """x, x̂, ℓ and u of the same tokens at the site before: no more of it, and no chain of sites."""

    x_ND: Float[Tensor, "N D"]
    x_hat_ND: Float[Tensor, "N D"]
    l_ND: Float[Tensor, "N D"]
    u_ND: Float[Tensor, "N D"]


def square(v_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """‖v‖² of each row."""
    return v_ND.square().sum(dim=1)


def dot(v_ND: Float[Tensor, "N D"], w_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """⟨v, w⟩ of each row."""
    return (v_ND * w_ND).sum(dim=1)
