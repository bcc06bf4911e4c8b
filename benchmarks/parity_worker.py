"""Train one SAE on cached activations and print its held-out FVU as JSON. Started by parity.py."""

import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from trainers import Options, build

EVALUATION_ROWS = 4096


@torch.no_grad()
def reconstruct(arrays: dict[str, Tensor], k: int, x_BD: Tensor) -> Tensor:
    """x̂ of a TopK SAE, the same code for every trainer."""
    pre_BM = (x_BD - arrays["b_dec"]) @ arrays["W_enc"].mT + arrays["b_enc"]
    top = pre_BM.relu().topk(k, dim=-1)
    f_BM = torch.zeros_like(pre_BM).scatter_(1, top.indices, top.values)
    return f_BM @ arrays["W_dec"] + arrays["b_dec"]


@torch.no_grad()
def main() -> None:
    name, options = sys.argv[1], Options(**json.loads(sys.argv[2]))
    data = Path(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    train = np.load(data / "train.npy", mmap_mode="r")
    held_out = torch.from_numpy(np.load(data / "held_out.npy"))
    trainer = build(name, options)
    began = perf_counter()
    with torch.enable_grad():
        for rows in batches(len(train), options):
            trainer.step(torch.from_numpy(train[rows]))
    seconds = perf_counter() - began
    arrays = {key: value.detach() for key, value in trainer.arrays().items()}
    error, own_error = 0.0, 0.0
    for x_BD in held_out.split(EVALUATION_ROWS):
        x_hat_BD = reconstruct(arrays, options.k, x_BD)
        error += float((x_BD - x_hat_BD).double().pow(2).sum())
        own_error += float((x_BD - trainer.forward(x_BD)).double().pow(2).sum())
    # Not row by row: where two latents tie to rounding, either is right.
    if abs(own_error / error - 1) > 1e-4:
        raise SystemExit(f"{name}: its own forward has another error, {own_error} and not {error}")
    variance = float((held_out - held_out.mean(0)).double().pow(2).sum())
    answer = {"fvu": error / variance, "own_fvu": own_error / variance, "seconds": seconds}
    print(json.dumps(answer), file=answers)


def batches(rows: int, options: Options) -> "list[np.ndarray]":
    """The same rows in the same order for every trainer: epochs shuffled by the seed."""
    generator = np.random.default_rng(options.seed)
    need, order = options.steps * options.batch, []
    while sum(map(len, order)) < need:
        order.append(generator.permutation(rows))
    return list(np.concatenate(order)[:need].reshape(options.steps, options.batch))


main()
