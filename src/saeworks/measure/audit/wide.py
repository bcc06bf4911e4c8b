"""Control: what of u a wide SAE without penalty finds, by its width."""

from typing import Any, ClassVar

import torch
from torch import nn

from saeworks.measure.audit.extractor import Extractor, figures, metrics, silenced
from saeworks.measure.audit.fits import Parts
from saeworks.measure.audit.measurement import Place
from saeworks.results.headlines import L0

EXPANSIONS = (4, 16, 64)


class WideSae(Extractor):
    """x → u by ReLU dictionaries of 4, 16 and 64 times D latents, with no penalty on their code."""

    name = "wide"
    title = "Wide SAE without penalty"
    what = "a wide SAE without penalty"
    about = (
        "û = W_decᵀ ReLU(W_enc x + b_enc) + b_dec with as many latents as an SAE or more, trained "
        "on some tokens of the fit fold to predict u from x, without any penalty on the code: "
        "what a dictionary finds where sparsity does not hold it back. The encoder starts from "
        "random unit directions, the decoder at zero. The best width is chosen on the second "
        "fold; measured on the test documents. `l0` in the series is the mean number of active "
        "latents."
    )
    metrics: ClassVar = metrics({times: f"{times}·D latents" for times in EXPANSIONS})
    figures = figures("wide", "a wide SAE without penalty", "latents, times D", EXPANSIONS)

    def __init__(self, place: Place, tokens: int) -> None:
        super().__init__(place, tokens)
        self._l0: list[float] = []

    @property
    def widths(self) -> tuple[int, ...]:
        return EXPANSIONS

    def network(self, width: int) -> nn.Module:
        d, latents = self.place.d, width * self.place.d
        encoder = nn.Linear(d, latents)
        with torch.no_grad():
            encoder.weight.copy_(nn.functional.normalize(torch.randn(latents, d), dim=1))
        nn.init.zeros_(encoder.bias)
        return nn.Sequential(encoder, nn.ReLU(), silenced(nn.Linear(latents, d)))

    def seen(self, parts: Parts) -> None:
        if not self._l0:  # of the first chunk
            x_ND = self.inputs(parts)
            self._l0 = [
                float((network[0](x_ND) > 0).sum(dim=1).double().mean())
                for network in self._networks.values()
                if isinstance(network, nn.Sequential)
            ]

    def told(self) -> dict[str, Any]:
        return {L0: self._l0}
