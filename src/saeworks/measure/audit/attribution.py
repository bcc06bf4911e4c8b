"""Control: where the error may come from, as far as the data of one SAE can tell."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from saeworks.measure.audit.measurement import Measurement
from saeworks.measure.audit.pursuit import CHOICE_CHANCE, Pursuit
from saeworks.measure.audit.words import Sections, percent
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.figure import ABSENT, ENCODER, GREY, LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.headlines import FVU
from saeworks.results.metric import Metric, Value


class Attribution(Measurement):
    """FVU = scale + coefficients + choice + rest, each what one more correction takes away."""

    name = "attribution"
    title = "Attribution of the error"
    chapter = "sources"
    about = (
        "On the pursuit's test tokens, in shares of Σ‖x − x̄‖², each correction after the ones "
        "before it: a fixed factor for each latent and a bias (scale), least-squares coefficients "
        "on the latents that the encoder chose (coefficients), orthogonal matching pursuit over "
        "all latents with the same L0 (choice). The rest holds missing features, the dense part, "
        "and what wrong directions and choices these do not mend: an upper bound of none of them "
        "alone. Least squares also mends what is no error of coefficients: by chance K/(D − K) of "
        "what it leaves (given as chance), and the part of missing features that lies along the "
        "chosen latents. The best few of many latents mend far more of anything than that: what "
        "the pursuit mends of noise in the place of the refit's error is choice's chance. Latents "
        "that are read with noise look too large, so part of that noise is scale. Directions is "
        "what a decoder fitted to the SAE's own codes takes away beyond a factor for each latent; "
        "it overlaps with the others but for scale, and with missing features that fire together "
        "with learned ones."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        FVU: Metric("FVU", "Of the tokens used here."),
        "scale": Metric("Scale", "FVU − FVU with each latent rescaled and the bias refitted."),
        "coefficients": Metric(
            "Coefficients", "FVU with each latent rescaled − FVU (refit on the encoder's choice)."
        ),
        "coefficients_chance": Metric(
            "Coefficients (chance)", "Σ K/(D − K)·‖e‖² of the refit: what least squares would mend "
            "of isotropic noise."
        ),
        "choice": Metric("Choice", "FVU (refit) − FVU (orthogonal matching pursuit)."),
        CHOICE_CHANCE: Metric(
            "Choice (chance)", "The same where the refit's error is replaced, token by token, by "
            "Gaussian noise of its norm, orthogonal like it to the latents that are on."
        ),
        "rest": Metric("Rest", "FVU (orthogonal matching pursuit)."),
        "rest_linear": Metric("Rest, linear", "Its FVU − FVU_nl."),
        "rest_nonlinear": Metric("Rest, nonlinear", "Its FVU_nl."),
        "directions": Metric(
            "Directions",
            "FVU with each latent rescaled − FVU with a decoder fitted to the codes; beside the "
            "others.",
        ),
    }  # fmt: skip
    figures = (
        Figure(
            "attribution",
            "stack",
            (
                # Coefficients first, so that the mark of their chance share is read from 0.
                Trace("coefficients", "coefficients", ink=ENCODER),
                Trace("scale", "scale", ink=ABSENT),
                Trace("choice", "choice", ink=LINEAR),
                Trace("rest", "rest", ink=GREY),
                Trace(
                    "chance share of coefficients",
                    "coefficients_chance",
                    ink=NONLINEAR,
                    shape=2,
                    mark="points",
                    size=8,
                ),
                Trace(
                    "chance share of choice",
                    CHOICE_CHANCE,
                    on=("coefficients", "scale"),
                    ink=NONLINEAR,
                    shape=3,
                    mark="points",
                    size=8,
                ),
            ),
            "FVU by what takes it away",
            wide=True,
        ),
    )
    reads = Pursuit.name

    def statistics(self) -> dict[str, Statistic]:
        """None where nothing was fitted to codes, or too few tokens were pursued."""
        return {
            FVU: _shares("encoder_e"),
            "scale": _shares("encoder_e", "per_latent_e"),
            "coefficients": _shares("per_latent_e", "refit_e"),
            "coefficients_chance": _shares("chance"),
            "choice": _shares("refit_e", "omp_e"),
            CHOICE_CHANCE: _shares(CHOICE_CHANCE),
            "rest": _shares("omp_e"),
            "rest_linear": _shares("omp_e", "omp_u"),
            "rest_nonlinear": _shares("omp_u"),
            "directions": _shares("per_latent_e", "decoder_e"),
        }

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        return cls._by_chance(sections) + cls._rest(sections)

    @classmethod
    def _by_chance(cls, sections: Sections) -> tuple[str, ...]:
        """Many atoms and few dimensions fit noise, too: only more than that is the encoder's."""
        mended, chance = 0.0, 0.0
        for part in ("coefficients", "choice"):
            share = cls.value(sections, part).value
            null = cls.value(sections, f"{part}_chance").value
            if share is None or null is None:
                return ()
            mended, chance = mended + share, chance + null
        if mended <= 0:
            return ()
        much = "at least as much" if chance >= mended else f"{chance / mended:.0%} as much"
        return (
            "Refitted coefficients and latents chosen anew with the same L0 would mend "
            f"{much} of noise in the error's place, which is no fault of the encoder.",
        )

    @classmethod
    def _rest(cls, sections: Sections) -> tuple[str, ...]:
        """Only more than least squares mends of noise is called an error of coefficients."""
        rest, whole = cls.value(sections, "rest"), cls.value(sections, FVU)
        if rest.value is None or not whole.value:
            return ()
        low, high = (None if end is None else end / whole.value for end in (rest.low, rest.high))
        share = Value(rest.value / whole.value, low, high)
        return (
            "Rescaled latents, refitted coefficients and latents chosen anew with the same L0 "
            f"together leave {percent(share)} of FVU: missing features, a dense part and wrong "
            "directions are in that, each of unknown size.",
        )


def _shares(name: str, less: str | None = None) -> Statistic:
    """The sum `name`, less the sum `less`, as a share of Σ‖x − x̄‖² over the tokens used."""

    def share(s: Sums) -> NDArray[np.float64]:
        if name not in s or (less is not None and less not in s):
            return np.full_like(s["taken"], np.nan)
        ratio: NDArray[np.float64] = (s[name] - (s[less] if less else 0.0)) / s["taken"]
        return ratio

    return share
