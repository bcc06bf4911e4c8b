"""One training step of saeworks and of its peers, behind one interface.

Every trainer is what its package's own training loop runs per batch, with the package's own loss;
each is imported in its own process, in the environment it lives in (`make peers`).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # saeworks itself needs no installation to be imported

PEERS = ("sparsify-signum", "sparsify-adam", "saelens", "dictionary_learning")
NAMES = ("saeworks", *PEERS)


@dataclass(frozen=True)
class Options:
    """What all trainers share. Warm-up is 5% of the steps and the decay the last 20%, for all of
    those that have them; a latent is dead after a tenth of the run."""

    d: int
    width: int
    k: int
    batch: int
    steps: int
    lr: float
    seed: int = 0

    @property
    def warmup(self) -> int:
        return max(1, round(0.05 * self.steps))

    @property
    def decay(self) -> int:
        return round(0.2 * self.steps)

    @property
    def dead_tokens(self) -> int:
        return max(1, min(10_000_000, self.steps * self.batch // 10))


class Step(Protocol):
    """A trainer: steps on batches, then hands over its SAE."""

    def step(self, x_BD: Tensor) -> None: ...

    def forward(self, x_BD: Tensor) -> Tensor:
        """The package's own reconstruction."""
        ...

    def arrays(self) -> dict[str, Tensor]:
        """W_enc [M, D], b_enc [M], W_dec [M, D], b_dec [D], such that
        x̂ = W_decᵀ · topk(ReLU(W_enc (x − b_dec) + b_enc)) + b_dec."""
        ...


class Saeworks:
    """`saeworks.train.step.train_step`, with the trainer's schedule and dead counters."""

    def __init__(self, o: Options) -> None:
        from saeworks.config import TrainConfig
        from saeworks.dictionary.registry import build_sae
        from saeworks.train.optimiser import DictionaryAdam

        self.o = o
        self.config = TrainConfig(tokens=o.steps * o.batch, batch=o.batch, lr=o.lr)
        self.sae = build_sae("topk", o.d, width=o.width, k=o.k)
        c = self.config
        self.optimiser = DictionaryAdam(self.sae, o.lr, c.betas, c.eps, c.clip)
        self.idle_M = torch.zeros(o.width, dtype=torch.int64)
        self.done = 0

    def step(self, x_BD: Tensor) -> None:
        from saeworks.dictionary.base import Batch, Context
        from saeworks.train.schedule import lr_factor
        from saeworks.train.step import train_step

        if self.done == 0:
            self.sae.initialise(x_BD, torch.Generator().manual_seed(self.o.seed))
        dead = (self.idle_M >= self.o.dead_tokens).nonzero().squeeze(1)
        context = Context(dead, self.done / self.o.steps)
        lr = self.o.lr * lr_factor(self.config, min(self.done, self.o.steps - 1))
        out = train_step(self.sae, self.optimiser, Batch(x_BD, x_BD), context, lr)
        self.idle_M = torch.where(out.fired, 0, self.idle_M + len(x_BD))
        self.done += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.sae(x_BD)

    def arrays(self) -> dict[str, Tensor]:
        s = self.sae
        return {"W_enc": s.w_enc, "b_enc": s.b_enc, "W_dec": s.w_dec, "b_dec": s.b_dec}


