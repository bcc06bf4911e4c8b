"""Pushes of a site's activations, and what they do: to loss, to what is generated, to a task.

Shapes: B sequences, T positions, P prompts, X tokens of prompt and continuation, R documents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from saeworks.lm.model import Hook, LanguageModel, next_token_nats
from saeworks.lm.prefix import shared_prefix
from saeworks.measure.banks import Bank, logit_batch
from saeworks.measure.held_out import HeldOut
from saeworks.measure.interventions import Edit, Replacing, direction_hook, edit_hooks
from saeworks.measure.progress import Tick
from saeworks.measure.steering.judges import Judge
from saeworks.measure.studies.splice import counted, logits, prediction_losses
from saeworks.measure.tasks.cases import Task

Push = Callable[[float, Tensor | None], Mapping[str, Replacing]]
"""Strength and positions (None: all) → hooks."""


def of_latents(
    bank: Bank, site: str, latents: Sequence[int], a_n: Float[Tensor, " n"], kind: str, norm: float
) -> Push:
    """Each latent's activation is raised by (or set to) strength · norm · a_i."""

    def push(strength: float, positions_BT: Tensor | None) -> Mapping[str, Replacing]:
        edits = [
            Edit(site, latent, kind, strength * norm * a)
            for latent, a in zip(latents, a_n.tolist(), strict=True)
        ]
        return edit_hooks(bank, edits, positions_BT)

    return push


def ablation(bank: Bank, site: str, latents: Sequence[int]) -> Push:
    """The latents' activations are set to 0, whatever the strength."""
    edits = [Edit(site, latent, "ablate") for latent in latents]
    return lambda strength, positions_BT: edit_hooks(bank, edits, positions_BT)


def of_direction(site: str, direction_D: Float[Tensor, " D"], norm: float) -> Push:
    """x + strength · norm · direction / ‖direction‖."""
    unit_D = direction_D / direction_D.norm()
    return lambda strength, positions_BT: {
        site: direction_hook(strength * norm * unit_D, positions_BT)
    }


class Cost:
    """ΔCE of pushes at a site, by document."""

    def __init__(self, lm: LanguageModel, held_out: HeldOut) -> None:
        whole = held_out.keep_NT.any(dim=1).nonzero()[:, 0]
        self.lm, self.held_out = lm, held_out.at(whole)

    @torch.no_grad()
    def of(
        self, site: str, pushes: Sequence[tuple[Push, float]], tick: Tick
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """Counted predictions of each document [R], and by push the sum of what each loses more."""
        rows, device = self.held_out.rows, self.lm.device
        count_R = torch.zeros(rows, dtype=torch.float64, device=device)
        more = [torch.zeros_like(count_R) for _ in pushes]
        for batch in self.held_out.batches(logit_batch(self.lm), device):
            row_P = batch.row_NT[counted(batch)]
            from_site = shared_prefix(self.lm, batch.tokens_NT, site)
            with from_site():
                clean_P, _ = prediction_losses(logits(self.lm, batch), batch)
            count_R.index_add_(0, row_P, torch.ones_like(clean_P))
            for more_R, (push, strength) in zip(more, pushes, strict=True):
                with from_site():
                    pushed_BTV = logits(self.lm, batch, push(strength, batch.keep_NT))
                loss_P, _ = prediction_losses(pushed_BTV, batch)
                more_R.index_add_(0, row_P, loss_P - clean_P)
                tick(batch.tokens_NT.numel())
        return count_R.cpu().numpy(), [more_R.cpu().numpy() for more_R in more]


@dataclass(frozen=True)
class Written:
    """What the model wrote under a push.

    Attributes:
        hits_P, tokens_P: of each prompt, generated tokens on which the concept stands, and could.
        nats: cross-entropy of all generated tokens under the untouched model, per token.
        tokens_PX: prompts and continuations.
    """

    hits_P: NDArray[np.float64]
    tokens_P: NDArray[np.float64]
    nats: float
    tokens_PX: Int[Tensor, "P X"]


@dataclass(frozen=True)
class Writer:
    """Generates after given prompts, and has it judged.

    Attributes:
        prompts_PT: BOS included where the text has it.
    """

    lm: LanguageModel
    prompts_PT: Int[Tensor, "P T"]
    new_tokens: int
    temperature: float
    seed: int

    @property
    def tokens(self) -> int:
        """Prompts and continuations."""
        return len(self.prompts_PT) * (self.prompts_PT.shape[1] + self.new_tokens)

    @torch.no_grad()
    def write(self, hooks: Mapping[str, Hook], judge: Judge) -> Written:
        """Write with hooks; the same draws every time."""
        tokens_PX = self.lm.generate(
            self.prompts_PT,
            hooks,
            new_tokens=self.new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        length = self.prompts_PT.shape[1]
        written_PY = self._written(tokens_PX[:, length:])
        stands_PY, could_PY = judge.judge(self.lm, tokens_PX, length)
        logits_PXV = self.lm.run(tokens_PX, logits=True)
        assert logits_PXV is not None
        nats_PY = next_token_nats(logits_PXV, tokens_PX)[:, length - 1 :].cpu()
        return Written(
            (stands_PY & written_PY).sum(dim=1).double().numpy(),
            (could_PY & written_PY).sum(dim=1).double().numpy(),
            float(nats_PY[written_PY].double().mean()) if written_PY.any() else float("nan"),
            tokens_PX,
        )

    def _written(self, tokens_PY: Tensor) -> Bool[Tensor, "P Y"]:
        """Tokens before the end of the document."""
        ends = [self.lm.bos_id, getattr(self.lm.tokenizer, "eos_token_id", None)]
        ended_PY = torch.isin(tokens_PY, torch.tensor([end for end in ends if end is not None]))
        return ended_PY.int().cumsum(dim=1) == 0


@torch.no_grad()
def differences(
    lm: LanguageModel, task: Task, hooks: Callable[[Tensor], Mapping[str, Hook]]
) -> NDArray[np.float64]:
    """A task's logit difference on each clean prompt, with hooks for the positions of a batch: all
    but BOS."""
    parts = []
    for case in task.cases:
        positions_PT = case.clean_PT != (-1 if lm.bos_id is None else lm.bos_id)
        step = max(1, logit_batch(lm) // case.clean_PT.shape[1])
        each = zip(torch.split(case.clean_PT, step), torch.split(positions_PT, step), strict=True)
        last = []
        for tokens_BT, positions_BT in each:
            logits_BTV = lm.run(tokens_BT, hooks(positions_BT.to(lm.device)), logits=True)
            assert logits_BTV is not None
            last.append(logits_BTV[:, -1].double())
        parts.append(task.difference(torch.cat(last), case).cpu().numpy())
    return np.concatenate(parts)
