"""Which precision finds a run's active latents: measured on this machine, not told by its name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from saeworks.config import PrecisionChoice
from saeworks.dictionary.base import Trainable
from saeworks.dictionary.selection import Precision

ROWS, COLUMNS = 512, 8192
"""At most so large is the matmul that is timed."""
SMALL = 2**18
"""Weights below which an encoder is not measured: there is nothing to gain."""
WORTH = 0.75
"""Share of float32's seconds that bf16's matmul may take, or candidates do not pay."""
_ROUNDS = 5


@dataclass(frozen=True)
class Chosen:
    """A precision, and why it is that, for who reads."""

    precision: Precision
    why: str

    def __str__(self) -> str:
        if self.precision == "float32":
            return f"precision: float32 ({self.why})"
        return f"precision: bf16 finds the active latents, in float32 are their values ({self.why})"


def choose_precision(
    wanted: PrecisionChoice, saes: Iterable[Trainable], device: torch.device
) -> Chosen:
    """What is asked for; for `auto`, bf16 where it makes the largest encoder's matmul faster."""
    if wanted != "auto":
        return Chosen(wanted, "as asked for")
    largest = max(saes, key=lambda sae: sae.d * sae.width)
    if largest.d * largest.width < SMALL:
        return Chosen("float32", "the encoders are small")
    share = bf16_share(largest.d, largest.width, device)
    chosen: Precision = "bf16" if share < WORTH else "float32"
    return Chosen(chosen, f"an encoder matmul in bf16 takes {share:.2f} of float32's time here")


@torch.no_grad()
def bf16_share(d: int, width: int, device: torch.device) -> float:
    """Seconds of an encoder matmul in bf16 over those in float32: the shortest of some rounds each,
    in turns, since what disturbs a round only makes it longer."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, d, generator=random).to(device)
    w = torch.randn(min(width, COLUMNS), d, generator=random).to(device)
    jobs = [matmul(x, w), matmul(x.bfloat16(), w.bfloat16())]
    rounds = [[_seconds(job, device) for job in jobs] for _ in range(_ROUNDS + 1)]
    full, low = (min(seconds) for seconds in zip(*rounds[1:], strict=True))
    return float(low / full)


def matmul(x: Tensor, w: Tensor) -> Callable[[], Tensor]:
    """x wᵀ, to be called as often as wanted: always into the same memory."""
    out = x.new_empty(len(x), len(w))
    return lambda: torch.mm(x, w.T, out=out)


def _seconds(job: Callable[[], Tensor], device: torch.device) -> float:
    begin = perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - begin
