"""Held-out FVU and ΔCE while training, handed to the trainer from above."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from saeforge.dictionary.base import SAE
from saeforge.eval.banks import reconstruct, site_means, sites_of
from saeforge.eval.held_out import HeldOut
from saeforge.eval.splice import logit_batch, logits, prediction_losses, splice_hook
from saeforge.lm.model import LanguageModel
from saeforge.lm.packing import TokenBatch


class HeldOutProbe:
    """`probe(bank)` → site → held_out_fvu, delta_ce, on the same held-out tokens every time.

    Both come from one language-model pass per site: only that site is spliced, so what arrives
    there is the clean x. The clean loss and the sites' means are computed once. It draws no random
    number and changes nothing that training depends on.
    """

    def __init__(self, lm: LanguageModel, stream: Iterator[TokenBatch], tokens: int) -> None:
        """Takes the first `tokens` held-out tokens of a stream.

        Raises:
            UserError: if it has none.
        """
        self.lm = lm
        self.held_out = HeldOut.take(stream, tokens)
        self._clean: float | None = None
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, bank: Mapping[str, SAE]) -> dict[str, dict[str, float]]:
        """Evaluate a bank of folded SAEs.

        Raises:
            UserError: as `saeforge.eval.reconstruction.reconstruction`.
        """
        sites = sites_of({"this run": bank}, self.lm)
        missing = [site for site in sites if site not in self._means]
        if missing:
            self._means |= site_means(self.lm, missing, self.held_out, lambda done: None)
        if self._clean is None:
            self._clean = self._loss(None)
        return {site: self._probe(site, bank[site]) for site in sites}

    def _probe(self, site: str, sae: SAE) -> dict[str, float]:
        error = variance = 0.0

        def replace(rows_ND: Tensor) -> Tensor:
            nonlocal error, variance
            x_hat_ND = reconstruct(sae, rows_ND)
            error += float((rows_ND.double() - x_hat_ND.double()).square().sum())
            variance += float((rows_ND.double() - self._means[site]).square().sum())
            return x_hat_ND

        assert self._clean is not None
        delta = self._loss((site, replace)) - self._clean
        fvu = error / variance if variance > 0 else float("nan")
        return {"held_out_fvu": fvu, "delta_ce": delta}

    def _loss(self, spliced: tuple[str, Callable[[Tensor], Tensor]] | None) -> float:
        total, count = 0.0, 0
        for number, batch in enumerate(self.held_out.batches(logit_batch(self.lm), self.lm.device)):
            hooks = {}
            if spliced is not None:
                site, replace = spliced
                hooks[site] = splice_hook(replace, batch, site, number)
            loss_P, _ = prediction_losses(logits(self.lm, batch, hooks), batch)
            total += float(loss_P.sum())
            count += len(loss_P)
        return total / count if count else float("nan")
