"""h. Pursuit: how much of the error better inference with the same dictionary recovers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeforge.eval.audit.fits import Parts, Rows, square
from saeforge.eval.audit.inference import gradient_pursuit, matching_pursuit, refit
from saeforge.eval.audit.least_squares import Affine, Factor
from saeforge.eval.audit.measurement import Measurement, Place
from saeforge.eval.audit.moments import Cross, Gram
from saeforge.eval.audit.norm import fired
from saeforge.eval.bootstrap import Statistic, Sums
from saeforge.eval.result import Metric

METHODS = {
    "pursuit": "gradient pursuit with the token's own L0",
    "omp": "orthogonal matching pursuit with the token's own L0, coefficients of any sign",
    "refit": "least squares on the latents that the encoder chose, coefficients of any sign",
}


def _metrics() -> dict[str, Metric]:
    found = {
        "fvu_change": Metric(
            "FVU change", "(FVU of gradient pursuit − FVU)/FVU; negative: it recovers.", "", "lower"
        ),
        "fvu_nonlinear_change": Metric(
            "FVU_nl change", "(FVU_nl of gradient pursuit − FVU_nl)/FVU_nl."
        ),
        "encoder_error": Metric(
            "Encoder error",
            "FVU_nl − FVU_nl of gradient pursuit: the share of variance that wrong coefficients "
            "and choices of latents make nonlinear.",
        ),
    }
    for name, what in ({"encoder": "the SAE as it is"} | METHODS).items():
        found[f"fvu_{name}"] = Metric(f"FVU ({name})", f"Of {what}.")
        found[f"fvu_nonlinear_{name}"] = Metric(f"FVU_nl ({name})", f"Of {what}.")
    return found


class Pursuit(Measurement):
    """FVU and FVU_nl with the dictionary as it is, and codes found by pursuit."""

    name = "pursuit"
    title = "Pursuit"
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    about = (
        "Codes of the same L0 found from the dictionary alone, on some tokens of the second and "
        "the test fold; OLS on x for FVU_nl is fitted on those of the second fold, for the "
        "encoder too, so that all have the same cost of fitting."
    )

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self.tokens = tokens
        self._left = {"second": tokens, "test": tokens}
        self._gram = Gram(place.d, place.device)
        self._crosses = {
            name: Cross(place.d, place.d, place.device) for name in ("encoder", *METHODS)
        }
        self._maps: dict[str, Affine] = {}
        self._where = ""

    def _take(self, fold: str, parts: Parts) -> Rows | None:
        """The first rows, up to what is left."""
        rows, count = parts.rows, min(self._left[fold], len(parts.e_ND))
        self._left[fold] -= count
        return rows.first(count) if count and rows.code is not None else None

    def _errors(self, rows: Rows) -> dict[str, Tensor]:
        """Method → e."""
        assert rows.sae is not None and rows.code is not None
        atoms_MD = torch.nn.functional.normalize(rows.sae.w_dec.detach().float(), dim=1)
        bias_D = rows.sae.b_dec.detach().double()
        signal_ND = (rows.x_ND - bias_D).float()
        l0_N = fired(rows).long()
        found = {"encoder": rows.x_ND - rows.x_hat_ND}
        made = {
            "pursuit": gradient_pursuit(signal_ND, atoms_MD, l0_N),
            "omp": matching_pursuit(signal_ND, atoms_MD, l0_N),
            "refit": refit(signal_ND, atoms_MD, *_support(rows)),
        }
        return found | {key: rows.x_ND - bias_D - v.double() for key, v in made.items()}

    def second(self, parts: Parts) -> None:
        rows = self._take("second", parts)
        if rows is not None:
            shifted_ND = self._gram.add(rows.x_ND)
            for name, e_ND in self._errors(rows).items():
                self._crosses[name].add(shifted_ND, e_ND)

    def seconded(self, factor: Factor) -> None:
        if self._gram.n > self.place.d + 1:
            own = Factor.of(self._gram, "pursuit")
            self._maps = {name: own.fit(cross) for name, cross in self._crosses.items()}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        none_N = torch.zeros_like(parts.e_ND[:, 0])
        keys = [f"{name}_{part}" for name in self._crosses for part in ("e", "u")]
        found = {key: none_N.clone() for key in ("taken", *keys)}
        rows = self._take("test", parts) if self._maps else None
        if rows is None:
            return found
        count = len(rows.x_ND)
        found["taken"][:count] = square(rows.x_ND - parts.fit.linear.x_mean_D)
        for name, e_ND in self._errors(rows).items():
            found[f"{name}_e"][:count] = square(e_ND)
            found[f"{name}_u"][:count] = square(e_ND - self._maps[name](rows.x_ND))
        return found

    def statistics(self) -> dict[str, Statistic]:
        if not self._maps:
            return {}
        found: dict[str, Statistic] = {
            "fvu_change": lambda s: s["pursuit_e"] / s["encoder_e"] - 1,
            "fvu_nonlinear_change": lambda s: s["pursuit_u"] / s["encoder_u"] - 1,
            "encoder_error": lambda s: (s["encoder_u"] - s["pursuit_u"]) / s["taken"],
        }
        for name in self._crosses:
            found[f"fvu_{name}"] = _share(f"{name}_e")
            found[f"fvu_nonlinear_{name}"] = _share(f"{name}_u")
        return found

    def series(self) -> dict[str, Any]:
        return {"tokens_per_fold": self.tokens}


def _share(name: str) -> Statistic:
    def fvu(s: Sums) -> NDArray[np.float64]:
        found: NDArray[np.float64] = s[name] / s["taken"]
        return found

    return fvu


def _support(rows: Rows) -> tuple[Tensor, Tensor]:
    """The latents of each row [N, K], and which of them fire."""
    code = rows.code
    assert code is not None
    if code.offsets is None:
        return code.indices, code.values > 0
    counts_N = code.offsets.diff()
    width = max(1, int(counts_N.max()))
    slot_NK = torch.arange(width, device=counts_N.device)
    there_NK = slot_NK < counts_N[:, None]
    at_NK = (code.offsets[:-1, None] + slot_NK).clamp_max(max(len(code.indices) - 1, 0))
    return code.indices[at_NK], there_NK & (code.values[at_NK] > 0)
