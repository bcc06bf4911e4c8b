"""h. Pursuit: how much of the error better inference with the same dictionary recovers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.measure.audit.codes import PRIORS, CodeFit, Decoder
from saeworks.measure.audit.fits import (
    Fit,
    Parts,
    Rows,
    Tokens,
    square,
)
from saeworks.measure.audit.inference import gradient_pursuit, matching_pursuit, refit
from saeworks.measure.audit.least_squares import Affine, Factor
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.moments import Cross, Gram
from saeworks.measure.audit.norm import fired
from saeworks.measure.audit.split import FvuSplit
from saeworks.measure.audit.words import Sections, minus, percent, side
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.figure import LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.headlines import FVU, FVU_NONLINEAR
from saeworks.results.metric import Metric

STARVED = 1.25
"""Where FVU_nl on the tokens of pursuit is so many times that of the test fold, those tokens are
too few to fit on."""
CHANGE, NONLINEAR_CHANGE = "fvu_change", "fvu_nonlinear_change"
NONLINEAR_ENCODER = "fvu_nonlinear_encoder"
CHOICE_CHANCE = "choice_chance"
METHODS = {
    "pursuit": "gradient pursuit with the token's own L0",
    "omp": "orthogonal matching pursuit with the token's own L0, coefficients of any sign",
    "refit": "least squares on the latents that the encoder chose, coefficients of any sign",
}
FITTED = {
    "per_latent": "the SAE with each latent rescaled by a fixed factor",
    "decoder": "the SAE's codes with a decoder fitted to them",
}
"""Known only where something was fitted to the codes of the fit fold."""


SHORT = {
    "encoder": "as it is",
    "per_latent": "latents rescaled",
    "decoder": "decoder refitted",
    "refit": "coefficients refitted",
    "omp": "OMP",
    "pursuit": "gradient pursuit",
}
"""How codes are found, in a legend."""


def _metrics() -> dict[str, Metric]:
    metrics = {
        CHANGE: Metric(
            "FVU change", "(FVU of gradient pursuit − FVU)/FVU; negative: it recovers.", "", "lower"
        ),
        NONLINEAR_CHANGE: Metric("FVU_nl change", "(FVU_nl of gradient pursuit − FVU_nl)/FVU_nl."),
        "encoder_error": Metric(
            "Encoder error",
            "FVU_nl − FVU_nl of gradient pursuit: the share of variance that wrong coefficients "
            "and choices of latents make nonlinear.",
        ),
    }
    for name, what in ({"encoder": "the SAE as it is"} | METHODS | FITTED).items():
        metrics[f"fvu_{name}"] = Metric(f"FVU ({name})", f"Of {what}.")
        metrics[f"fvu_nonlinear_{name}"] = Metric(f"FVU_nl ({name})", f"Of {what}.")
    return metrics


class Pursuit(Measurement):
    """FVU and FVU_nl with the dictionary as it is, and codes found by pursuit."""

    name = "pursuit"
    title = "Pursuit"
    chapter = "effects"
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    figures = (
        Figure(
            "pursuit-change",
            "bar",
            (
                Trace("FVU", CHANGE, ink=LINEAR),
                Trace("FVU_nl", NONLINEAR_CHANGE, ink=NONLINEAR),
            ),
            "Relative change by gradient pursuit",
        ),
        *(
            Figure(
                f"pursuit-{at}",
                "bar",
                tuple(
                    Trace(what, f"{kind}_{method}", ink=ink)
                    for ink, (method, what) in enumerate(SHORT.items())
                ),
                f"{name}, by how codes are found",
            )
            for at, (kind, name) in enumerate(((FVU, "FVU"), (FVU_NONLINEAR, "FVU_nl")))
        ),
    )
    about = (
        "Codes of the same L0 found from the dictionary alone, on the first tokens of the second "
        "and of the test fold (the series say how many, of how many documents), less those on "
        "which D latents or more fire (`left_out`): any x is a sum of so many. OLS on x for FVU_nl "
        "is fitted on those of the second fold, for the encoder too, so that all have the same "
        "cost of fitting. Beside them the SAE's own codes with what is fitted to codes of the fit "
        "fold: one factor for each latent, or a decoder, held to the SAE's own directions by a "
        "prior chosen on the second fold."
    )

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self._left = {"second": tokens, "test": tokens}
        self._used = {"second": 0, "test": 0}
        self._left_out = {"second": 0, "test": 0}
        self._documents: dict[str, set[int]] = {"second": set(), "test": set()}
        self._gram = Gram(place.d, place.device)
        self._codes: CodeFit | None = None
        self._crosses: dict[str, Cross] = {}
        self._maps: dict[str, Affine] = {}
        self._left_over_P = np.zeros(len(PRIORS))
        self._random = np.random.default_rng(place.seed)

    def fitted(self, fit: Fit) -> None:
        self._codes = fit.codes

    def _take(self, fold: str, parts: Parts) -> tuple[Rows, Tensor] | None:
        """Rows with L0 < D among those that the fold's budget still allows, and their indices; None
        where there are none."""
        rows, count = parts.rows, min(self._left[fold], len(parts.e_ND))
        self._left[fold] -= count
        if count == 0 or rows.code is None:
            return None
        rows = rows.first(count)
        sparse_N = fired(rows) < self.place.d
        at_n = sparse_N.nonzero()[:, 0]
        self._used[fold] += len(at_n)
        self._left_out[fold] += count - len(at_n)
        self._documents[fold] |= set(rows.tokens.document_N[at_n].tolist())
        return (rows if len(at_n) == count else _only(rows, sparse_N), at_n) if len(at_n) else None

    def _errors(self, rows: Rows) -> dict[str, Tensor]:
        """Method → e, with every decoder until one is chosen, then with that one."""
        assert rows.sae is not None and rows.code is not None
        atoms_MD, bias_D = _atoms(rows.sae), rows.sae.b_dec.detach().double()
        signal_ND = (rows.x_ND - bias_D).float()
        l0_N = fired(rows).long()
        errors = {"encoder": rows.x_ND - rows.x_hat_ND}
        made = {
            "pursuit": gradient_pursuit(signal_ND, atoms_MD, l0_N),
            "omp": matching_pursuit(signal_ND, atoms_MD, l0_N),
            "refit": refit(signal_ND, atoms_MD, *_support(rows)),
        }
        errors |= {key: rows.x_ND - bias_D - v.double() for key, v in made.items()}
        if self._codes is not None:
            maps = {"per_latent": self._codes.rescaled} | self._decoders(self._codes)
            errors |= {key: rows.x_ND - map_(rows.code) for key, map_ in maps.items()}
        return errors

    def _mended_of_noise(self, rows: Rows, e_ND: Tensor) -> Tensor:
        """‖e‖² less what matching pursuit leaves [N] where e, the refit's error, is replaced by
        noise of its norm, isotropic but for the directions of the latents on: e has none of them.
        """
        assert rows.sae is not None
        atoms_MD, bias_D = _atoms(rows.sae), rows.sae.b_dec.detach().double()
        drawn_ND = torch.from_numpy(self._random.standard_normal(e_ND.shape)).float()
        noise_ND = drawn_ND.to(e_ND.device)
        noise_ND = noise_ND - refit(noise_ND, atoms_MD, *_support(rows))
        norm_N1 = (square(e_ND) / square(noise_ND).double().clamp_min(1e-30)).sqrt()[:, None]
        signal_ND = (rows.x_ND - bias_D - e_ND + norm_N1 * noise_ND).float()
        left_ND = signal_ND - matching_pursuit(signal_ND, atoms_MD, fired(rows).long())
        return square(e_ND) - square(left_ND.double())

    def _decoders(self, codes: CodeFit) -> dict[str, Decoder]:
        if self._maps:
            return {"decoder": codes.decoders[self._chosen]}
        return {f"decoder_{at}": decoder for at, decoder in enumerate(codes.decoders)}

    @property
    def _chosen(self) -> int:
        return int(self._left_over_P.argmin())

    def second(self, parts: Parts) -> None:
        taken = self._take("second", parts)
        if taken is not None:
            rows, d = taken[0], self.place.d
            shifted_ND = self._gram.add(rows.x_ND)
            for name, e_ND in self._errors(rows).items():
                if name not in self._crosses:
                    self._crosses[name] = Cross(d, d, self.place.device)
                self._crosses[name].add(shifted_ND, e_ND)
                if name.startswith("decoder_"):
                    self._left_over_P[int(name[-1])] += float(square(e_ND).sum())

    def seconded(self, factor: Factor) -> None:
        if self._gram.n > self.place.d + 1:
            pursued_factor = Factor.of(self._gram, "pursuit")
            chosen = {name: name for name in self._crosses if not name.startswith("decoder_")}
            if self._codes is not None:
                chosen["decoder"] = f"decoder_{self._chosen}"
            self._maps = {
                name: pursued_factor.fit(self._crosses[key]) for name, key in chosen.items()
            }
        self._crosses = {}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        none_N = torch.zeros_like(parts.e_ND[:, 0])
        keys = [f"{name}_{part}" for name in self._maps for part in ("e", "u")]
        values = {key: none_N.clone() for key in ("taken", "chance", CHOICE_CHANCE, *keys)}
        taken = self._take("test", parts)
        if taken is None or not self._maps:
            return values
        rows, at_n = taken
        values["taken"][at_n] = square(rows.x_ND - parts.fit.linear.x_mean_D)
        errors = self._errors(rows)
        for name, e_ND in errors.items():
            values[f"{name}_e"][at_n] = square(e_ND)
            values[f"{name}_u"][at_n] = square(e_ND - self._maps[name](rows.x_ND))
        on_n = fired(rows)
        values["chance"][at_n] = on_n / (self.place.d - on_n) * values["refit_e"][at_n]
        values[CHOICE_CHANCE][at_n] = self._mended_of_noise(rows, errors["refit"])
        return values

    def statistics(self) -> dict[str, Statistic]:
        if not self._maps:
            return {}
        statistics: dict[str, Statistic] = {
            CHANGE: lambda s: s["pursuit_e"] / s["encoder_e"] - 1,
            NONLINEAR_CHANGE: lambda s: s["pursuit_u"] / s["encoder_u"] - 1,
            "encoder_error": lambda s: (s["encoder_u"] - s["pursuit_u"]) / s["taken"],
        }
        for name in self._maps:
            statistics[f"fvu_{name}"] = _share(f"{name}_e")
            statistics[f"fvu_nonlinear_{name}"] = _share(f"{name}_u")
        return statistics

    def series(self) -> dict[str, Any]:
        prior = {} if self._codes is None else {"decoder_prior": PRIORS[self._chosen]}
        documents = {fold: len(seen) for fold, seen in self._documents.items()}
        counts = {"tokens": self._used, "documents": documents, "left_out": self._left_out}
        return counts | prior

    @classmethod
    def starved(cls, sections: Sections) -> bool:
        """Whether pursuit had too few tokens to fit OLS on them."""
        used = cls.value(sections, NONLINEAR_ENCODER).value
        whole = FvuSplit.value(sections, FVU_NONLINEAR).value
        return used is None or whole is None or used > STARVED * whole

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        total, nonlinear = cls.value(sections, CHANGE), cls.value(sections, NONLINEAR_CHANGE)
        if total.value is None:
            return ()
        start = "Better inference with the same dictionary and L0 (gradient pursuit)"
        part, end = f", FVU_nl by {percent(minus(nonlinear))}", ""
        if cls.starved(sections):
            part, end = "", "; its tokens are too few to split that into linear and nonlinear"
        words = {
            -1: f"lowers FVU by {percent(minus(total))}{part}{end}.",
            1: f"raises FVU by {percent(total)}: it is no better than the encoder here.",
            0: f"does not clearly change FVU ({percent(total)}).",
            None: "was measured on too few documents for an interval: whether it changes FVU "
            f"cannot be told ({percent(total)}).",
        }
        return (f"{start} {words[side(total, 0.0)]}",)


def _share(name: str) -> Statistic:
    def fvu(s: Sums) -> NDArray[np.float64]:
        ratio: NDArray[np.float64] = s[name] / s["taken"]
        return ratio

    return fvu


def _atoms(sae: SAE) -> Tensor:
    """The decoder's rows [M, D] at norm 1."""
    return torch.nn.functional.normalize(sae.w_dec.detach().float(), dim=1)


