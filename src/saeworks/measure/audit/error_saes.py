"""f. SAEs trained on e, ℓ and u: how much of each a dictionary of its own can code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.audit.fits import Fit, Parts, square
from saeworks.measure.audit.least_squares import Affine
from saeworks.measure.audit.linear_error import read_map
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.norm import fired
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.measure.banks import row_chunks
from saeworks.measure.bootstrap import Statistic, Sums
from saeworks.results.figure import GREY, LINEAR, NONLINEAR, Figure, Trace
from saeworks.results.metric import Metric
from saeworks.suite import Suite, load_suite

NAMES = {"e": "e", "l": "ℓ", "u": "u"}


@dataclass(frozen=True)
class OnError:
    """An SAE on a part of the error of another one.

    Attributes:
        linear: ℓ(x) as in its training; None for e.
        facts: for the result.
    """

    sae: SAE
    linear: Affine | None
    facts: dict[str, Any]

    def target(self, name: str, x_ND: Tensor, e_ND: Tensor) -> Tensor:
        """The part of the error that the SAE was trained to code, in float64."""
        if self.linear is None:
            return e_ND
        l_ND: Tensor = self.linear(x_ND)
        return l_ND if name == "l" else e_ND - l_ND


def match(paths: Sequence[Path], audited: Sequence[Suite]) -> dict[str, dict[str, Suite]]:
    """Audited suite (its path) → part of the error → the suite on it.

    Raises:
        UserError: if one is on activations, on the error of a suite that is not audited, or two are
            on the same.
    """
    known = {suite.digest(): str(suite.path) for suite in audited}
    matched: dict[str, dict[str, Suite]] = {}
    for path in paths:
        suite = load_suite(path)
        if suite.error is None:
            raise UserError(
                f"--error-saes {path}: its SAEs are on activations, not on an error; train some "
                "with `saeworks train --preset error --set error.suite=…`"
            )
        base = known.get(suite.error["digest"])
        if base is None:
            raise UserError(
                f"--error-saes {path}: it codes the error of {suite.error['suite']}, which is not "
                "among the suites that are audited, or has changed since; name that one"
            )
        part = suite.error["component"]
        earlier = matched.setdefault(base, {}).setdefault(part, suite)
        if earlier is not suite:
            raise UserError(
                f"--error-saes {path}: {earlier.path} is on the same ({part} of {base}); name one"
            )
    return matched


def on_error_at(site: str, suites: Mapping[str, Suite], place: Place) -> dict[str, OnError]:
    """Part of the error → the SAE on it at a site, where there is one.

    Raises:
        UserError: if an SAE does not fit the site, or its map is missing.
    """
    on_error = {}
    for name, suite in suites.items():
        if site not in suite.sites:
            continue
        sae, error = suite.at(site).to(place.device), suite.error or {}
        tensors = {k: t.to(place.device) for k, t in suite.error_maps().get(site, {}).items()}
        shapes = {"weight": (place.d, place.d), "x_mean": (place.d,), "mean": (place.d,)}
        fits = {k: tuple(t.shape) for k, t in tensors.items()} == (shapes if name != "e" else {})
        if name not in NAMES or sae.d != place.d or not fits:
            raise UserError(f"{suite.path}: its SAE of {site} does not fit there; train it again")
        facts = {"suite": suite.variant, "arch": suite.arch, "width": sae.width}
        facts |= {"tokens": suite.meta["tokens"]}
        facts |= {"fit_tokens": error.get("fit", {}).get(site, {}).get("tokens")}
        on_error[name] = OnError(sae, read_map(tensors) if tensors else None, facts)
    return on_error


def _metrics() -> dict[str, Metric]:
    metrics = {}
    for key, name in NAMES.items():
        metrics[f"fvu_{key}"] = Metric(
            f"FVU on {name}", f"Σ‖t − t̂‖²/Σ‖t − t̄‖² of the SAE trained on t = {name}.", "", "lower"
        )
    metrics["u_minus_l"] = Metric("FVU on u − on ℓ", "Above 0: ℓ is coded better than u.")
    for key, name in NAMES.items():
        metrics[f"l0_{key}"] = Metric(f"L0 on {name}", f"Of the SAE trained on {name}.", "latents")
    return metrics


class ErrorSaes(Measurement):
    """FVU of SAEs that were trained on e, ℓ and u, each on what it was trained on."""

    name = "error_saes"
    title = "SAEs on the error"
    chapter = "effects"
    about = (
        "SAEs trained on the error of this one, on its linear part or on the rest, each on its own "
        "target on the test documents. ℓ(x) is the map of their training, fitted on training text, "
        "so the targets are held out, too. What a dictionary codes well need not be features."
    )
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    figures = (
        Figure(
            "error-saes",
            "bar",
            (
                Trace("on e", "fvu_e", ink=GREY),
                Trace("on ℓ", "fvu_l", ink=LINEAR),
                Trace("on u", "fvu_u", ink=NONLINEAR),
            ),
            "FVU of SAEs trained on the error",
        ),
    )

    def __init__(self, place: Place, saes: Mapping[str, OnError]) -> None:
        super().__init__(place)
        self.saes = dict(saes)
        self._means: dict[str, Tensor] = {}

    def fitted(self, fit: Fit) -> None:
        x_1D, e_1D = fit.linear.x_mean_D[None], fit.linear.y_mean_V[None]
        self._means = {key: on_error.target(key, x_1D, e_1D) for key, on_error in self.saes.items()}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        values = {}
        for key, on_error in self.saes.items():
            target_ND = on_error.target(key, parts.rows.x_ND, parts.e_ND)
            made_ND, l0_N = torch.empty_like(target_ND), torch.empty_like(target_ND[:, 0])
            for rows in row_chunks(len(target_ND), on_error.sae.width):
                code = on_error.sae.encode_sparse(target_ND[rows].float())
                made_ND[rows] = on_error.sae.decode(code).double()
                l0_N[rows] = fired(replace(parts.rows, x_ND=target_ND[rows], code=code))
            values[f"{key}_left"] = square(target_ND - made_ND)
            values[f"{key}_total"] = square(target_ND - self._means[key])
            values[f"{key}_l0"] = l0_N
        return values

    def statistics(self) -> dict[str, Statistic]:
        statistics: dict[str, Statistic] = {}
        for key in self.saes:
            statistics |= {f"fvu_{key}": _ratio(f"{key}_left", f"{key}_total")}
            statistics |= {f"l0_{key}": _ratio(f"{key}_l0", "n")}
        if {"l", "u"} <= self.saes.keys():
            statistics["u_minus_l"] = lambda s: (
                s["u_left"] / s["u_total"] - s["l_left"] / s["l_total"]
            )
        return statistics

    def series(self) -> dict[str, Any]:
        return {key: on_error.facts for key, on_error in self.saes.items()}

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        """SAEs on ℓ and u; nothing of what they code is called a feature."""
        linear, nonlinear = cls.value(sections, "fvu_l"), cls.value(sections, "fvu_u")
        if linear.value is None or nonlinear.value is None:
            return ()
        words = {
            1: "An SAE trained on ℓ reconstructs it better than one trained on u does u",
            -1: "An SAE trained on ℓ reconstructs it worse than one trained on u does u",
            0: "SAEs trained on ℓ and on u do not clearly differ in how well they reconstruct",
            None: "How SAEs trained on ℓ and on u differ is known as a point estimate only",
        }
        start = words[side(cls.value(sections, "u_minus_l"), 0.0)]
        return (
            f"{start}: FVU {shown(linear)} and {shown(nonlinear)}, each of its own target; one SAE "
            "on each, and the seed of its training is in no interval.",
        )


def _ratio(above: str, below: str) -> Statistic:
    def value(s: Sums) -> Any:
        return s[above] / s[below]

    return value
