"""How many floating-point operations a training step is, before it is run.

Two per multiply-add of a matrix product, dense or over (token, latent) pairs. What is elementwise
(selection, biases, the loss, the optimiser) is not counted: it is bound by memory, not by
arithmetic. Nor is AuxK, whose size depends on how many latents will be dead (10·D operations per
dead latent and token while there are any).

Shapes: B tokens in a batch, D model width, M latents, A active latents per token.
"""

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


def sparse_step(
    d: int, width: int, active: float, rows: int, *, decodes: int = 1, shifted: bool = True
) -> Flops:
    """A dense encoder and sparse passes: 2·D·M + 8·D·A, and b_dec's gradient, once per step.

    Args:
        rows: B, over which what is done once per step is spread.
        decodes: reconstructions per step, of which one trains w_dec.
        shifted: b_dec is subtracted from the encoder's input, and trained through it.
    """
    pairs = 2.0 * d * active
    forward = {"encoder": 2.0 * d * width, "decoder": decodes * pairs}
    backward = {"values": decodes * pairs, "w_dec": pairs, "w_enc": pairs}
    if shifted:
        backward["b_dec"] = 2.0 * d * width / rows
    return Flops(forward, backward)


def dense_step(d: int, width: int, *, decodes: int = 1, shifted: bool = True) -> Flops:
    """All [B, M] dense: five products of 2·D·M, more for further decodes and for b_dec."""
    product = 2.0 * d * width
    backward = {"values": decodes * product, "w_dec": product, "w_enc": product}
    if shifted:
        backward["b_dec"] = product
    return Flops({"encoder": product, "decoder": decodes * product}, backward)


def probed(flops: Flops, d: int, width: int, rows: int, probe_rows: int) -> Flops:
    """With the encoder on the batch's first rows, from which the step's way is chosen."""
    probe = 2.0 * d * width * min(probe_rows, rows) / rows
    return Flops({**flops.forward, "probe": probe}, flops.backward)


def switch_step(
    d: int, width: int, experts: int, per_token: float, active: float, rows: int
) -> Flops:
    """As `sparse_step` with the encoder of so many experts of M/N latents per token, and the
    router, 2·D·N each way (no dx: x is data).

    Args:
        experts: N.
        per_token: experts that encode a token.
    """
    step = sparse_step(d, width, active, rows)
    router = 2.0 * d * experts
    once = router / rows  # W_r b_router and its gradients, to each of the two
    encoder = 2.0 * d * per_token * width / experts
    return Flops(
        {**step.forward, "encoder": encoder, "router": router + once},
        {**step.backward, "router": router + 2 * once},
    )
