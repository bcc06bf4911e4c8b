"""How many floating-point operations a training step is, before it is run.

Two per multiply-add of a matrix product, dense or over (token, latent) pairs. What is elementwise
(selection, biases, the loss, the optimiser) is not counted: it is bound by memory, not by
arithmetic. Nor is AuxK, whose size depends on how many latents will be dead (10·D operations per
dead latent and token while there are any).

Shapes: B tokens in a batch, D model width, M latents, A active latents per token, N experts.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Flops:
    """Operations of one token in a training step, by part.

    Attributes:
        forward: of the step's forward pass.
        backward: of its gradients.
    """

    forward: dict[str, float]
    backward: dict[str, float]

    @property
    def total(self) -> float:
        """Forward and backward."""
        return sum(self.forward.values()) + sum(self.backward.values())

    @staticmethod
    def mean(weighted: "list[tuple[float, Flops]]") -> "Flops":
        """Σ share · flops over (share, flops)."""
        forward: dict[str, float] = {}
        backward: dict[str, float] = {}
        for share, flops in weighted:
            for total, parts in ((forward, flops.forward), (backward, flops.backward)):
                for name, number in parts.items():
                    total[name] = total.get(name, 0.0) + share * number
        return Flops(forward, backward)


@dataclass(frozen=True)
class Phase:
    """A part of a run in which a step is of one size.

    Attributes:
        share: of the run's steps.
        active: latents per token, A.
        assumed: why it is an estimate; empty where it is exact.
    """

    share: float
    active: float
    assumed: str = ""


@dataclass(frozen=True)
class StepWork:
    """The matrix products of an architecture's training step.

    Attributes:
        encoded: share of the M pre-activations that are computed for a token.
        decodes: reconstructions per step, of which one trains w_dec.
        shifted: whether b_dec is subtracted from the encoder's input, and trained through it.
        dense_above: share of active latents above which the step works on dense matrices.
        probe_rows: rows of the batch that are encoded twice, to choose how the step goes.
        routed: N, the outputs of the router; 0 without one.
    """

    encoded: float = 1.0
    decodes: int = 1
    shifted: bool = True
    dense_above: float = math.inf
    probe_rows: int = 0
    routed: int = 0

    def flops(self, d: int, width: int, active: float, rows: int) -> Flops:
        """Operations per token of a step with A active latents per token in a batch of B rows.

        A sparse step is 2·D·M + 8·D·A, and b_dec's gradient through the encoder once per step; a
        dense one is five products of 2·D·M. The router has 2·D·N each way (x is data and has no
        gradient), and W_r b_router and its two gradients once per step.
        """
        product = 2.0 * d * width
        dense = active > self.dense_above * width
        decode = product if dense else 2.0 * d * active
        forward = {"encoder": self.encoded * product, "decoder": self.decodes * decode}
        backward = {"values": self.decodes * decode, "w_dec": decode, "w_enc": decode}
        if self.shifted:
            backward["b_dec"] = product if dense else product / rows
        if self.probe_rows:
            forward["probe"] = product * min(self.probe_rows, rows) / rows
        if self.routed:
            router = 2.0 * d * self.routed
            forward["router"] = router + router / rows
            backward["router"] = router + 2 * router / rows
        return Flops(forward, backward)
