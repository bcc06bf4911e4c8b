"""Logistic probes: on few units, whose zeros are not written out, and on the whole activation.

Both minimise Σ log(1 + exp(−y·(⟨w, x⟩ + b))) + ½‖w‖², y = ±1, with features scaled to unit size: it
is scikit-learn's LogisticRegression with C = 1.

Shapes: N tokens, n tokens on which a unit is active, k units, D model width, C concepts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from saeworks.measure.concepts.choosing import Units
from saeworks.measure.concepts.judging import Scores

_STEPS, _ENOUGH = 25, 1e-6
"""Newton steps at most; change of the loss, per token, at which they end."""
_SHOWN = 4000
"""Tokens without the concept, on which a unit is active, that a sparse probe is fitted on."""
_CLASS = 2000
"""Tokens with the concept, and without, that a dense probe is fitted on."""


@dataclass(frozen=True)
class SparseProbe:
    """A logistic probe on the activations of some units.

    Attributes:
        units: k of them.
        weight_k: of their activations.
        bias: the score of a token on which none is active.
    """

    units: Int[np.ndarray, " k"]
    weight_k: Float[np.ndarray, " k"]
    bias: float

    @classmethod
    def fit(cls, active: "ActiveUnits", y_N: Bool[np.ndarray, " N"]) -> "SparseProbe":
        """Fit it on all of N tokens. Of tokens on which a unit is active and the concept does not
        stand, every so manieth is taken where there are very many, with a weight to match; tokens
        on which none is active are two rows, with their numbers. One unit alone needs no fit, since
        any weight ranks the tokens alike: it is the sign of the mean difference."""
        token_n, z_nk = active.token_n, active.a_nk
        tokens = len(y_N)
        if len(active.units) == 1:
            mean = z_nk[y_N[token_n], 0].sum() / max(1, y_N.sum())
            rest = z_nk[~y_N[token_n], 0].sum() / max(1, tokens - y_N.sum())
            return cls(active.units, np.array([1.0 if mean >= rest else -1.0]), 0.0)
        scale_k = np.sqrt(np.maximum(np.square(z_nk).sum(0) / tokens, 1e-24))
        y_n = y_N[token_n]
        negative = np.flatnonzero(~y_n)
        step = max(1, len(negative) // _SHOWN)
        taken = np.sort(np.append(np.flatnonzero(y_n), negative[::step]))
        weight = np.where(y_n[taken], 1.0, len(negative) / max(1, len(negative[::step])))
        rest = np.array([y_N.sum() - y_n.sum(), (~y_N).sum() - len(negative)], float)
        k = len(active.units)
        z = np.concatenate([z_nk[taken] / scale_k, np.zeros((2, k))])
        z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
        sign = np.where(np.append(y_n[taken], [True, False]), 1.0, -1.0)
        w = _newton(z, sign, np.append(weight, rest), np.append(np.ones(k), 0))
        return cls(active.units, w[:k] / scale_k, float(w[k]))

    def scores(self, active: "ActiveUnits") -> Scores:
        """The probe's logits of tokens on which the same units' activations are given."""
        return Scores(active.token_n, active.a_nk @ self.weight_k + self.bias, self.bias)


@dataclass(frozen=True)
class ActiveUnits:
    """What some units do on the tokens on which one of them is active.

    Attributes:
        units: k of them.
        token_n: the tokens.
        a_nk: the activations.
    """

    units: Int[np.ndarray, " k"]
    token_n: Int[np.ndarray, " n"]
    a_nk: Float[np.ndarray, "n k"]

    @classmethod
    def of(cls, units: Units, chosen: Int[np.ndarray, " k"]) -> "ActiveUnits":
        """Of chosen units among many."""
        token, a, unit = units.all_of(chosen)
        place_N = np.zeros(units.a_NM.shape[0], np.int64)
        place_N[token] = 1
        token_n = np.flatnonzero(place_N)
        place_N[token_n] = np.arange(len(token_n))
        place_M = np.zeros(units.a_NM.shape[1], np.int64)
        place_M[chosen] = np.arange(len(chosen))
        a_nk = np.zeros((len(token_n), len(chosen)))
        a_nk[place_N[token], place_M[unit]] = a
        return cls(chosen, token_n, a_nk)

    def some(self, at: Int[np.ndarray, " j"]) -> "ActiveUnits":
        """Of some of these units, by their places."""
        a_nk = self.a_nk[:, at]
        any_n = a_nk.any(axis=1)
        return ActiveUnits(self.units[at], self.token_n[any_n], a_nk[any_n])


def _newton(z: np.ndarray, sign: np.ndarray, weight: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """The minimum of Σ weight · log(1 + exp(−sign·⟨w, z⟩)) + ½ Σ ridge·w², by Newton's method with
    halved steps."""
    w = np.zeros(z.shape[1])

    def loss(w: np.ndarray) -> float:
        return float(weight @ np.logaddexp(0, -sign * (z @ w)) + (ridge * w * w).sum() / 2)

    now = loss(w)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(np.clip(sign * (z @ w), -500, 500)))
        gradient = -z.T @ (weight * sign * p) + ridge * w
        hessian = (z * (weight * p * (1 - p))[:, None]).T @ z
        hessian[np.diag_indices_from(hessian)] += ridge + 1e-9
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (then := loss(w - size * step)) > now and size > 1e-4:
            size /= 2
        if then > now:
            break
        w, before, now = w - size * step, now, then
        if before - now < _ENOUGH * weight.sum():
            break
    return w


@dataclass(frozen=True)
class DenseProbes:
    """A logistic probe on the whole activation for each concept: logit = ⟨w, x⟩ + b.

    Attributes:
        w_CD, b_C: on raw activations.
    """

    w_CD: Float[np.ndarray, "C D"]
    b_C: Float[np.ndarray, " C"]

    @classmethod
    def fit(cls, x_ND: Float[np.ndarray, "N D"], stands: csr_matrix, seed: int) -> "DenseProbes":
        """Fit one for each column of `stands`, on up to `_CLASS` tokens with the concept and as
        many without, drawn with `seed`. Features are (x − x̄)/rms, one rms for all of them."""
        mean_D = x_ND.mean(0, dtype=np.float64)
        centred_ND = (x_ND - mean_D).astype(np.float32)
        rms = float(np.sqrt(np.square(centred_ND, dtype=np.float64).mean())) or 1.0
        centred_ND /= np.float32(rms)
        covariance_DD = (centred_ND.T @ centred_ND).astype(np.float64) / len(x_ND)
        size_D, axes_DD = np.linalg.eigh(covariance_DD)
        size_D = np.maximum(size_D, 0) + 1e-3 * max(size_D.mean(), 1e-12)
        whiten_DD = axes_DD / np.sqrt(size_D)
        z_ND = centred_ND @ whiten_DD.astype(np.float32)
        columns = stands.tocsc()
        w_CD = np.zeros((columns.shape[1], x_ND.shape[1]))
        b_C = np.zeros(columns.shape[1])
        for concept in range(columns.shape[1]):
            y_N = np.zeros(len(x_ND), bool)
            y_N[columns.indices[columns.indptr[concept] : columns.indptr[concept + 1]]] = True
            at = _drawn(y_N, np.random.default_rng([seed, concept]))
            v_D, b_C[concept] = _minimum(z_ND[at], np.where(y_N[at], 1, -1), 1 / size_D)
            w_CD[concept] = whiten_DD @ v_D / rms
        return cls(w_CD, b_C - w_CD @ mean_D)

    def logits(self, x_ND: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N C"]:
        """Of tokens."""
        logits_NC: np.ndarray = x_ND @ self.w_CD.T.astype(np.float32) + self.b_C
        return logits_NC


def _drawn(y_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    parts = [np.flatnonzero(of) for of in (y_N, ~y_N)]
    return np.sort(np.concatenate([rng.permutation(part)[:_CLASS] for part in parts]))


def _minimum(z: np.ndarray, sign: np.ndarray, ridge_D: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of whitened features, in which few steps are enough, and bias; `ridge_D` makes the
    penalty that of the features before."""

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        w_D, margin = v[:-1], sign * (z @ v[:-1].astype(np.float32) + v[-1])
        p = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
        gradient = np.append(p.astype(np.float32) @ z + ridge_D * w_D, p.sum())
        value = np.logaddexp(0, -margin).sum() + (ridge_D * w_D * w_D).sum() / 2
        return float(value), gradient.astype(np.float64)

    start = np.zeros(z.shape[1] + 1)
    v = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return v[:-1], float(v[-1])
