"""A source whose rows know the label of their document: for SAEs that are trained on labels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.activations.base import ActivationBatch, ActivationSource
from saeworks.activations.feed import PassageReader


class Labelled(ActivationSource):
    """Another source's batches with `label`, the label of each row's document.

    Args:
        source: the rows.
        labels: by document, as the source numbers them, from 0; −1 for documents beyond.
    """

    def __init__(self, source: ActivationSource, labels: Int[Tensor, " documents"]) -> None:
        self.source, self.labels = source, labels
        self.planes, self.batch, self.vetted = source.planes, source.batch, source.vetted

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "tick":  # it is the inner source that is long at work
            self.source.tick = value
        super().__setattr__(name, value)

    def read_in(self, reading: PassageReader) -> None:
        self.source.read_in(reading)

    def __next__(self) -> ActivationBatch:
        batch = next(self.source)
        document = batch.document.to(self.labels.device)
        known = (document >= 0) & (document < len(self.labels))
        label = torch.full_like(document, -1)
        label[known] = self.labels[document[known]].to(label.dtype)
        return replace(batch, label=label)

    @property
    def limits(self) -> Mapping[str, float]:
        return self.source.limits

    @property
    def epoch(self) -> int | None:
        return self.source.epoch

    def head(self, plane: str, tokens: int) -> Float[Tensor, "N D"]:
        return self.source.head(plane, tokens)

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.source.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "labels": int(self.labels.max()) + 1}
