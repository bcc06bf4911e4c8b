"""A task's prompts as one batch, the activations they give, and m of a pass over them.

Prompts of different lengths are padded on the right: nothing after a prompt's last token reaches it
in a causal model.

Shapes: P pairs of prompts, T positions, D model width, V variants of a pass, R = P·T rows,
G cells (case, position).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.errors import UserError
from saeworks.lm.last_logits import last_logits
from saeworks.lm.model import Hook, LanguageModel
from saeworks.measure import banks as limits
from saeworks.measure.progress import Tick
from saeworks.measure.tasks.cases import Case, Task


@dataclass(frozen=True)
class Prompts:
    """All prompts of a task.

    Attributes:
        pairs: of all cases, padded to one length.
        last_P: position of each prompt's last token.
        cell_PT: number of the prompt's case and the position together.
        first: position of the first token that is not BOS.
    """

    pairs: Case
    last_P: Int[Tensor, " P"]
    cell_PT: Int[Tensor, "P T"]
    first: int

    @classmethod
    def of(cls, task: Task, lm: LanguageModel) -> "Prompts":
        """The prompts of all cases of a task, on the model's device."""
        device = lm.device
        longest = max(case.clean_PT.shape[1] for case in task.cases)

        def padded(tokens_PT: Tensor) -> Tensor:
            return pad(tokens_PT, (0, longest - tokens_PT.shape[1]), value=int(tokens_PT[0, 0]))

        pairs = Case(
            task.name,
            torch.cat([padded(case.clean_PT) for case in task.cases]).to(device),
            torch.cat([padded(case.patch_PT) for case in task.cases]).to(device),
            torch.cat([case.clean_answer_P for case in task.cases]).to(device),
            torch.cat([case.patch_answer_P for case in task.cases]).to(device),
        )
        sizes_C = torch.tensor([len(case) for case in task.cases], device=device)
        lasts_C = torch.tensor([case.clean_PT.shape[1] - 1 for case in task.cases], device=device)
        case_P = torch.arange(len(sizes_C), device=device).repeat_interleave(sizes_C)
        position_T = torch.arange(longest, device=device)
        first = int(bool((pairs.clean_PT[:, 0] == lm.bos_id).all())) if lm.bos_id is not None else 0
        return cls(pairs, lasts_C[case_P], case_P[:, None] * longest + position_T, first)

    @property
    def shape(self) -> tuple[int, int]:
        """P, T."""
        prompts, length = self.pairs.clean_PT.shape
        return prompts, length

    @property
    def cells(self) -> int:
        """G."""
        return int(self.cell_PT.max()) + 1

    @property
    def read_PT(self) -> Bool[Tensor, "P T"]:
        """Positions that are neither BOS, which SAEs are not trained on, nor padding."""
        position_T = torch.arange(self.shape[1], device=self.last_P.device)
        return (position_T >= self.first) & (position_T <= self.last_P[:, None])

    def blocks(self, tokens: int = limits.LM_TOKENS) -> Iterator[slice]:
        """Slices of the prompts that a pass takes at once."""
        prompts, length = self.shape
        step = max(1, tokens // length)
        for start in range(0, prompts, step):
            yield slice(start, min(prompts, start + step))

    def at(self, block: slice) -> "Prompts":
        """Some of the prompts; their cells keep their numbers."""
        pairs = self.pairs
        some = replace(
            pairs,
            clean_PT=pairs.clean_PT[block],
            patch_PT=pairs.patch_PT[block],
            clean_answer_P=pairs.clean_answer_P[block],
            patch_answer_P=pairs.patch_answer_P[block],
        )
        return Prompts(some, self.last_P[block], self.cell_PT[block], self.first)

    def repeated(self, variants: int) -> "Prompts":
        """All prompts so many times, one time after the other."""
        pairs = self.pairs
        many = replace(
            pairs,
            clean_PT=pairs.clean_PT.repeat(variants, 1),
            patch_PT=pairs.patch_PT.repeat(variants, 1),
            clean_answer_P=pairs.clean_answer_P.repeat(variants),
            patch_answer_P=pairs.patch_answer_P.repeat(variants),
        )
        return Prompts(
            many, self.last_P.repeat(variants), self.cell_PT.repeat(variants, 1), self.first
        )

    def difference(self, lm: LanguageModel, hooks: Mapping[str, Hook]) -> Float[Tensor, " P"]:
        """m of a pass over the clean prompts."""
        logits_PV = last_logits(lm, self.pairs.clean_PT, self.last_P, hooks)
        return Task.difference(logits_PV.float(), self.pairs)


@dataclass(frozen=True)
class Activations:
    """A site's activations on the clean and on the patched prompts.

    Attributes:
        clean_PTD, patch_PTD: float32.
        mean_GD: of both, by cell: what tells clean from patched is in none of them.
    """

    clean_PTD: Float[Tensor, "P T D"]
    patch_PTD: Float[Tensor, "P T D"]
    mean_GD: Float[Tensor, "G D"]

    def read(self, prompts: Prompts) -> Float[Tensor, "N D"]:
        """The rows of all positions that are read, clean and patched."""
        return torch.cat((self.clean_PTD[prompts.read_PT], self.patch_PTD[prompts.read_PT]))


@dataclass(frozen=True)
class CodedSite:
    """What an SAE makes of a site's activations; rows are prompt · T + position.

    Attributes:
        clean, patch: the codes.
    """

    sae: SAE
    x: Activations
    clean: SparseCode
    patch: SparseCode

    @classmethod
    @torch.no_grad()
    def of(cls, sae: SAE, x: Activations) -> "CodedSite":
        """The codes of both sides."""
        rows = (x_PTD.flatten(0, 1) for x_PTD in (x.clean_PTD, x.patch_PTD))
        return cls(sae, x, *(sae.encode_sparse(x_RD) for x_RD in rows))


@torch.no_grad()
def activations(
    lm: LanguageModel, prompts: Prompts, sites: Sequence[str], tick: Tick
) -> dict[str, Activations]:
    """The activations at sites, from a pass over the clean prompts and one over the patched.

    Raises:
        UserError: if one is NaN or infinite.
    """
    parts: dict[str, list[list[Tensor]]] = {site: [[], []] for site in sites}
    for block in prompts.blocks():
        pairs = prompts.at(block).pairs
        for side, tokens_PT in enumerate((pairs.clean_PT, pairs.patch_PT)):
            lm.run(tokens_PT, {site: _keep(parts[site][side]) for site in sites})
            tick(tokens_PT.numel())
    of_site = {}
    for site, (clean, patch) in parts.items():
        clean_PTD, patch_PTD = torch.cat(clean), torch.cat(patch)
        if not (clean_PTD.isfinite().all() and patch_PTD.isfinite().all()):
            raise UserError(
                f"site {site}: NaN or infinity in the activations of task {prompts.pairs.name}; "
                "run the language model in float32, or leave that site out"
            )
        rows_RD = torch.cat((clean_PTD, patch_PTD)).flatten(0, 1)
        cell_R = prompts.cell_PT.flatten().repeat(2)
        of_site[site] = Activations(
            clean_PTD, patch_PTD, cell_means(rows_RD, cell_R, prompts.cells)
        )
    return of_site


def cell_means(
    rows_RD: Float[Tensor, "R D"], cell_R: Int[Tensor, " R"], cells: int
) -> Float[Tensor, "G D"]:
    """The mean of the rows of each cell, summed in float64; 0 where there is none."""
    total_GD = torch.zeros(cells, rows_RD.shape[1], dtype=torch.float64, device=rows_RD.device)
    total_GD.index_add_(0, cell_R, rows_RD.double())
    count_G = torch.bincount(cell_R, minlength=cells).clamp_min(1)
    return (total_GD / count_G[:, None]).float()


def _keep(parts: list[Tensor]) -> Hook:
    return lambda x_PTD: parts.append(x_PTD.float().clone())
