"""One Switch training step beside TopK's and beside computing every expert and masking.

    .venv/bin/python benchmarks/switch.py    # d 768, M 24576, B 8192, k 32; N = 4, 16, 64

`dense-and-mask` is what the public Switch code does (all M pre-activations, a one-hot mask, a dense
decode, autograd, torch's Adam), written anew; its time does not depend on the number of experts.
All arms take turns in one process: topk, switch-4, …, topk, switch-4, …
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from saeworks import build_sae
from saeworks.cost.machine import Neighbours, processor
from saeworks.dictionary.base import Batch, Context
from saeworks.dictionary.stages import measured
from saeworks.files.access import write_json
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

LR, CLIP = 1e-4, 1.0


def our_step(
    arch: str, x_BD: Tensor, options: argparse.Namespace, experts: int
) -> Callable[[], Any]:
    """The trainer's own step."""
    own = {"experts": experts} if experts else {}
    sae = build_sae(arch, options.d, width=options.width, k=options.k, **own)
    sae.initialise(x_BD[:1024].cpu(), torch.Generator().manual_seed(0))
    sae.to(x_BD.device)
    optimiser = DictionaryAdam(sae, lr=LR)
    dead = torch.empty(0, dtype=torch.int64, device=x_BD.device)
    batch, context = Batch(x_BD, x_BD), Context(dead, 0.5)
    return lambda: train_step(sae, optimiser, batch, context, LR)


def dense_and_mask_step(
    x_BD: Tensor, options: argparse.Namespace, experts: int
) -> Callable[[], Any]:
    """Every expert computed, all but one masked."""
    sae = build_sae("switch", options.d, width=options.width, k=options.k, experts=experts)
    sae.initialise(x_BD[:1024].cpu(), torch.Generator().manual_seed(0))
    sae.to(x_BD.device)
    parameters: dict[str, Any] = dict(sae.named_parameters())
    w_enc_MD, w_dec_MD, b_dec_D = (parameters[n] for n in ("w_enc", "w_dec", "b_dec"))
    w_router_ND, b_router_D = parameters["w_router"], parameters["b_router"]
    adam = torch.optim.Adam(parameters.values(), lr=LR)

    def loss() -> Tensor:
        p_BN = ((x_BD - b_router_D) @ w_router_ND.T).softmax(1)
        weight_B, expert_B = p_BN.max(1)
        one_hot_BN = torch.nn.functional.one_hot(expert_B, experts).to(x_BD.dtype)
        z_BM = ((x_BD - b_dec_D) @ w_enc_MD.T).relu()
        masked_BM = (z_BM.view(len(x_BD), experts, -1) * one_hot_BN[:, :, None]).flatten(1)
        top = masked_BM.topk(options.k, dim=1, sorted=False)
        f_BM = torch.zeros_like(masked_BM).scatter(1, top.indices, top.values)
        x_hat_BD = weight_B[:, None] * (f_BM @ w_dec_MD) + b_dec_D
        balance = experts * (one_hot_BN.mean(0) @ p_BN.mean(0))
        return (x_BD - x_hat_BD).square().mean() + 0.03 * balance

    def step() -> None:
        loss().backward()
        with torch.no_grad():
            parallel_M1 = (w_dec_MD.grad * w_dec_MD).sum(1, keepdim=True)
            w_dec_MD.grad.sub_(parallel_M1 * w_dec_MD)
            torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)
            adam.step()
            adam.zero_grad()
            w_dec_MD.div_(w_dec_MD.norm(dim=1, keepdim=True))

    return step


def arms(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    x_BD = torch.randn(options.batch, options.d, generator=torch.Generator().manual_seed(0))
    x_BD = x_BD.to(options.device)
    found = {"topk": our_step("topk", x_BD, options, 0)}
    for n in options.experts:
        found[f"switch-{n}"] = our_step("switch", x_BD, options, n)
    if not options.no_dense:
        experts = options.experts[len(options.experts) // 2]
        found["dense-and-mask"] = dense_and_mask_step(x_BD, options, experts)
    return found


def wait(options: argparse.Namespace) -> None:
    if torch.device(options.device).type == "cuda":
        torch.cuda.synchronize(options.device)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"d": 768, "width": 24576, "k": 32, "batch": 8192, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-dense", action="store_true")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    steps = arms(options)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    others: dict[str, list[str]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            wait(options)
            neighbours, start = Neighbours(), perf_counter()
            step()
            wait(options)
            if number:  # the first round warms up
                seconds[name].append(perf_counter() - start)
                others[name].append(neighbours.verdict()[1])
                print(f"round {number}  {name:15} {seconds[name][-1]:.3f} s", file=sys.stderr)
    results: dict[str, Any] = {}
    for name, step in steps.items():
        median = statistics.median(seconds[name])
        by_round = [t / o for t, o in zip(seconds["topk"], seconds[name], strict=True)]
        results[name] = {
            "tokens_per_second": options.batch / median,
            "seconds_per_step": seconds[name],
            "median": median,
            "times_topk": statistics.median(by_round),
            "neighbours": others[name],
        }
        if name != "dense-and-mask":
            with measured(lambda: wait(options)) as stages:
                step()
            results[name]["stages"] = dict(stages)
    about = {k: v for k, v in vars(options).items() if k != "out"}
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    answer = {
        "options": about,
        "date": datetime.now(UTC).date().isoformat(),
        "processor": name,
        "torch": torch.__version__,
        "results": results,
    }
    print(json.dumps(answer, indent=1))
    if options.out:
        write_json(options.out, answer)


if __name__ == "__main__":
    main()
