"""The measurement behind `saeworks bench` alone: a training step beside what the machine allows.

Shapes: B tokens in a batch, D model width, M latents, A active latents per token.
"""

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from saeworks.cost.estimate import meta_sae
from saeworks.cost.precision import COLUMNS, ROWS, matmul

_COPIED_BYTES = 2**28
_TIMINGS = 5
_NUMBER = torch.float32.itemsize
_ADAM_PASSES = 7
"""Adam reads weight, gradient and both moments, and writes all but the gradient."""


def beside_floor(step: dict[str, Any]) -> dict[str, Any]:
    """A step that `bench_step` measured, with the machine's matmul and memory at its sizes.

    The floor is the encoder's matmul in the precision that is used, at the rate measured, and one
    pass of Adam over weights, gradients and moments, at the bandwidth measured. A stage's own
    bound is what it must multiply or move; a stage without one is all overhead.
    """
    d, width, batch = step["d"], step["width"], step["batch"]
    before = torch.get_num_threads()
    torch.set_num_threads(step["threads"])
    try:
        machine = measure_machine(d, width, batch, torch.device(step["device"]))
    finally:
        torch.set_num_threads(before)
    given = {name: step[name] for name in ("width", "k", "experts") if step[name] is not None}
    work = needed(step["arch"], d, given, batch)
    rate = machine[f"matmul_{step['precision']}_flops_per_second"]
    moved = {name: size / machine["bytes_per_second"] for name, size in work["bytes"].items()}
    bounds = {"encoder": work["encoder_flops"] / rate, **moved}
    floor = bounds["encoder"] + bounds["adam"]
    seconds = step["seconds_per_step"]["median"]
    return {
        **step,
        "machine": machine,
        "work": work,
        "bounds": bounds,
        "floor_seconds": floor,
        "floor_matmul_seconds": bounds["encoder"],
        "floor_memory_seconds": bounds["adam"],
        "times_floor": seconds / floor,
        "share_of_floor": floor / seconds,
    }


def measure_machine(d: int, width: int, batch: int, device: torch.device) -> dict[str, float]:
    """Operations per second of an encoder's matmul in each precision, bytes per second of a copy
    (read and written)."""
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(min(batch, ROWS), d, generator=generator).to(device)
    w_MD = torch.randn(min(width, COLUMNS), d, generator=generator).to(device)
    work = 2.0 * x_BD.shape[0] * w_MD.shape[0] * d
    rates = {}
    for name, dtype in {"float32": torch.float32, "bf16": torch.bfloat16}.items():
        job = matmul(x_BD.to(dtype), w_MD.to(dtype))
        rates[f"matmul_{name}_flops_per_second"] = work / _seconds(job, device)
    source = torch.zeros(_COPIED_BYTES // _NUMBER, device=device)
    copy = torch.empty_like(source)
    moved = 2 * _COPIED_BYTES / _seconds(lambda: copy.copy_(source), device)
    return {**rates, "bytes_per_second": moved}


def needed(arch: str, d: int, options: dict[str, Any], batch: int) -> dict[str, Any]:
    """What a step of an SAE must multiply and move, by stage.

    Encoder: its operations (and the router's). Adam: 7 passes over the parameters. Decode reads
    a decoder row per active latent; the sparse backward pass reads one again, and a row of x or of
    the error for each of two gradients of [M, D], which it writes; the projection reads decoder
    and gradient, and writes the gradient.
    """
    sae = meta_sae(arch, d, options)
    active = sae.phases[-1].active
    forward = sae.flops(active, batch).forward
    parameters = sum(p.numel() for p in sae.parameters())
    pairs, weights = batch * active * d * _NUMBER, sae.width * d * _NUMBER
    return {
        "encoder_flops": batch * (forward["encoder"] + forward.get("router", 0.0)),
        "parameters": parameters,
        "active": active,
        "bytes": {
            "decode": pairs + batch * d * _NUMBER,
            "sparse backward": 3 * pairs + 2 * weights,
            "projection": 3 * weights,
            "adam": _ADAM_PASSES * _NUMBER * parameters,
        },
    }


def _seconds(job: Callable[[], object], device: torch.device) -> float:
    """The median of some rounds of at least 20 ms each, after one to warm up."""
    rounds = []
    for _ in range(_TIMINGS + 1):
        start, times = perf_counter(), 0
        while times == 0 or perf_counter() - start < 0.02:
            job()
            times += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        rounds.append((perf_counter() - start) / times)
    return statistics.median(rounds[1:])
