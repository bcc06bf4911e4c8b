"""Interventions on a site's activations: single latents edited, directions added.

Shapes: B sequences, T positions, N rows, D model width, M latents, n edited latents.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.banks import Bank, row_chunks

Kind = Literal["add", "clamp", "ablate"]
Replacing = Callable[[Tensor], Tensor]
"""A hook (`saeworks.lm.model.Hook`) that always replaces."""


@dataclass(frozen=True)
class Edit:
    """What is done to one latent's activation f at a site: f + value (`add`), value (`clamp`) or
    0 (`ablate`).

    Raises:
        UserError: if the kind is unknown, the latent is negative, or the value is not finite.
    """

    site: str
    latent: int
    kind: str = "add"
    value: float = 0.0

    def __post_init__(self) -> None:
        where = f"the edit of latent {self.latent} at {self.site}"
        if self.kind not in get_args(Kind):
            raise UserError(f"{where} is {self.kind!r}; choose one of {', '.join(get_args(Kind))}")
        if self.latent < 0:
            raise UserError(f"{where}: latents are numbered from 0")
        if not math.isfinite(self.value):
            raise UserError(f"{where} has the value {self.value}; give a finite number")
        if self.kind == "ablate" and self.value:
            raise UserError(f"{where} ablates, which sets 0; for {self.value:g}, clamp it")


def edit_hooks(
    bank: Bank, edits: Sequence[Edit], positions_BT: Bool[Tensor, "B T"] | None = None
) -> dict[str, Replacing]:
    """Hooks that edit latents, for `LanguageModel.run` and `generate`, by site:

        x' = x + (decode(f') − decode(f)) = x + Σ_i (f'_i − f_i) w_i,  f = encode(x),

    so that the SAE's error stays, and nothing changes where f' = f. Of a Switch SAE the code is the
    one of the expert that x is sent to, before and after: the edit chooses no other expert, and a
    latent of another one is 0 before it. Sites of a group have an SAE each in the bank.

    Differentiable in x and the SAE's parameters. Memory: the codes of some rows at a time.

    Args:
        bank: site → SAE on raw activations (`Suite.bank`), on the model's device.
        edits: at most one of each latent.
        positions_BT: where x is edited in a pass of `run`; everywhere where it is None. (`generate`
            has its own: its passes have different positions.)

    Raises:
        UserError: if there is no edit, two edits of one latent, or the bank has no such site or
            latent.
    """
    check(bank, edits)
    return {
        site: _hook(
            _Editing(bank[site], [edit for edit in edits if edit.site == site]), positions_BT
        )
        for site in dict.fromkeys(edit.site for edit in edits)
    }


def direction_hook(
    direction_D: Float[Tensor, " D"], positions_BT: Bool[Tensor, "B T"] | None = None
) -> Replacing:
    """A hook that adds a direction to x, at the positions given or everywhere."""
    return _hook(lambda x_ND: direction_D.to(x_ND).expand_as(x_ND), positions_BT)


def check(bank: Bank, edits: Sequence[Edit]) -> None:
    """Refuse edits that are not of this bank.

    Raises:
        UserError: as `edit_hooks`.
    """
    if not edits:
        raise UserError("there is nothing to edit; give at least one latent")
    seen: set[tuple[str, int]] = set()
    for edit in edits:
        if edit.site not in bank:
            raise UserError(f"there is no SAE at site {edit.site!r}, only at {', '.join(bank)}")
        width = bank[edit.site].width
        if edit.latent >= width:
            raise UserError(
                f"latent {edit.latent} at {edit.site} does not exist: the SAE has latents 0 to "
                f"{width - 1}"
            )
        if (edit.site, edit.latent) in seen:
            raise UserError(
                f"latent {edit.latent} at {edit.site} is edited twice; put it into one edit"
            )
        seen.add((edit.site, edit.latent))


def activations(
    sae: SAE, x_ND: Float[Tensor, "N D"], latents_n: Int[Tensor, " n"]
) -> Float[Tensor, "N n"]:
    """f of some different latents, of all rows; no array has a place for each row and latent of the
    SAE."""
    slot_M = torch.full((sae.width,), -1, device=x_ND.device)
    slot_M[latents_n] = torch.arange(len(latents_n), device=x_ND.device)
    parts = [
        _some(sae, x_ND[rows], slot_M, len(latents_n)) for rows in row_chunks(len(x_ND), sae.width)
    ]
    return torch.cat(parts) if parts else x_ND.new_zeros(0, len(latents_n))


def _some(sae: SAE, x_ND: Tensor, slot_M: Tensor, count: int) -> Tensor:
    code = sae.encode_sparse(x_ND)
    if code.offsets is None:
        per_N = torch.full((len(x_ND),), code.indices.shape[1], device=x_ND.device)
    else:
        per_N = code.offsets.diff()
    row = torch.arange(len(x_ND), device=x_ND.device).repeat_interleave(per_N)
    slot, values = slot_M[code.indices.flatten()], code.values.flatten()
    wanted = slot >= 0
    f_Nn = values.new_zeros(len(x_ND), count)
    return f_Nn.index_put((row[wanted], slot[wanted]), values[wanted], accumulate=True)


class _Editing:
    """Rows of x → what the edits of one site add to them."""

    def __init__(self, sae: SAE, edits: Sequence[Edit]) -> None:
        device = sae.w_dec.device
        self.sae = sae
        self.latents_n = torch.tensor([edit.latent for edit in edits], device=device)
        self.value_n = torch.tensor([edit.value for edit in edits], device=device, dtype=sae.dtype)
        self.adds_n = torch.tensor([edit.kind == "add" for edit in edits], device=device)

    def __call__(self, x_ND: Tensor) -> Tensor:
        change_Nn = self.value_n.expand(len(x_ND), -1)
        if not bool(self.adds_n.all()):
            f_Nn = activations(self.sae, x_ND, self.latents_n)
            change_Nn = torch.where(self.adds_n, change_Nn, change_Nn - f_Nn)
        return change_Nn @ self.sae.w_dec[self.latents_n]


def _hook(added: Replacing, positions_BT: Tensor | None) -> Replacing:
    """A hook that adds, at the given positions, what `added` makes of the rows of x there."""

    def hook(x_BTD: Tensor) -> Tensor:
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        if positions_BT is None:
            rows_ND = x_BTD.flatten(0, 1).to(wide)
            return (rows_ND + added(rows_ND)).to(x_BTD.dtype).view_as(x_BTD)
        if positions_BT.shape != x_BTD.shape[:2]:
            raise UserError(
                f"positions {list(positions_BT.shape)} do not fit activations "
                f"{list(x_BTD.shape)}; give one for each token of the pass (and those of a prompt "
                "to generate() itself)"
            )
        edited_BTD = x_BTD.clone()
        rows_ND = x_BTD[positions_BT].to(wide)
        edited_BTD[positions_BT] = (rows_ND + added(rows_ND)).to(x_BTD.dtype)
        return edited_BTD

    return hook
