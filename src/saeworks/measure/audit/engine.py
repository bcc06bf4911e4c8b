"""The streaming engine: three phases over the tokens of one site, for all its SAEs at once.

Phase 1 (fit documents) accumulates float64 moments of x, of each x̂, and of x with x̂; one factor of
x's Gram then gives every SAE's linear maps. Phase 2 (second documents) fits ℓ again, and what needs
e, ℓ and u, with one factor too. Phase 3 (test documents) measures, summing scalars by document, so
that intervals come from the documents with every map held fixed. Each token is encoded once, and
memory is O(D²) per SAE plus a row of scalars per document.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.audit import folds
from saeworks.measure.audit.fits import (
    Before,
    Fit,
    Parts,
    Rows,
    SaeMoments,
    Tokens,
)
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.moments import Cross, Gram
from saeworks.measure.audit.widths import TrainedWith, Widths
from saeworks.measure.progress import Tick
from saeworks.results.metric import Value

_NONE: Mapping[str, Before | None] = {}
_UNKNOWN: Mapping[str, TrainedWith] = {}
Make = Callable[[Place], Sequence[Measurement]]
"""The measurements of one SAE at one site."""


@dataclass(frozen=True)
class SaeOutput:
    """What an SAE makes of a chunk; code and SAE where they are known."""

    x_hat_ND: Float[Tensor, "N D"]
    sae: SAE | None = None
    code: SparseCode | None = None


class DocumentSums:
    """Sums by document [R] of named per-token numbers: constant in tokens."""

    def __init__(self, documents: int, device: torch.device) -> None:
        self._names: list[str] = []
        self._rows_RS = torch.zeros(documents, 0, dtype=torch.float64, device=device)

    def add(self, document_N: Tensor, values: Mapping[str, Tensor]) -> None:
        """Count tokens in; the names are the same every time."""
        if not self._names:
            self._names = list(values)
            self._rows_RS = self._rows_RS.new_zeros(len(self._rows_RS), len(values))
        stacked_NS = torch.stack([values[name].double() for name in self._names], dim=1)
        self._rows_RS.index_add_(0, document_N, stacked_NS)

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Name → [R]."""
        return dict(zip(self._names, self._rows_RS.cpu().numpy().T, strict=True))


class SaeAudit:
    """One SAE at one site through the phases."""

    def __init__(self, place: Place, measurements: Sequence[Measurement]) -> None:
        self.measurements = {measurement.name: measurement for measurement in measurements}
        self.fit: Fit | None = None
        self._moments: SaeMoments | None = SaeMoments(place.d, place.device, place.codes)
        self._again: Cross | None = Cross(place.d, place.d, place.device)
        self._sums = {
            measurement.name: DocumentSums(place.documents, place.device)
            for measurement in measurements
        }

    def add(self, phase: int, rows: Rows) -> Parts | None:
        """Count a chunk in; returns the parts of its errors, once there are any."""
        if phase == folds.FIT:
            assert self._moments is not None
            self._moments.add(rows)
            for measurement in self.measurements.values():
                measurement.fit(rows)
            return None
        assert self.fit is not None
        parts = self.fit.parts(rows)
        if phase == folds.SECOND:
            assert self._again is not None
            self._again.add(rows.shifted_ND, parts.e_ND)
            for measurement in self.measurements.values():
                measurement.second(parts)
            return parts
        common = parts.common
        for measurement in self.measurements.values():
            self._sums[measurement.name].add(
                rows.tokens.document_N, common | measurement.test(parts)
            )
        return parts

    def finish(self, phase: int, factor: Factor) -> None:
        """A phase is over; `factor` is that of its x."""
        if phase == folds.FIT:
            assert self._moments is not None
            self.fit, self._moments = Fit.of(factor, self._moments), None
            for measurement in self.measurements.values():
                measurement.fitted(self.fit)
        elif phase == folds.SECOND:
            assert self.fit is not None and self._again is not None
            self.fit, self._again = replace(self.fit, again=factor.fit(self._again)), None
            for measurement in self.measurements.values():
                measurement.seconded(factor)

    def also(self, one: Measurement, documents: int) -> None:
        """Measure one thing more; before the first rows."""
        self.measurements[one.name] = one
        self._sums[one.name] = DocumentSums(documents, one.place.device)

    def values(self, resamples: int, seed: int) -> dict[str, dict[str, Value]]:
        """Measurement → metric → value with interval, in the order of the metrics."""
        by_name = {}
        for name, measurement in self.measurements.items():
            values = bootstrap.estimate(
                self._sums[measurement.reads or name].columns(),
                measurement.statistics(),
                resamples,
                seed,
            )
            values |= measurement.fixed() | measurement.drawn(resamples, seed)
            by_name[name] = {key: values[key] for key in measurement.metrics if key in values}
        return by_name

    def sums(self, name: str) -> dict[str, NDArray[np.float64]]:
        """A measurement's sums by document; none where it was not made."""
        sums = self._sums.get(name)
        return {} if sums is None else sums.columns()

    def series(self) -> dict[str, dict[str, Any]]:
        """Measurement → lists for charts, where there are any."""
        by_name = {name: measurement.series() for name, measurement in self.measurements.items()}
        return {name: series for name, series in by_name.items() if series}


class SiteAudit:
    """All SAEs of one site: they share x's Gram and its factor, one per fold.

    Args:
        trained: how each SAE was trained, where that is known.
    """

    def __init__(
        self,
        where: str,
        place: Place,
        names: Sequence[str],
        make: Make,
        trained: Mapping[str, TrainedWith] = _UNKNOWN,
    ) -> None:
        self.where, self.place = where, place
        self.saes = {name: SaeAudit(place, make(place)) for name in names}
        self.widths = Widths(place, trained)
        self._gram = Gram(place.d, place.device)

    def add(
        self,
        phase: int,
        x_ND: Float[Tensor, "N D"],
        tokens: Tokens,
        reconstruct: Mapping[str, Callable[[Tensor], SaeOutput]],
        before: Mapping[str, Before | None] = _NONE,
    ) -> dict[str, Parts | None]:
        """Count a chunk in; returns the parts of each SAE's errors, once there are any.

        Args:
            reconstruct: what each SAE makes of x.
            before: of each SAE, what is kept of the same tokens at the site before.

        Raises:
            UserError: if a reconstruction is NaN or infinite.
        """
        wide_ND = x_ND.double()
        shifted_ND = wide_ND if phase == folds.TEST else self._gram.add(wide_ND)
        parts: dict[str, Parts | None] = {}
        for name, sae in self.saes.items():
            made = reconstruct[name](x_ND)
            x_hat_ND = made.x_hat_ND.double()
            if not torch.isfinite(x_hat_ND).all():
                raise UserError(
                    f"{self.where}: NaN or infinity in the reconstruction of {name}; train it "
                    "again, or leave that site out"
                )
            rows = Rows(
                tokens, wide_ND, x_hat_ND, shifted_ND, made.sae, made.code, before.get(name)
            )
            parts[name] = sae.add(phase, rows)
            if phase == folds.FIT:
                self.widths.fit(name, rows)
        self.widths.add(phase, tokens.document_N, parts)
        return parts

    def finish(self, phase: int, tick: Tick = lambda done: None) -> None:
        """A phase is over; `tick` is called after each SAE.

        Raises:
            UserError: if x is constant.
        """
        if phase == folds.TEST:
            return
        factor = Factor.of(self._gram, self.where)
        for sae in self.saes.values():
            sae.finish(phase, factor)
            tick(1)
        if phase == folds.FIT:
            self.widths.fitted()
        self._gram = Gram(self.place.d, self.place.device)
