"""i. Adjacent sites: what the site before knows of this one's error."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from saeforge.eval.audit.fits import Parts, square
from saeforge.eval.audit.least_squares import Affine, Factor, varies
from saeforge.eval.audit.measurement import Measurement, Place, r_squared
from saeforge.eval.audit.moments import Cross, Gram
from saeforge.eval.bootstrap import Statistic
from saeforge.eval.result import Metric

SOURCES = {"x": "x", "x_hat": "x̂", "l": "ℓ", "u": "u"}
TARGETS = {"e": "e", "l": "ℓ", "u": "u"}


class AdjacentSites(Measurement):
    """OLS of e, ℓ and u of this site on x, x̂, ℓ and u of the site before it."""

    name = "adjacent"
    title = "Adjacent sites"
    about = (
        "OLS of this site's e, ℓ or u on x, x̂, ℓ or u of the site before it in the suite, at "
        "the same tokens; fitted on the second fold, measured on the test documents. The first "
        "site has none. (x̂ of the same site is left out: Cov(u, x̂) = −Var(u) by construction.)"
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        f"r2_{target}_from_{source}": Metric(
            f"{TARGETS[target]} from {SOURCES[source]}",
            f"R² of {TARGETS[target]} from {SOURCES[source]} of the site before.",
        )
        for target in TARGETS
        for source in SOURCES
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._grams: dict[str, Gram] = {}
        self._crosses: dict[tuple[str, str], Cross] = {}
        self._maps: dict[tuple[str, str], Affine] = {}

    def second(self, parts: Parts) -> None:
        before = parts.rows.before
        if before is None:
            return
        for source, v_ND in _sources(before).items():
            width = v_ND.shape[1]
            gram = self._grams.setdefault(source, Gram(width, self.place.device))
            shifted_ND = gram.add(v_ND)
            for target, y_ND in _targets(parts).items():
                cross = Cross(width, self.place.d, self.place.device)
                self._crosses.setdefault((target, source), cross).add(shifted_ND, y_ND)

    def seconded(self, factor: Factor) -> None:
        for source, gram in self._grams.items():
            if not bool(varies(gram).any()):
                continue  # a dead SAE before: x̂ is constant and u is 0
            own = Factor.of(gram, "adjacent site")
            for target in TARGETS:
                self._maps[target, source] = own.fit(self._crosses[target, source])
        self._grams, self._crosses = {}, {}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        before = parts.rows.before
        if before is None:
            return {}
        sources, targets = _sources(before), _targets(parts)
        found = {}
        for (target, source), map_ in self._maps.items():
            found[f"{target}_{source}"] = square(targets[target] - map_(sources[source]))
            found[f"{target}_total"] = square(targets[target] - map_.y_mean_V)
        return found

    def statistics(self) -> dict[str, Statistic]:
        return {f"r2_{target}_from_{source}": _r2(target, source) for target, source in self._maps}


def _r2(target: str, source: str) -> Statistic:
    return lambda s: r_squared(s, f"{target}_{source}", f"{target}_total", "variance")


def _sources(before: Parts) -> dict[str, Tensor]:
    rows = before.rows
    return {"x": rows.x_ND, "x_hat": rows.x_hat_ND, "l": before.l_ND, "u": before.u_ND}


def _targets(parts: Parts) -> dict[str, Tensor]:
    return {"e": parts.e_ND, "l": parts.l_ND, "u": parts.u_ND}
