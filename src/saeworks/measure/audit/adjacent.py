"""i. Adjacent sites: what the site before knows of this one's error."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from saeworks.measure.audit.fits import Before, Parts, square
from saeworks.measure.audit.least_squares import Affine, Factor, varies
from saeworks.measure.audit.measurement import Measurement, Place, r_squared
from saeworks.measure.audit.moments import Cross, Gram
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.measure.bootstrap import Statistic
from saeworks.results.figure import Figure, Trace
from saeworks.results.metric import Metric

SOURCES = {"x": "x", "x_hat": "x̂", "l": "ℓ", "u": "u"}
TARGETS = {"e": "e", "l": "ℓ", "u": "u"}
"""e = ℓ + u, so its maps are sums of theirs, and only theirs are kept."""


class AdjacentSites(Measurement):
    """OLS of e, ℓ and u of this site on x, x̂, ℓ and u of the site before it."""

    name = "adjacent"
    title = "Adjacent sites"
    chapter = "effects"
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

    figures = tuple(
        Figure(
            f"adjacent-{target}",
            "bar",
            tuple(
                Trace(f"from {what}", f"r2_{target}_from_{source}", ink=ink)
                for ink, (source, what) in enumerate(SOURCES.items())
            ),
            f"R² of {name}, from the site before",
        )
        for target, name in TARGETS.items()
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._grams: dict[str, Gram] = {}
        self._crosses: dict[tuple[str, str], Cross] = {}
        self._maps: dict[tuple[str, str], Affine] = {}
        self._kept: dict[str, float] = {}

    def second(self, parts: Parts) -> None:
        before = parts.rows.before
        if before is None:
            return
        for source, v_ND in _sources(before).items():
            width = v_ND.shape[1]
            gram = self._grams.setdefault(source, Gram(width, self.place.device))
            shifted_ND = gram.add(v_ND)
            for target, y_ND in (("l", parts.l_ND), ("u", parts.u_ND)):
                if (target, source) not in self._crosses:
                    cross = Cross(width, self.place.d, self.place.device)
                    self._crosses[target, source] = cross
                self._crosses[target, source].add(shifted_ND, y_ND)

    def seconded(self, factor: Factor) -> None:
        for source in list(self._grams):
            gram = self._grams.pop(source)
            if not bool(varies(gram).any()):
                continue  # a dead SAE before: x̂ is constant and u is 0
            source_factor = Factor.of(gram, "adjacent site")
            self._kept[source] = 1.0 - (source_factor.rank + 1) / gram.n
            for target in ("l", "u"):
                self._maps[target, source] = source_factor.fit(self._crosses.pop((target, source)))
        self._crosses = {}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        before = parts.rows.before
        if before is None:
            return {}
        values = {}
        for source, v_ND in _sources(before).items():
            if ("l", source) not in self._maps:
                continue
            l_map, u_map = self._maps["l", source], self._maps["u", source]
            left_l_ND, left_u_ND = parts.l_ND - l_map(v_ND), parts.u_ND - u_map(v_ND)
            lefts = {"l": left_l_ND, "u": left_u_ND, "e": left_l_ND + left_u_ND}
            for target, left_ND in lefts.items():
                values[f"{target}_{source}"] = self._kept[source] * square(left_ND)
            if "e_total" not in values:  # the means are those of the targets, whatever the source
                values["l_total"] = square(parts.l_ND - l_map.y_mean_V)
                values["u_total"] = square(parts.u_ND - u_map.y_mean_V)
                values["e_total"] = square(parts.e_ND - (l_map.y_mean_V + u_map.y_mean_V))
        return values

    def statistics(self) -> dict[str, Statistic]:
        sources = [source for source in SOURCES if ("l", source) in self._maps]
        return {
            f"r2_{target}_from_{source}": _r2(target, source)
            for target in TARGETS
            for source in sources
        }

    @classmethod
    def sentences(cls, sections: Sections) -> tuple[str, ...]:
        """Whether u is linear in x̂ (as in the paper) or u (often better) of the site before."""
        known = {
            SOURCES[source]: r2
            for source in ("x_hat", "u")
            if (r2 := cls.value(sections, f"r2_u_from_{source}")).value is not None
        }
        if not known:
            return ()
        sides = [at for r2 in known.values() if (at := side(r2, 0.0)) is not None]
        words = {
            1: "Part of u is linear in what the site before has",
            0: "u is not clearly linear in what the site before has",
            -1: "u is not linear in what the site before has",
            None: "What of u is linear in what the site before has is known as a point estimate "
            "only",
        }
        each = ", ".join(f"from its {name} R² {shown(r2)}" for name, r2 in known.items())
        return (f"{words[max(sides, default=None)]}: {each}.",)


def _r2(target: str, source: str) -> Statistic:
    return lambda s: r_squared(s, f"{target}_{source}", f"{target}_total", "variance")


def _sources(before: Before) -> dict[str, Tensor]:
    return {"x": before.x_ND, "x_hat": before.x_hat_ND, "l": before.l_ND, "u": before.u_ND}
