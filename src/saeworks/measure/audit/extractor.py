"""Control: what of u a nonlinear map of x finds, by its capacity; the frame of such probes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saeworks.measure.audit.fits import (
    Fit,
    Parts,
    Rows,
    square,
)
from saeworks.measure.audit.least_squares import Factor
from saeworks.measure.audit.measurement import Measurement, Place, r_squared
from saeworks.measure.audit.words import Sections, shown, side
from saeworks.measure.bootstrap import Statistic
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Metric

STEPS, BATCH, RATE = 500, 256, 2e-3
FULL_RATE = 512
"""Up to so many hidden units the learning rate is `RATE`; beyond, it falls as 1/their number."""
BEST = "r2_u_best"


class Extractor(Measurement):
    """x → u by networks of several widths, trained on some tokens of the fit fold.

    x is centred, and x and u are brought to a mean square of 1. The best width is chosen on the
    second fold; R² is measured on the test documents. Subclasses name widths and networks.
    """

    chapter = "controls"
    what: ClassVar[str]
    """What the network is called in a sentence."""

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self.tokens = tokens
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._used, self._documents = 0, set[int]()
        self._networks: dict[int, nn.Module] = {}
        self._scales = (1.0, 1.0)
        self._second = torch.zeros(len(self.widths), dtype=torch.float64, device=place.device)
        self._best = self.widths[0]

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """The widths, ascending, as the metrics name them."""

    @abstractmethod
    def network(self, width: int) -> nn.Module:
        """A network whose output starts at zero."""

    def fit(self, rows: Rows) -> None:
        room = self.tokens - self._used
        if room > 0:
            x_ND, x_hat_ND = rows.x_ND[:room], rows.x_hat_ND[:room]
            self._used += len(x_ND)
            self._documents |= set(rows.tokens.document_N[:room].tolist())
            self._kept.append((x_ND.float(), (x_ND - x_hat_ND).float()))

    def fitted(self, fit: Fit) -> None:
        x_ND, e_ND = (torch.cat(kept) for kept in zip(*self._kept, strict=True))
        self._kept = []
        u_ND = (e_ND - fit.linear(x_ND.double())).float()
        x_ND = x_ND - fit.linear.x_mean_D.float()
        rms = tuple(float(v.square().mean().sqrt()) or 1.0 for v in (x_ND, u_ND))
        self._scales = (rms[0], rms[1])
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.place.seed)
            for width in self.widths:
                network = self.network(width).to(x_ND.device)
                self._networks[width] = train(network, x_ND / rms[0], u_ND / rms[1])

    def inputs(self, parts: Parts) -> Tensor:
        """The inputs of the networks for these rows."""
        return (parts.rows.x_ND - parts.fit.linear.x_mean_D).float() / self._scales[0]

    def _residuals(self, parts: Parts) -> dict[int, Tensor]:
        x_ND = self.inputs(parts)
        return {
            width: square(parts.u_ND - self._scales[1] * network(x_ND).double())
            for width, network in self._networks.items()
        }

    def second(self, parts: Parts) -> None:
        self._second += torch.stack([v.sum() for v in self._residuals(parts).values()])

    def seconded(self, factor: Factor) -> None:
        self._best = self.widths[int(self._second.argmin())]

    def seen(self, parts: Parts) -> None:
        """Measure more of the networks on the rows that they are tested on."""

    def told(self) -> dict[str, Any]:
        """What `seen` measured, for the series."""
        return {}

    def test(self, parts: Parts) -> dict[str, Tensor]:
        self.seen(parts)
        return {f"u_{width}": left_N for width, left_N in self._residuals(parts).items()}

    def statistics(self) -> dict[str, Statistic]:
        widths = {f"r2_u_{width}": _r2(width) for width in self.widths}
        return {BEST: _r2(self._best)} | widths

    def series(self) -> dict[str, Any]:
        return {
            "widths": list(self.widths),
            "best": self._best,
            "steps": STEPS,
            "tokens": self._used,
            "documents": len(self._documents),
            **self.told(),
        }


def figures(id_: str, what: str, unit: str, widths: Sequence[int]) -> tuple[Figure, ...]:
    """R² of u by the width of a network."""
    return (
        Figure(
            id_,
            "line",
            tuple(Trace(f"{width} {unit}", f"r2_u_{width}", at=width) for width in widths),
            f"R² of u, by {what}",
            "sites",
            x=Axis(unit, log=True),
        ),
    )


def metrics(widths: Mapping[int, str]) -> dict[str, Metric]:
    """The metrics of an extractor, from what each of its widths means."""
    return {
        BEST: Metric("R² of u (best)", "1 − Σ‖u − û‖²/Σ‖u‖² of the width chosen."),
        **{
            f"r2_u_{width}": Metric(f"R² of u ({width})", f"{what}.")
            for width, what in widths.items()
        },
    }


def _r2(width: int) -> Statistic:
    return lambda s: r_squared(s, f"u_{width}", "u_squared", "variance")


def train(network: nn.Module, x_ND: Tensor, y_ND: Tensor) -> nn.Module:
    """The network, fitted by Adam with a cosine schedule."""
    hidden = len(next(network.parameters()))
    rate = RATE * min(1.0, FULL_RATE / hidden)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x_ND), (min(BATCH, len(x_ND)),)).to(x_ND.device)
        loss = (network(x_ND[rows]) - y_ND[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False)


def silenced(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sentences(sections: Sections, kinds: Sequence[type[Extractor]]) -> tuple[str, ...]:
    """One sentence on what all extractors find; what they miss may still exist."""
    known = {
        kind.what: r2 for kind in kinds if (r2 := kind.value(sections, BEST)).value is not None
    }
    if not known:
        return ()
    best = max(known.values(), key=lambda r2: r2.value or 0.0)
    words = {
        1: "Part of u is predicted from x, by",
        0: "u is not clearly predicted from x by",
        -1: "u is not predicted from x by",
        None: "What of u is predicted from x is known as a point estimate only, by",
    }
    each = " and ".join(f"{what} (R² {shown(r2)})" for what, r2 in known.items())
    more = "a larger one might do better" if len(known) == 1 else "larger ones might do better"
    return (f"{words[side(best, 0.0)]} {each}; {more}.",)
