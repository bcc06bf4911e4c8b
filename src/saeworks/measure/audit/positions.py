"""Control: error by position in the context."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeworks.measure.audit.fits import Parts
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.headlines import FVU, FVU_NONLINEAR
from saeworks.results.metric import Metric

BY_POSITION = {FVU: "FVU", FVU_NONLINEAR: "FVU_nl"}
"""The series over the bins, with their titles."""


class ErrorByPosition(Measurement):
    """FVU and FVU_nl of the tokens at positions 0, 1, 2–3, 4–7, 8–15, …"""

    name = "positions"
    title = "Error by position"
    chapter = "controls"
    about = (
        "Σ‖e‖², Σ⟨u, u′⟩ and Σ‖x − x̄‖² of the test tokens by position in the context, in bins that "
        "double (0, 1, 2–3, 4–7, 8–15, …): an error that only the first positions have is not the "
        "model's."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {}
    figures = (
        *(
            Figure(
                f"positions-{at}",
                "line",
                (Trace(x="position", y=key),),
                f"{name} by position",
                "sites",
                x=Axis("position, counted from 1", each="position {}", log=True),
            )
            for at, (key, name) in enumerate(BY_POSITION.items())
        ),
        Figure(
            "positions-table",
            "table",
            (
                Trace(x="first_position", y=FVU),
                Trace("nonlinear", x="first_position", y=FVU_NONLINEAR),
            ),
            "FVU by position in the context, by the first of each bin",
            x=Axis(each="from {}"),
        ),
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._bins_P4 = torch.zeros(32, 4, dtype=torch.float64, device=place.device)

    def test(self, parts: Parts) -> dict[str, Tensor]:
        position_N = parts.rows.tokens.position_N
        if position_N is not None:
            bin_N = torch.frexp(position_N.double()).exponent.long()  # p < 2^bin ≤ 2p; 0 of 0
            common = parts.common
            sums_N4 = torch.stack([common[key] for key in ("n", "e", "u", "variance")], dim=1)
            self._bins_P4.index_add_(0, bin_N, sums_N4)
        return {}

    def series(self) -> dict[str, Any]:
        n, e, u, variance = self._bins_P4.unbind(dim=1)
        seen = n.nonzero()[:, 0]
        first = [0 if at == 0 else 2 ** (int(at) - 1) for at in seen]
        return {
            "first_position": first,
            "position": [at + 1 for at in first],
            "tokens": n[seen].long().tolist(),
            FVU: (e / variance)[seen].tolist(),
            FVU_NONLINEAR: (u / variance)[seen].tolist(),
        }
