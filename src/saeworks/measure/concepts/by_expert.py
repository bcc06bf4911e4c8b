"""In which experts of an SAE a concept is coded, and by latents how alike.

An expert codes a concept if, on the tokens that it encodes, the firing of one of its latents tells
those with the concept from those without at an F1 of `FOUND` or more, and at least `ABOVE` better
than saying so of every token. The latent is chosen on the fitting half, F1 is measured on the other
half. Asked are experts that encode at least `LEAST` tokens with the concept in each half.

Shapes: N tokens, C concepts, P experts, M latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix

from saeworks.measure.concepts.choosing import Units
from saeworks.measure.concepts.measuring import Asked, Half

FOUND, ABOVE, LEAST = 0.5, 0.1, 10


@dataclass(frozen=True)
class InExperts:
    """One concept in the experts of an SAE.

    Attributes:
        asked: experts that encode enough of its tokens.
        coded: expert → the latent that codes it there, and its F1.
        cosine: mean over pairs of these latents' decoder rows; None where there is no pair.
    """

    asked: int
    coded: Mapping[int, tuple[int, float]]
    cosine: float | None


def in_experts(
    units: Units,
    visits_NP: csr_matrix,
    unit_w_dec_MD: Float[np.ndarray, "M D"],
    asked: Asked,
) -> list[InExperts]:
    """Every concept in the experts, which have equal runs of the latents.

    Args:
        visits_NP: 0/1, which experts encode each token.
        unit_w_dec_MD: decoder rows of norm 1.
    """
    experts = visits_NP.shape[1]
    out = []
    for population in asked.populations:
        fit, test = (
            _f1(units.some(half.token_N), visits_NP[half.token_N], half)
            for half in (population.fit, population.test)
        )
        for f1_fit, stands_fit, (f1, chance, stands) in zip(
            fit.f1_CM, fit.stands_CP, test.rows(), strict=True
        ):
            enough = np.flatnonzero((stands_fit >= LEAST) & (stands >= LEAST))
            best_P = f1_fit.reshape(experts, -1).argmax(1) + np.arange(experts) * (
                len(f1_fit) // experts
            )
            coded = {
                int(expert): (int(best_P[expert]), float(f1[best_P[expert]]))
                for expert in enough
                if f1[best_P[expert]] >= max(FOUND, chance[expert] + ABOVE)
            }
            rows = unit_w_dec_MD[[latent for latent, _ in coded.values()]]
            pairs = [float(rows[a] @ rows[b]) for a, b in combinations(range(len(rows)), 2)]
            out.append(InExperts(len(enough), coded, float(np.mean(pairs)) if pairs else None))
    return out


@dataclass(frozen=True)
class _Counted:
    """F1 of every latent's firing within its expert, chance there, tokens with the concept."""

    f1_CM: Float[np.ndarray, "C M"]
    chance_CP: Float[np.ndarray, "C P"]
    stands_CP: Float[np.ndarray, "C P"]

    def rows(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By concept."""
        return list(zip(self.f1_CM, self.chance_CP, self.stands_CP, strict=True))


def _f1(units: Units, visits_NP: csr_matrix, half: Half) -> _Counted:
    fires_NM = csr_matrix(
        (np.ones_like(units.a_NM.data), units.a_NM.indices, units.a_NM.indptr), units.a_NM.shape
    )
    stands_CP = np.asarray((half.stands.T @ visits_NP).todense(), float)
    both_CM = np.asarray((half.stands.T.astype(np.float32) @ fires_NM).todense())
    fires_M = np.bincount(units.a_NM.indices, minlength=units.a_NM.shape[1])
    per_expert = units.a_NM.shape[1] // visits_NP.shape[1]
    of_latent_CM = np.repeat(stands_CP, per_expert, axis=1)
    f1_CM = 2 * both_CM / np.maximum(fires_M + of_latent_CM, 1)
    tokens_P = np.asarray(visits_NP.sum(0)).ravel()
    chance_CP = 2 * stands_CP / np.maximum(stands_CP + tokens_P, 1)
    return _Counted(f1_CM, chance_CP, stands_CP)
