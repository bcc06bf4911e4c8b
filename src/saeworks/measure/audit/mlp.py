"""Control: what of u a small network finds, by its capacity."""

from typing import ClassVar

from torch import nn

from saeworks.measure.audit.extractor import Extractor, figures, metrics, silenced

WIDTHS = (32, 128, 512)


class MlpProbe(Extractor):
    """x → u by one hidden layer of 32, 128 and 512 units."""

    name = "mlp"
    title = "MLP probe"
    what = "a small MLP"
    about = (
        "A GELU network with one hidden layer, trained on some tokens of the fit fold to predict u "
        "from x (u is a function of x, so enough capacity and tokens predict all of it). The best "
        "width is chosen on the second fold; measured on the test documents."
    )
    metrics: ClassVar = metrics({width: f"{width} hidden units" for width in WIDTHS})
    figures = figures("mlp", "an MLP of x", "hidden units", WIDTHS)

    @property
    def widths(self) -> tuple[int, ...]:
        return WIDTHS

    def network(self, width: int) -> nn.Module:
        d = self.place.d
        return nn.Sequential(nn.Linear(d, width), nn.GELU(), silenced(nn.Linear(width, d)))
