"""One trainer in its own process: answers each line `step N` or `check` on stdin with a line of
JSON.

Started by step.py, never by hand.
"""

import json
import sys
from time import perf_counter
from typing import Any

import torch
from trainers import Options, build, reconstruction

from saeworks.cost.machine import Neighbours, forget_peak, peak_bytes, resident_bytes

CHECKED_ROWS = 256


def check(trainer: Any, x_BD: torch.Tensor, arch: str, k: int) -> dict[str, Any]:
    """Its reconstruction beside the architecture's definition, at the weights that it has."""
    with torch.no_grad():
        x_BD = x_BD[:CHECKED_ROWS]
        theirs = trainer.forward(x_BD).float()
        plain = reconstruction(arch, trainer.arrays(), x_BD, k, trainer.shifted)
        return {"relative_difference": float((theirs - plain).norm() / plain.norm())}


def main() -> None:
    name, options = sys.argv[1], Options(**json.loads(sys.argv[2]))
    threads, arch, device = int(sys.argv[3]), sys.argv[4], sys.argv[5]
    answers = sys.stdout
    sys.stdout = sys.stderr  # packages that print must not talk into the answers
    torch.set_num_threads(threads)
    on_gpu = torch.device(device).type == "cuda"
    x_BD = torch.randn(options.batch, options.d, generator=torch.Generator().manual_seed(0))
    x_BD = x_BD.to(device)
    trainer = build(name, options, arch, device)

    def steps(number: int) -> float:
        began = perf_counter()
        for _ in range(number):
            trainer.step(x_BD)
        if on_gpu:
            torch.cuda.synchronize()
        return (perf_counter() - began) / number

    forget_peak()
    start = resident_bytes()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "check":
            print(json.dumps(check(trainer, x_BD, arch, options.k)), file=answers, flush=True)
            continue
        neighbours = Neighbours()
        seconds = steps(int(line.split()[1]))
        quiet, reason = neighbours.verdict()
        answer = {
            "seconds": seconds,
            "quiet": quiet,
            "quiet_reason": reason,
            "peak_rss_above_start_bytes": max(0, peak_bytes() - start),
            "rss_at_start_bytes": start,
        }
        if on_gpu:
            answer["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()  # the device is everyone's
        print(json.dumps(answer), file=answers, flush=True)


main()
