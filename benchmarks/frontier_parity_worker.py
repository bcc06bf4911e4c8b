"""Train one SAE on cached activations and print its held-out FVU and L0 as JSON. Started by
frontier_parity.py, in the environment of the trainer it is given."""

import json
import sys
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from trainers import ROOT  # noqa: F401  (puts src on the path)

EVALUATION_ROWS = 4096


@dataclass(frozen=True)
class Job:
    """One run. The learning rate's warm-up is 5% of the steps and the sparsity's 10%, a threshold
    is estimated from 5% on, the decay is the last 20%, and a latent is dead after a tenth of the
    run, wherever a trainer has such a thing."""

    trainer: str
    arch: str
    d: int
    width: int
    batch: int
    steps: int
    lr: float
    seed: int
    sparsity: float
    """k, target L0 or L1 coefficient: the value of the option `sparsity_option`."""
    sparsity_option: str
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the architecture; none in what is judged."""

    def share(self, part: float) -> int:
        return max(1, round(part * self.steps))

    @property
    def dead_tokens(self) -> int:
        return max(1, self.steps * self.batch // 10)

    def sparsity_setting(self) -> dict[str, Any]:
        whole = self.sparsity_option == "k"
        return {self.sparsity_option: int(self.sparsity) if whole else self.sparsity}


class Trainer(Protocol):
    """Steps on batches, then encodes and decodes as its package does at inference."""

    scale: float
    """What the rows of E‖x‖² = D are multiplied by, for the package's own normalisation."""

    def step(self, x_BD: Tensor) -> None: ...

    def infer(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The code f [B, M] and the reconstruction."""
        ...

    def notes(self) -> dict[str, float]:
        """What the run ended with, for whoever reads the results."""
        ...


class Saeworks:
    """`saeworks.train.step.train_step`, with the trainer's schedule and dead counters."""

    scale = 1.0

    def __init__(self, job: Job) -> None:
        from saeworks.config import TrainConfig
        from saeworks.dictionary.registry import build_sae
        from saeworks.train.optimiser import DictionaryAdam

        self.job = job
        self.config = TrainConfig(tokens=job.steps * job.batch, batch=job.batch, lr=job.lr)
        chosen = {**job.sparsity_setting(), **job.options}
        self.sae = build_sae(job.arch, job.d, width=job.width, **chosen)
        c = self.config
        self.optimiser = DictionaryAdam(self.sae, job.lr, c.betas or self.sae.betas, c.eps, c.clip)
        self.idle_M = torch.zeros(job.width, dtype=torch.int64)
        self.done = 0

    def step(self, x_BD: Tensor) -> None:
        from saeworks.dictionary.base import Batch, Context
        from saeworks.train.schedule import lr_factor
        from saeworks.train.step import train_step

        if self.done == 0:
            self.sae.initialise(x_BD, torch.Generator().manual_seed(self.job.seed))
        dead = (self.idle_M >= self.job.dead_tokens).nonzero().squeeze(1)
        context = Context(dead, self.done / self.job.steps)
        lr = self.job.lr * lr_factor(self.config, self.done)
        out = train_step(self.sae, self.optimiser, Batch(x_BD, x_BD), context, lr)
        self.idle_M = torch.where(out.fired, 0, self.idle_M + len(x_BD))
        self.done += 1
        self.stats = out.stats

    def infer(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        return self.sae.encode(x_BD), self.sae(x_BD)

    def notes(self) -> dict[str, float]:
        return {k: float(v) for k, v in self.stats.items() if v.numel() == 1}


class DictionaryLearning:
    """The trainers of dictionary_learning, `update` by `update` as its `trainSAE` calls them.

    Rows have mean squared norm 1, as its `normalize_activations` makes them and its defaults want.
    """

    def __init__(self, job: Job) -> None:
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.gdm import GatedSAETrainer
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer

        kind = {
            "gated": GatedSAETrainer,
            "jumprelu": JumpReluTrainer,
            "batchtopk": BatchTopKTrainer,
        }[job.arch]
        chosen = {**job.sparsity_setting(), **job.options}
        if job.arch == "batchtopk":
            # Its threshold's average, 0.999, is for runs of some 10^5 steps; here it would lag.
            chosen = {
                "threshold_start_step": job.share(0.05),
                "threshold_beta": 1 - 1 / job.share(0.1),
                **chosen,
            }
        else:
            chosen["sparsity_warmup_steps"] = job.share(0.1)
        torch.manual_seed(job.seed)  # its JumpReLU takes a seed and does nothing with it
        self.scale = 1 / sqrt(job.d)
        self.done = 0
        self.trainer = kind(
            steps=job.steps,
            activation_dim=job.d,
            dict_size=job.width,
            layer=0,
            lm_name="none",
            lr=job.lr,
            warmup_steps=job.share(0.05),
            decay_start=job.steps - job.share(0.2),
            seed=job.seed,
            device="cpu",
            **chosen,
        )
        self.trainer.dead_feature_threshold = job.dead_tokens

    def step(self, x_BD: Tensor) -> None:
        self.trainer.update(self.done, x_BD)
        self.done += 1

    def infer(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        return self.trainer.ae.encode(x_BD), self.trainer.ae(x_BD)

    def notes(self) -> dict[str, float]:
        return {}


def evaluate(trainer: Trainer, held_out: Tensor) -> dict[str, float]:
    """FVU over the rows' own mean, mean L0, and the share of latents that never fire."""
    error, active, variance = 0.0, 0, 0.0
    mean_D = held_out.mean(0)
    fired_M: Tensor | None = None
    for rows_BD in held_out.split(EVALUATION_ROWS):
        x_BD = rows_BD * trainer.scale
        f_BM, x_hat_BD = trainer.infer(x_BD)
        error += float((x_BD - x_hat_BD).double().square().sum())
        variance += float((x_BD - mean_D * trainer.scale).double().square().sum())
        on_BM = f_BM > 0
        active += int(on_BM.sum())
        fired_M = on_BM.any(0) if fired_M is None else fired_M | on_BM.any(0)
    assert fired_M is not None
    return {
        "fvu": error / variance,
        "l0": active / len(held_out),
        "dead": 1 - float(fired_M.float().mean()),
    }


def main() -> None:
    job, data = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # packages may print what they like
    torch.set_num_threads(1)
    train = np.load(data / "train.npy", mmap_mode="r")
    held_out = torch.from_numpy(np.load(data / "held_out.npy"))
    trainer = {"saeworks": Saeworks, "dictionary_learning": DictionaryLearning}[job.trainer](job)
    order = np.random.default_rng(job.seed).permutation(len(train))
    if len(order) < job.steps * job.batch:
        raise SystemExit(f"{len(order)} rows are too few for {job.steps} batches of {job.batch}")
    began = perf_counter()
    for rows in order[: job.steps * job.batch].reshape(job.steps, job.batch):
        trainer.step(torch.from_numpy(train[rows]) * trainer.scale)
    seconds = perf_counter() - began
    with torch.no_grad():
        answer = evaluate(trainer, held_out)
    print(json.dumps({**answer, "seconds": seconds, "notes": trainer.notes()}), file=answers)


main()
