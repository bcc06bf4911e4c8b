"""The held-out tokens that every evaluation runs over, as often as it needs, in the same order."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeworks.errors import UserError
from saeworks.lm.packing import TokenBatch


@dataclass(frozen=True)
class HeldOut:
    """N packed sequences of T tokens, and which document each token is from.

    Attributes:
        tokens_NT: token ids.
        document_NT: the corpus's document numbers, −1 for padding.
        row_NT: the same documents numbered 0, 1, … as rows of per-document sums; −1 for padding.
        keep_NT: positions to evaluate on (BOS and others are excluded by the text's options).
        rows: number of documents, those without a kept token included.
    """

    tokens_NT: Int[Tensor, "N T"]
    document_NT: Int[Tensor, "N T"]
    row_NT: Int[Tensor, "N T"]
    keep_NT: Bool[Tensor, "N T"]
    rows: int

    @classmethod
    def take(cls, stream: Iterator[TokenBatch], tokens: int) -> "HeldOut":
        """The first sequences of a stream that hold `tokens` kept tokens, or all it has.

        Raises:
            UserError: if it holds no kept token at all.
        """
        taken: list[TokenBatch] = []
        kept = 0
        for batch in stream:
            taken.append(batch)
            kept += int(batch.keep.sum())
            if kept >= tokens:
                break
        if not kept:
            raise UserError(
                "the text has no held-out tokens to evaluate on; raise text.held_out, or give a "
                "text with more documents"
            )
        every = cls._of(
            torch.cat([batch.tokens for batch in taken]).cpu(),
            torch.cat([batch.document for batch in taken]).cpu(),
            torch.cat([batch.keep for batch in taken]).cpu(),
        )
        return every.first(tokens)

    @classmethod
    def of_rows(cls, document_N: Int[Tensor, " N"]) -> "HeldOut":
        """Rows of activations without a language model, as sequences of one token each, whose ids
        are the rows' numbers; all are kept."""
        row_N1 = torch.arange(len(document_N))[:, None]
        return cls._of(row_N1, document_N[:, None], torch.ones_like(row_N1, dtype=torch.bool))

    @classmethod
    def _of(cls, tokens_NT: Tensor, document_NT: Tensor, keep_NT: Tensor) -> "HeldOut":
        numbers, row_NT = torch.unique(document_NT, return_inverse=True)
        padded = int(numbers[0] < 0)  # torch.unique sorts: padding, if any, is row 0
        keep_NT = keep_NT & (document_NT >= 0)
        return cls(tokens_NT, document_NT, row_NT - padded, keep_NT, len(numbers) - padded)

    def first(self, tokens: int) -> "HeldOut":
        """The first sequences that hold `tokens` kept tokens, or all."""
        kept_N = self.keep_NT.sum(dim=1).cumsum(0)
        count = int((kept_N < tokens).sum()) + 1
        if count >= len(self.tokens_NT):
            return self
        return self._of(self.tokens_NT[:count], self.document_NT[:count], self.keep_NT[:count])

    def halves(self) -> "tuple[HeldOut, HeldOut]":
        """The same sequences, of which the first half are kept, and the others, at least one in
        each; a document that lies across the border is in both.

        Raises:
            UserError: if there are fewer than two sequences, or a half has no kept token.
        """
        first_N1 = (torch.arange(len(self.tokens_NT)) < len(self.tokens_NT) // 2)[:, None]
        first, second = (
            replace(self, keep_NT=self.keep_NT & half_N1) for half_N1 in (first_N1, ~first_N1)
        )
        if not (first.kept and second.kept):
            raise UserError(
                f"{self.kept} held-out tokens cannot be halved: both halves need some; raise tokens"
            )
        return first, second

    @property
    def kept(self) -> int:
        """The number of tokens that are evaluated on."""
        return int(self.keep_NT.sum())

    @property
    def documents(self) -> int:
        """The number of documents with at least one token that is evaluated on."""
        return len(torch.unique(self.row_NT[self.keep_NT]))

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens, their documents and which are kept: equal where the same tokens
        are evaluated on."""
        hasher = hashlib.sha256(repr(tuple(self.tokens_NT.shape)).encode())
        for tensor in (self.tokens_NT.long(), self.document_NT.long(), self.keep_NT):
            hasher.update(tensor.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def batches(self, tokens: int, device: torch.device) -> Iterator["HeldOut"]:
        """The same sequences, about `tokens` tokens at a time, on a device."""
        step = max(1, tokens // self.tokens_NT.shape[1])
        for start in range(0, len(self.tokens_NT), step):
            part = slice(start, start + step)
            yield self.at(part).to(device)

    def at(self, sequences: slice | Int[Tensor, " n"]) -> "HeldOut":
        """Some of the sequences; the documents keep their rows."""
        return replace(
            self,
            tokens_NT=self.tokens_NT[sequences],
            document_NT=self.document_NT[sequences],
            row_NT=self.row_NT[sequences],
            keep_NT=self.keep_NT[sequences],
        )

    def to(self, device: torch.device) -> "HeldOut":
        """On a device."""
        return replace(
            self,
            tokens_NT=self.tokens_NT.to(device),
            document_NT=self.document_NT.to(device),
            row_NT=self.row_NT.to(device),
            keep_NT=self.keep_NT.to(device),
        )

    def keeping(self, longer: "HeldOut") -> "HeldOut":
        """The same sequences with those kept that are kept in `longer`, which begins with them."""
        keep_NT = longer.keep_NT[: len(self.keep_NT)]
        return self if torch.equal(keep_NT, self.keep_NT) else replace(self, keep_NT=keep_NT)
