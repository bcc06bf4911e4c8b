"""Activations that are in memory (or mapped into it), read shuffled, epoch after epoch."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource, mixing
from saeworks.activations.seeds import generator
from saeworks.errors import UserError


class TensorSource(ActivationSource):
    """Rows of tensors, in a new random order every epoch.

    What is left of an epoch when no whole batch is left is skipped (other rows in each epoch).

    Args:
        planes: site → its rows [N, D], of any floating type, without NaN or Inf; the same tokens
            at all.
        document: of each row.
        position: of each row, in its document.
        batch: rows in a batch.
        seed: fixes the order of every epoch.
        name: of what the rows are from, for messages and `describe`.
        rows: those that are drawn from; all by default.

    Raises:
        UserError: if there are fewer rows than one batch.
    """

    vetted = True

    def __init__(
        self,
        planes: Mapping[str, Float[Tensor, "N _"]],
        document: Int[Tensor, " N"],
        position: Int[Tensor, " N"],
        batch: int,
        seed: int,
        name: str = "tensor",
        rows: Int[Tensor, " n"] | None = None,
    ) -> None:
        self.planes = {site: plane_ND.shape[1] for site, plane_ND in planes.items()}
        self.batch, self._seed, self._name = batch, seed, name
        self._planes, self._document, self._position = dict(planes), document, position
        self._rows = torch.arange(len(document)) if rows is None else rows
        if len(self._rows) < batch:
            raise UserError(
                f"{name} holds {len(self._rows)} tokens, fewer than a batch of {batch}; lower the "
                "batch (train.batch)"
            )
        self._epoch, self._drawn = 0, 0
        self._order = self._shuffled()

    def __next__(self) -> ActivationBatch:
        if self._drawn + self.batch > len(self._rows):
            self._epoch, self._drawn = self._epoch + 1, 0
            self._order = self._shuffled()
        rows = self._order[self._drawn : self._drawn + self.batch]
        self._drawn += self.batch
        x = {site: self._taken(site, rows) for site in self._planes}
        return ActivationBatch(x, self._document[rows], self._position[rows])

    @property
    def epoch(self) -> int:
        return self._epoch

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        return self._taken(plane, self._order[:tokens])

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._drawn = int(state["epoch"]), int(state["drawn"])
        self._order = self._shuffled()

    def describe(self) -> dict[str, Any]:
        """Rows, epoch, documents among them and in a batch (measured)."""
        return {
            "source": self._name,
            "slots": len(self._rows),
            "bytes": sum(p.element_size() * p.numel() for p in self._planes.values()),
            "batch": self.batch,
            "epoch": self._epoch,
            **mixing(self._document[self._order], self.batch),
        }

    def _taken(self, site: str, rows: Tensor) -> Float[Tensor, "n D"]:
        plane_ND = self._planes[site]
        return plane_ND[rows.to(plane_ND.device)].float()

    def _shuffled(self) -> Tensor:
        random = generator(self._seed, "cache", self._epoch)
        return self._rows[torch.randperm(len(self._rows), generator=random)]