class Sparsify:
    """The body of `sparsify.trainer.Trainer.fit` for one SAE, without its language model.

    Its default optimiser is schedule-free Signum; `adam` is its other one. AuxK is off, as it is
    by default.
    """

    def __init__(self, o: Options, optimiser: str) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(o.seed)
        self.sae = SparseCoder(o.d, SparseCoderConfig(num_latents=o.width, k=o.k))
        self.scheduler = None
        if optimiser == "signum":
            from schedulefree import ScheduleFreeWrapper
            from sparsify.sign_sgd import SignSGD

            groups = [{"params": self.sae.parameters(), "lr": o.lr}]
            self.optimiser = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
            self.optimiser.train()
        else:
            from transformers import get_linear_schedule_with_warmup

            self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=o.lr)
            self.scheduler = get_linear_schedule_with_warmup(self.optimiser, o.warmup, o.steps)
        self.idle_M = torch.zeros(o.width, dtype=torch.int64)
        self.first = True

    def step(self, x_BD: Tensor) -> None:
        sae = self.sae
        if self.first:
            sae.b_dec.data = x_BD.mean(0)
            self.first = False
        sae.set_decoder_norm_to_unit_norm()
        variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = sae(x=x_BD, y=x_BD, dead_mask=None, total_variance=variance)
        fired_M = torch.zeros(self.idle_M.shape, dtype=torch.bool)
        fired_M[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()
        self.idle_M += len(x_BD)
        self.idle_M[fired_M] = 0

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.sae(x_BD).sae_out

    def arrays(self) -> dict[str, Tensor]:
        s = self.sae
        return {
            "W_enc": s.encoder.weight,
            "b_enc": s.encoder.bias,
            "W_dec": s.W_dec,
            "b_dec": s.b_dec,
        }


class SaeLens:
    """`sae_lens.training.sae_trainer.SAETrainer.step` on its TopK training SAE."""

    def __init__(self, o: Options) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(o.seed)
        self.sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=o.d, d_sae=o.width, k=o.k))
        config = SAETrainerConfig(
            total_training_samples=o.steps * o.batch,
            train_batch_size_samples=o.batch,
            lr=o.lr,
            lr_end=0.0,
            lr_warm_up_steps=o.warmup,
            lr_decay_steps=o.decay,
            dead_feature_window=max(1, o.dead_tokens // o.batch),
        )
        self.trainer = SAETrainer(config, self.sae, data_provider=iter(()))

    def step(self, x_BD: Tensor) -> None:
        self.trainer.step(x_BD)
        self.trainer.n_training_steps += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.sae(x_BD)

    def arrays(self) -> dict[str, Tensor]:
        """Its decoder's rows are not of norm 1: it selects by pre-activation × norm."""
        s = self.sae
        norm_M = s.W_dec.norm(dim=-1)
        return {
            "W_enc": s.W_enc.mT * norm_M[:, None],
            "b_enc": s.b_enc * norm_M,
            "W_dec": s.W_dec / norm_M[:, None],
            "b_dec": s.b_dec,
        }


class DictionaryLearning:
    """`dictionary_learning.trainers.top_k.TopKTrainer.update`."""

    def __init__(self, o: Options) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.trainer = TopKTrainer(
            steps=max(o.steps, 4),
            activation_dim=o.d,
            dict_size=o.width,
            k=o.k,
            layer=0,
            lm_name="none",
            lr=o.lr,
            warmup_steps=min(o.warmup, max(o.steps, 4) - o.decay - 2),
            decay_start=max(o.steps, 4) - max(1, o.decay),
            threshold_start_step=o.warmup,
            seed=o.seed,
            device="cpu",
        )
        self.trainer.dead_feature_threshold = o.dead_tokens
        self.done = 0

    def step(self, x_BD: Tensor) -> None:
        self.trainer.update(self.done, x_BD)
        self.done += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.trainer.ae(x_BD)

    def arrays(self) -> dict[str, Tensor]:
        a = self.trainer.ae
        return {
            "W_enc": a.encoder.weight,
            "b_enc": a.encoder.bias,
            "W_dec": a.decoder.weight.mT,
            "b_dec": a.b_dec,
        }


def build(name: str, options: Options) -> Step:
    """A trainer by its name in NAMES."""
    if name.startswith("sparsify-"):
        return Sparsify(options, name.removeprefix("sparsify-"))
    return {
        "saeworks": Saeworks,
        "saelens": SaeLens,
        "dictionary_learning": DictionaryLearning,
    }[name](options)


def python_of(name: str) -> str:
    """The interpreter of the environment a trainer lives in."""
    folder = ".venv-peers" if name in PEERS else ".venv"
    path = ROOT / folder / "bin" / "python"
    if not path.exists():
        raise SystemExit(
            f"{name} needs {folder}: run `make {'peers' if name in PEERS else 'test'}`"
        )
    return str(path)
