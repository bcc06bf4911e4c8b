"""One trainer in its own process: answers each line `step N` on stdin with a line of JSON.

Started by step.py, never by hand.
"""

import json
import sys
from time import perf_counter

import torch
from trainers import Options, build

from saeworks.cost.machine import (
    Neighbours,
    forget_peak,
    peak_bytes,
    resident_bytes,
)


def main() -> None:
    name, options, threads = sys.argv[1], Options(**json.loads(sys.argv[2])), int(sys.argv[3])
    answers = sys.stdout
    sys.stdout = sys.stderr  # packages that print must not talk into the answers
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(options.batch, options.d, generator=generator)
    trainer = build(name, options)
    forget_peak()
    start = resident_bytes()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        steps = int(line.split()[1])
        neighbours = Neighbours()
        began = perf_counter()
        for _ in range(steps):
            trainer.step(x_BD)
        seconds = (perf_counter() - began) / steps
        quiet, reason = neighbours.verdict()
        answer = {
            "seconds": seconds,
            "quiet": quiet,
            "quiet_reason": reason,
            "peak_rss_above_start_bytes": max(0, peak_bytes() - start),
            "rss_at_start_bytes": start,
        }
        print(json.dumps(answer), file=answers, flush=True)


main()
