"""Held-out FVU and ΔCE while training, handed to the trainer from above."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.lm.packing import TokenBatch
from saeworks.measure.audit.in_run import InRunAudit
from saeworks.measure.banks import (
    for_each_site,
    logit_batch,
    reconstruct,
    sites_of,
)
from saeworks.measure.engine import sweep
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies.outliers import SiteMeans, without
from saeworks.measure.studies.splice import (
    logits,
    prediction_losses,
    splice_hook,
)
from saeworks.results.headlines import DELTA_CE

Limits = Callable[[], Mapping[str, float]]
"""→ site → the norm above which training leaves tokens out."""


class HeldOutProbe:
    """`probe(bank)` → site → held_out_fvu, delta_ce, on the same held-out tokens every time; for
    sites that are audited, also the numbers of `saeworks.measure.audit.in_run`.

    Both come from one language-model pass per site: only that site is spliced, so what arrives
    there is the clean x. The clean loss and the sites' means are computed once. It draws no random
    number and changes nothing that training depends on.
    """

    def __init__(
        self,
        lm: LanguageModel,
        stream: Iterator[TokenBatch],
        tokens: int,
        audited: Sequence[str] = (),
        limits: Limits = dict,
    ) -> None:
        """Takes the first `tokens` held-out tokens of a stream.

        Args:
            limits: asked when the probe is first used; tokens beyond them are left out.

        Raises:
            UserError: if it has none, or too few for the sites that are audited.
        """
        self.lm = lm
        self.held_out = HeldOut.take(stream, tokens)
        self._limits: Limits | None = limits
        self._widths = {site: lm.width(site) for site in audited}
        self._audit = self._audited()
        self._clean: float | None = None
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, bank: Mapping[str, SAE]) -> dict[str, dict[str, float]]:
        """Evaluate a bank of folded SAEs.

        Raises:
            UserError: as `saeworks.measure.studies.reconstruction.reconstruction`.
        """
        sites = sites_of({"this run": bank}, self.lm)
        if self._limits is not None and (limits := self._limits()):
            self.held_out = without(self.lm, self.held_out, limits)
            self._audit = self._audited()
        self._limits = None
        missing = [site for site in sites if site not in self._means]
        if missing:
            means = SiteMeans(self.lm, missing, self.held_out)
            sweep(self.lm, [means])
            self._means |= means.means
        if self._clean is None:
            self._clean = self._loss(None)
        return {site: self._probe(site, bank[site]) for site in sites}

    def _audited(self) -> InRunAudit | None:
        device = self.lm.device
        return InRunAudit(self.held_out, self._widths, device) if self._widths else None

    def _probe(self, site: str, sae: SAE) -> dict[str, float]:
        error = variance = 0.0
        tally = None if self._audit is None else self._audit.tally(site)

        def replace(batch: HeldOut, rows_ND: Tensor) -> Tensor:
            nonlocal error, variance
            x_hat_ND = reconstruct(sae, rows_ND)
            if tally is not None:
                tally.add(batch, rows_ND, x_hat_ND)
            error += float((rows_ND.double() - x_hat_ND.double()).square().sum())
            variance += float((rows_ND.double() - self._means[site]).square().sum())
            return x_hat_ND

        assert self._clean is not None
        delta = self._loss((site, replace)) - self._clean
        fvu = error / variance if variance > 0 else float("nan")
        audited = {} if tally is None else tally.values()
        return {"held_out_fvu": fvu, DELTA_CE: delta, **audited}

    def _loss(self, spliced: tuple[str, Callable[[HeldOut, Tensor], Tensor]] | None) -> float:
        total, count = 0.0, 0
        for number, batch in enumerate(self.held_out.batches(logit_batch(self.lm), self.lm.device)):
            hooks = {}
            if spliced is not None:
                site, replace = spliced
                hooks[site] = splice_hook(partial(replace, batch), batch, site, number)
            loss_P, _ = prediction_losses(logits(self.lm, batch, hooks), batch)
            total += float(loss_P.sum())
            count += len(loss_P)
        return total / count if count else float("nan")


class ErrorProbe:
    """`probe(bank)` → site → held_out_fvu, of SAEs on the error of others: on the same held-out
    tokens every time, one language-model pass per bank."""

    def __init__(
        self,
        lm: LanguageModel,
        stream: Iterator[TokenBatch],
        tokens: int,
        target: Callable[[str, Tensor], Tensor],
        limits: Limits = dict,
    ) -> None:
        """Takes the first `tokens` held-out tokens of a stream.

        Args:
            target: site, rows x → what the site's SAE codes.
            limits: as for `HeldOutProbe`.

        Raises:
            UserError: if it has none.
        """
        self.lm, self.target = lm, target
        self.held_out = HeldOut.take(stream, tokens)
        self._limits: Limits | None = limits

    @torch.no_grad()
    def __call__(self, bank: Mapping[str, SAE]) -> dict[str, dict[str, float]]:
        """Evaluate a bank of folded SAEs; FVU is of the target, about its mean on these tokens."""
        if self._limits is not None:
            self.held_out = without(self.lm, self.held_out, self._limits())
            self._limits = None
        left = dict.fromkeys(bank, 0.0)
        square = dict.fromkeys(bank, 0.0)
        sums: dict[str, Tensor] = {}

        def visit(site: str, x_ND: Tensor, batch: HeldOut) -> None:
            target_ND = self.target(site, x_ND)
            y_ND = target_ND.double()
            left[site] += float((y_ND - reconstruct(bank[site], target_ND).double()).square().sum())
            square[site] += float(y_ND.square().sum())
            sums[site] = sums.get(site, 0.0) + y_ND.sum(dim=0)

        for_each_site(self.lm, list(bank), self.held_out, visit, lambda done: None)
        n = self.held_out.kept
        variance = {site: square[site] - float(sums[site].square().sum()) / n for site in bank}
        return {
            site: {"held_out_fvu": left[site] / variance[site] if variance[site] > 0 else math.nan}
            for site in bank
        }
