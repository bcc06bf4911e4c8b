"""Held-out FVU of every architecture trained with selection in bf16 beside float32, equal steps.

    .venv/bin/python benchmarks/parity_precision.py   # needs the small real models

Each architecture is trained with each precision and seed on the same rows in the same order; a
seed is of the initialisation and the order. Evaluation is float32 for all. Beside the FVU: how many
tokens have another reconstruction when a trained SAE's step selects in bf16, and how large the
difference is, over the norm of the reconstruction; and the gap in pre-activation between latents
that TopK took and missed, where its sets differ. Runs that are in the output are not repeated.
"""

import argparse
import statistics
import sys
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from parity import REAL, cache
from torch import Tensor
from trainers import ROOT

from saeworks.config import TrainConfig
from saeworks.cost.machine import processor
from saeworks.cost.precision import bf16_share
from saeworks.dictionary.base import SAE, Batch, Context
from saeworks.dictionary.registry import build_sae
from saeworks.dictionary.selection import select_topk
from saeworks.files.access import read_json, write_json
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.schedule import lr_factor
from saeworks.train.step import train_step

PRECISIONS = ("float32", "bf16")
CHANGED = 1e-4
"""Of the reconstruction's norm: a larger difference is no rounding, but another latent."""


def options(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every architecture, with about k active latents."""
    wanted, target = {"k": args.k}, {"target_l0": float(args.k)}
    every = {
        "topk": wanted,
        "batchtopk": wanted,
        "matryoshka": wanted,
        "relu": target,
        "jumprelu": target,
        "gated": target,
        "switch": {**wanted, "experts": 4},
    }
    return {arch: {"width": args.width, **chosen} for arch, chosen in every.items()}


def train(sae: SAE, x_ND: Tensor, seed: int, precision: Any, args: argparse.Namespace) -> float:
    """Seconds of the steps."""
    law = 4 * 2e-4 / sqrt(args.width / 2**14)
    config = TrainConfig(tokens=args.steps * args.batch, batch=args.batch, lr=law)
    optimiser = DictionaryAdam(sae, law, config.betas, config.eps, config.clip)
    order = torch.Generator().manual_seed(1000 + seed)
    idle_M = torch.zeros(args.width, dtype=torch.int64)
    begun = perf_counter()
    for step in range(args.steps):
        x_BD = x_ND[torch.randint(len(x_ND), (args.batch,), generator=order)]
        dead = (idle_M >= config.tokens // 30).nonzero().squeeze(1)
        context = Context(dead, step / args.steps, precision)
        lr = law * lr_factor(config, step)
        fired_M = train_step(sae, optimiser, Batch(x_BD, x_BD), context, lr).fired
        idle_M = torch.where(fired_M, 0, idle_M + args.batch)
    return perf_counter() - begun


@torch.no_grad()
def measured(sae: SAE, held_ND: Tensor) -> dict[str, Any]:
    """Held-out FVU and L0 in float32, and what selection in bf16 changes."""
    error, pairs = 0.0, 0
    for x_BD in held_ND.split(2048):
        code = sae.encode_sparse(x_BD)
        pairs += int((code.values > 0).sum())
        error += float((x_BD - sae.decode(code)).double().square().sum())
    variance = float((held_ND - held_ND.mean(0)).double().square().sum())
    x_BD, none = held_ND[:4096], torch.empty(0, dtype=torch.int64)
    full, low = (
        sae.step(Batch(x_BD, x_BD), Context(none, 1.0, precision)).x_hat
        for precision in ("float32", "bf16")
    )
    change_B = (full - low).norm(dim=1) / full.norm(dim=1)
    return {
        "fvu": error / variance,
        "l0": pairs / len(held_ND),
        "tokens_changed": float((change_B > CHANGED).float().mean()),
        "largest_change": float(change_B.max()),
    }


@torch.no_grad()
def sets(sae: SAE, x_BD: Tensor, k: int) -> dict[str, Any]:
    """Of TopK: tokens whose set of latents differs, and by how much the latents missed are larger
    than those taken instead (in float64, over the deviation of pre-activations)."""
    weights = (sae.w_enc, sae.get_parameter("b_enc"), sae.b_dec)
    z_BM = (x_BD - sae.b_dec).double() @ sae.w_enc.double().T + weights[1].double()
    taken, wanted = (
        torch.zeros(z_BM.shape, dtype=torch.bool).scatter_(1, select[1], True)
        for select in (select_topk(x_BD, *weights, k, p) for p in ("bf16", "float32"))
    )
    missed = torch.where(wanted & ~taken, z_BM, -torch.inf).amax(1)
    instead = torch.where(taken & ~wanted, z_BM, torch.inf).amin(1)
    differs = missed.isfinite()
    gap = (missed - instead)[differs] / z_BM.std()
    return {
        "tokens": len(x_BD),
        "sets_that_differ": int(differs.sum()),
        "largest_gap": float(gap.max()) if len(gap) else 0.0,
    }


def run(key: dict[str, Any], rows: dict[str, Tensor], args: argparse.Namespace) -> dict[str, Any]:
    sae = build_sae(key["arch"], rows["train"].shape[1], **options(args)[key["arch"]])
    random = torch.Generator().manual_seed(key["seed"])
    sae.initialise(rows["train"][: args.batch], random)
    out: dict[str, Any] = dict(key)
    if key["arch"] == "topk":
        out["initial_sets"] = sets(sae, rows["held_out"][:2048], args.k)
    out["seconds"] = train(sae, rows["train"], key["seed"], key["precision"], args)
    if key["arch"] == "topk":
        out["sets"] = sets(sae, rows["held_out"][:2048], args.k)
    return {**out, **measured(sae, rows["held_out"])}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By architecture: both FVUs, and bf16's over float32's, seed by seed."""
    out: dict[str, Any] = {}
    for arch in dict.fromkeys(run["arch"] for run in runs):
        fvu = {
            p: {r["seed"]: r["fvu"] for r in runs if (r["arch"], r["precision"]) == (arch, p)}
            for p in PRECISIONS
        }
        seeds = sorted(fvu["float32"].keys() & fvu["bf16"].keys())
        if seeds:
            ratios = [fvu["bf16"][seed] / fvu["float32"][seed] for seed in seeds]
            of_arch = [run for run in runs if run["arch"] == arch]
            out[arch] = {
                **{p: statistics.mean(fvu[p].values()) for p in PRECISIONS},
                "ratio": {"mean": statistics.mean(ratios), "min": min(ratios), "max": max(ratios)},
                "float32_over_seeds": [min(fvu["float32"].values()), max(fvu["float32"].values())],
                "tokens_changed": max(run["tokens_changed"] for run in of_arch),
                "largest_change": max(run["largest_change"] for run in of_arch),
                "seeds": len(seeds),
            }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=REAL / "tinystories-neox-6L256")
    parser.add_argument("--text", type=Path, default=REAL / "text" / "tinystories_train.txt")
    parser.add_argument("--site", default="layers.2")
    sizes = {"width": 1024, "k": 32, "batch": 1024, "steps": 300, "seeds": 3}
    sizes |= {"rows": 131_072, "held-out": 16_384}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", type=Path, default=ROOT / "runs" / "parity_precision")
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "parity_precision.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one thread: the same bytes however many runs go side by side
    import numpy as np

    d = cache(args.data, args.model, args.text, args.site, args.rows, args.held_out)
    rows = {f: torch.from_numpy(np.load(args.data / f"{f}.npy")) for f in ("train", "held_out")}
    runs = read_json(args.out)["runs"] if args.out.exists() else []
    for seed in range(args.seeds):
        for arch in options(args):
            for precision in PRECISIONS:
                key = {"arch": arch, "precision": precision, "seed": seed}
                if any(key.items() <= r.items() for r in runs):
                    continue
                runs.append(run(key, rows, args))
                last = runs[-1]
                print(
                    f"{arch:12}{precision:9}seed {seed}  FVU {last['fvu']:.4f}  L0 "
                    f"{last['l0']:.1f}  {last['seconds']:.0f} s",
                    file=sys.stderr,
                )
                write_json(
                    args.out,
                    {
                        "command": f"python {Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
                        "date": datetime.now(UTC).isoformat(timespec="seconds"),
                        "processor": processor(),
                        "torch": torch.__version__,
                        "bf16_matmul_over_float32": bf16_share(768, 24576, torch.device("cpu")),
                        "model": args.model.name,
                        "site": args.site,
                        "d": d,
                        **{
                            name.replace("-", "_"): getattr(args, name.replace("-", "_"))
                            for name in sizes
                        },
                        "summary": summary(runs),
                        "runs": runs,
                    },
                )


if __name__ == "__main__":
    main()