def _only(rows: Rows, keep_N: Tensor) -> Rows:
    """Some of the rows, with their code."""
    code, at_n = rows.code, keep_N.nonzero()[:, 0]
    assert code is not None
    if code.offsets is None:
        kept = SparseCode(code.indices[at_n], code.values[at_n], code.width, (len(at_n),))
    else:
        counts_N = code.offsets.diff()
        pairs, offsets = keep_N.repeat_interleave(counts_N), code.offsets.new_zeros(len(at_n) + 1)
        offsets[1:] = counts_N[at_n].cumsum(0)
        kept = SparseCode(
            code.indices[pairs], code.values[pairs], code.width, (len(at_n),), offsets
        )
    return Rows(
        Tokens(rows.tokens.document_N[at_n]),
        rows.x_ND[at_n],
        rows.x_hat_ND[at_n],
        rows.shifted_ND[at_n],
        rows.sae,
        kept,
    )


def _support(rows: Rows) -> tuple[Tensor, Tensor]:
    """The latents of each row [N, K], and which of them fire."""
    code = rows.code
    assert code is not None
    if code.offsets is None:
        return code.indices, code.values > 0
    counts_N = code.offsets.diff()
    if not len(code.indices):
        return torch.zeros_like(counts_N)[:, None], torch.zeros_like(counts_N)[:, None].bool()
    width = max(1, int(counts_N.max()))
    slot_NK = torch.arange(width, device=counts_N.device)
    filled_NK = slot_NK < counts_N[:, None]
    at_NK = (code.offsets[:-1, None] + slot_NK).clamp_max(len(code.indices) - 1)
    return code.indices[at_NK], filled_NK & (code.values[at_NK] > 0)
