"""Control: what of u a nonlinear extractor finds, by its capacity."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saeforge.eval.audit.fits import Fit, Parts, Rows, square
from saeforge.eval.audit.least_squares import Factor
from saeforge.eval.audit.measurement import Measurement, Place, r_squared
from saeforge.eval.bootstrap import Statistic
from saeforge.eval.result import Metric

WIDTHS = (32, 128, 512)
STEPS, BATCH, RATE = 500, 256, 2e-3


class MlpProbe(Measurement):
    """x → u by one hidden layer of 32, 128 and 512 units."""

    name = "mlp"
    title = "MLP probe"
    about = (
        "A GELU network with one hidden layer, trained on some tokens of the fit fold to predict u "
        "from x (u is a function of x, so enough capacity and tokens predict all of it). The best "
        "width is chosen on the second fold; measured on the test documents."
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "r2_u_best": Metric("R² of u (best)", "1 − Σ‖u − û‖²/Σ‖u‖² of the width chosen."),
        **{
            f"r2_u_{width}": Metric(f"R² of u ({width})", f"{width} hidden units.")
            for width in WIDTHS
        },
    }

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place)
        self.tokens = tokens
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._networks: dict[int, nn.Sequential] = {}
        self._scales = (1.0, 1.0)
        self._second = torch.zeros(len(WIDTHS), dtype=torch.float64, device=place.device)
        self._best = WIDTHS[0]

    def fit(self, rows: Rows) -> None:
        room = self.tokens - sum(len(x_ND) for x_ND, _ in self._kept)
        if room > 0:
            x_ND, x_hat_ND = rows.x_ND[:room], rows.x_hat_ND[:room]
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
            for width in WIDTHS:
                self._networks[width] = train(x_ND / rms[0], u_ND / rms[1], width)

    def _residuals(self, parts: Parts) -> dict[int, Tensor]:
        x_ND = (parts.rows.x_ND - parts.fit.linear.x_mean_D).float() / self._scales[0]
        return {
            width: square(parts.u_ND - self._scales[1] * network(x_ND).double())
            for width, network in self._networks.items()
        }

    def second(self, parts: Parts) -> None:
        self._second += torch.stack([v.sum() for v in self._residuals(parts).values()])

    def seconded(self, factor: Factor) -> None:
        self._best = WIDTHS[int(self._second.argmin())]

    def test(self, parts: Parts) -> dict[str, Tensor]:
        return {f"u_{width}": left_N for width, left_N in self._residuals(parts).items()}

    def statistics(self) -> dict[str, Statistic]:
        return {"r2_u_best": _r2(self._best)} | {f"r2_u_{width}": _r2(width) for width in WIDTHS}

    def series(self) -> dict[str, Any]:
        return {"widths": list(WIDTHS), "best": self._best, "steps": STEPS, "tokens": self.tokens}


def _r2(width: int) -> Statistic:
    return lambda s: r_squared(s, f"u_{width}", "u", "variance")


def train(x_ND: Tensor, y_ND: Tensor, width: int) -> nn.Sequential:
    """A network fitted by Adam with a cosine schedule; the output starts at zero."""
    d = x_ND.shape[1]
    out = nn.Linear(width, y_ND.shape[1])
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    network = nn.Sequential(nn.Linear(d, width), nn.GELU(), out).to(x_ND.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x_ND), (min(BATCH, len(x_ND)),)).to(x_ND.device)
        loss = (network(x_ND[rows]) - y_ND[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False)
