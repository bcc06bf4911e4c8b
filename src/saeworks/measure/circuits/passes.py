"""Passes of the language model over a task's prompts with one site replaced, many at once.

Shapes: P pairs of prompts, T positions, D model width, V variants of a pass.
"""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from saeworks.lm.model import LanguageModel
from saeworks.lm.prefix import Pass, shared_prefix
from saeworks.measure import banks as limits
from saeworks.measure.circuits.prompts import Prompts


class Passes:
    """m of passes that differ only from one site on.

    Several variants go through the model as one batch, and what comes before the site is computed
    once for all batches of one size.

    Attributes:
        prompts: over which the passes go.
        clean_P: m of the untouched model on each.
    """

    def __init__(
        self, lm: LanguageModel, prompts: Prompts, site: str, clean_P: Float[Tensor, " P"]
    ) -> None:
        self._lm, self.prompts, self._site, self.clean_P = lm, prompts, site, clean_P
        self._block = slice(0, 0)
        self._known: dict[int, tuple[Prompts, Pass]] = {}

    def chunks(self, block: slice, variants: int) -> Iterator[range]:
        """The numbers of variants that go through the model together, for a block of prompts."""
        return chunks(self.prompts, block, variants)

    def differences(self, block: slice, x_VPTD: Float[Tensor, "V P T D"]) -> Float[Tensor, "V P"]:
        """m of each prompt of a block, with each variant in the place of the site's activations."""
        variants = len(x_VPTD)
        many, from_site = self._repeated(block, variants)
        with from_site():
            m_N = many.difference(self._lm, {self._site: lambda _x: x_VPTD.flatten(0, 1)})
        return m_N.view(variants, -1)

    def _repeated(self, block: slice, variants: int) -> tuple[Prompts, Pass]:
        if block != self._block:
            self._block, self._known = block, {}
        if variants not in self._known:
            many = self.prompts.at(block).repeated(variants)
            from_site = shared_prefix(self._lm, many.pairs.clean_PT, self._site)
            self._known[variants] = (many, from_site)
        return self._known[variants]


def chunks(prompts: Prompts, block: slice, variants: int) -> Iterator[range]:
    """Runs of variants, equally long but for one, of which a batch has no more tokens than fit."""
    tokens = (block.stop - block.start) * prompts.shape[1]
    count = -(-variants // max(1, limits.LM_TOKENS // tokens))
    for i in range(count):
        yield range(variants * i // count, variants * (i + 1) // count)
