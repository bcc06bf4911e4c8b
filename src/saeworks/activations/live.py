"""Rows of activations from a language model as it reads."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from saeworks.activations.base import finite, moved
from saeworks.activations.feed import Passage, RowStream, TextRows
from saeworks.activations.outliers import beyond
from saeworks.config import BufferConfig
from saeworks.errors import UserError

Hook = Callable[[Tensor], Tensor | None]
PASS_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a forward pass where nobody says how many. On a CPU what a block holds of so many stays
in its caches."""


@runtime_checkable
class Reader(Protocol):
    """What a source needs of a language model (`saeworks.lm.model.LanguageModel`)."""

    device: torch.device

    @property
    def concurrent(self) -> bool: ...

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


def pass_sequences(buffer: BufferConfig, context: int, device: torch.device) -> int:
    """Sequences of a forward pass."""
    return max(1, (buffer.lm_batch or PASS_TOKENS[device.type]) // context)


@final
class RowReader(RowStream):
    """Reads tokens, runs the language model, and keeps the rows of its sites.

    A passage is a batch of the stream, in one forward pass.

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
        self.device, self.limits, self.concurrent = lm.device, dict(limits or {}), lm.concurrent
        self._lm, self._stream, self._batches = lm, stream, 0

    def position(self) -> dict[str, Any]:
        return {"stream": self._stream.state_dict(), "batches": self._batches}

    def seek(self, position: Mapping[str, Any]) -> None:
        self._stream.load_state_dict(dict(position["stream"]))
        self._batches = int(position["batches"])

    def next(self, dtype: torch.dtype) -> Passage:
        position, number = self.position(), self._batches
        try:
            batch = next(self._stream)
        except StopIteration:
            raise UserError(
                f"the text ended after {number} batches, before the run had its tokens; "
                "give more text, allow more epochs, or ask for fewer tokens"
            ) from None
        self._batches += 1
        kept_n = batch.keep.flatten().nonzero().squeeze(1)
        read = partial(self._read, batch, kept_n, dtype)
        return Passage(position, self._stream.epoch, number, len(kept_n), read)

    def _read(self, batch: PackedTokens, kept_n: Int[Tensor, " n"], dtype: torch.dtype) -> TextRows:
        """The kept rows of a batch, by one forward pass."""
        sizes = self.planes.items()
        planes = {
            site: torch.empty(len(kept_n), d, dtype=dtype, device=self.device) for site, d in sizes
        }
        if len(kept_n):
            here_n = moved(kept_n, self.device)
            hooks = {site: _into(plane_nD, here_n) for site, plane_nD in planes.items()}
            with torch.no_grad():
                self._lm.run(moved(batch.tokens, self.device), hooks)
        document, position = batch.document.flatten()[kept_n], batch.position.flatten()[kept_n]
        rows = TextRows(planes, document, position.int())
        return self._without_outliers(rows) if len(rows) else rows

    def _without_outliers(self, rows: TextRows) -> TextRows:
        """Rows that are beyond no limit, checked for what is not finite."""
        planes, document, position = rows.planes, rows.document, rows.position
        if self.limits:
            far = [beyond(planes[site], limit).cpu() for site, limit in self.limits.items()]
            usual_m = (~torch.stack(far).any(0)).nonzero().squeeze(1)
            here_m = usual_m.to(self.device)
            planes = {site: x_nD[here_m] for site, x_nD in planes.items()}
            document, position = document[usual_m], position[usual_m]
        left_out = len(rows) - len(document)
        if not len(document):
            return TextRows(planes, document, position, left_out)
        flags = torch.stack([finite(x_nD) for x_nD in planes.values()])
        return TextRows(planes, document, position, left_out, flags)


def _into(plane_nD: Tensor, rows: Int[Tensor, " n"]) -> Hook:
    """A hook that copies `rows` of a site's output to a plane, with nothing in between."""

    def hook(x_BTD: Tensor) -> None:
        x_RD = x_BTD.flatten(0, 1)
        if x_RD.dtype == plane_nD.dtype and x_RD.device == plane_nD.device:
            torch.index_select(x_RD, 0, rows, out=plane_nD)
        else:
            plane_nD.copy_(x_RD[rows])

    return hook
