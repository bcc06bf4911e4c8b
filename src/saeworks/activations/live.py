"""Rows of activations from a language model as it reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.base import finite
from saeworks.activations.outliers import beyond
from saeworks.activations.ring import RowStream
from saeworks.errors import UserError

Hook = Callable[[Tensor], Tensor | None]


@runtime_checkable
class Reader(Protocol):
    """What a source needs of a language model (`saeworks.lm.model.LanguageModel`)."""

    device: torch.device

    def width(self, site: str) -> int: ...

    def run(self, tokens_BT: Tensor, hooks: Mapping[str, Hook]) -> Any: ...


@runtime_checkable
class PackedTokens(Protocol):
    """A batch of packed sequences (`saeworks.lm.text.TokenBatch`)."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def document(self) -> Tensor: ...

    @property
    def position(self) -> Tensor: ...

    @property
    def keep(self) -> Tensor: ...


@runtime_checkable
class Stream(Protocol):
    """An iterator of packed sequences with a state (`saeworks.lm.text.TokenStream`)."""

    @property
    def epoch(self) -> int: ...

    def __next__(self) -> PackedTokens: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@final
class RowReader(RowStream):
    """Reads tokens, runs the language model, and hands every kept row to the caller's tensors.

    Its position is the stream's state before the batch at hand, and how many of that batch's kept
    rows are used up: no row is lost where a fill ends in the middle of a batch.

    Args:
        limits: site → norm; a token above one of them is left out at all sites.
    """

    name = "live"

    def __init__(
        self,
        lm: Reader,
        stream: Stream,
        sites: Sequence[str],
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.planes = {site: lm.width(site) for site in sites}
        self.device, self.limits = lm.device, dict(limits or {})
        self._lm, self._stream = lm, stream
        self._pending: PackedTokens | None = None
        self._before: dict[str, Any] = stream.state_dict()
        self._skip = 0
        self.batches = 0  # passes that are used up
        self._finite: list[tuple[int, Tensor]] = []  # flags of every read, not yet looked at

    @property
    def epoch(self) -> int:
        return self._stream.epoch

    def position(self) -> dict[str, Any]:
        before = self._before if self._pending is not None else self._stream.state_dict()
        return {"stream": before, "skip": self._skip, "batches": self.batches}

    def seek(self, position: Mapping[str, Any]) -> None:
        self._stream.load_state_dict(dict(position["stream"]))
        self._pending, self._skip = None, int(position["skip"])
        self.batches, self._finite = int(position["batches"]), []

    def read(
        self,
        planes: Mapping[str, Float[Tensor, "N _"]],
        document: Int[Tensor, " N"],
        position: Int[Tensor, " N"],
    ) -> int:
        """The rows of one forward pass."""
        if self._pending is None:
            self._before = self._stream.state_dict()
            self._pending = self._next_tokens()
        keep_BT = self._pending.keep
        rows = keep_BT.flatten().nonzero().squeeze(1)
        taken = rows[self._skip : self._skip + document.numel()]
        if taken.numel():
            self._forward(self._pending, taken, planes)
            document[: taken.numel()] = self._pending.document.flatten()[taken].to(document.device)
            position[: taken.numel()] = self._pending.position.flatten()[taken].to(position)
        count = self._without_outliers(planes, document, position, taken.numel())
        if count:
            flags = torch.stack([finite(planes[site][:count]) for site in self.planes])
            self._finite.append((self.batches, flags))
        self._skip += taken.numel()
        if self._skip == rows.numel():
            self._pending, self._skip = None, 0
            self.batches += 1
        return count

    def _without_outliers(
        self, planes: Mapping[str, Tensor], document: Tensor, position: Tensor, count: int
    ) -> int:
        """Close up the first `count` rows over those beyond a limit; → how many are left."""
        if not self.limits or not count:
            return count
        far = [beyond(planes[site][:count], limit).cpu() for site, limit in self.limits.items()]
        kept = (~torch.stack(far).any(0)).nonzero().squeeze(1)
        left = kept.numel()
        if left < count:
            for rows in (*planes.values(), document, position):
                rows[:left] = rows[kept.to(rows.device)]
            self.left_out += count - left
        return left

    def _next_tokens(self) -> PackedTokens:
        try:
            return next(self._stream)
        except StopIteration:
            raise UserError(
                f"the text ended after {self.batches} batches, before the run had its tokens; "
                "give more text, allow more epochs, or ask for fewer tokens"
            ) from None

    def _forward(
        self, batch: PackedTokens, rows: Int[Tensor, " n"], planes: Mapping[str, Tensor]
    ) -> None:
        """Run the sequences that hold `rows` (indices into the flat batch), and no others."""
        context = batch.tokens.shape[1]
        first, last = int(rows[0]) // context, int(rows[-1]) // context
        device = self._lm.device
        local = (rows - first * context).to(device)
        hooks = {site: _into(planes[site][: rows.numel()], local) for site in self.planes}
        with torch.no_grad():
            self._lm.run(batch.tokens[first : last + 1].to(device), hooks)

    def check(self) -> None:
        seen, self._finite = self._finite, []
        every = torch.stack([flags for _, flags in seen]).tolist() if seen else []
        for (number, _), flags in zip(seen, every, strict=True):
            for site, is_finite in zip(self.planes, flags, strict=True):
                if not is_finite:
                    raise UserError(
                        f"activations of {site} hold NaN or Inf in batch {number} of the text; "
                        "nothing was trained on it: run the language model in float32 "
                        "(model.dtype), or leave that text out"
                    )


def _into(plane_ND: Tensor, rows: Int[Tensor, " N"]) -> Hook:
    """A hook that copies `rows` of a site's output to a plane, with nothing in between."""

    def hook(x_BTD: Tensor) -> None:
        x_RD = x_BTD.flatten(0, 1)
        if x_RD.dtype == plane_ND.dtype and x_RD.device == plane_ND.device:
            torch.index_select(x_RD, 0, rows, out=plane_ND)
        else:
            plane_ND.copy_(x_RD[rows])

    return hook
