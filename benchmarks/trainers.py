"""One training step of saeworks and of its peers, behind one interface.

Every trainer is what its package's own training loop runs per batch, with the package's own loss;
each is imported in its own process, in the environment it lives in (`make peers`).
"""

import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # saeworks itself needs no installation to be imported

PEERS = ("sparsify-signum", "sparsify-adam", "saelens", "saelens-autocast", "dictionary_learning")
NAMES = ("saeworks", "saeworks-bf16", *PEERS)
"""A package, and what of its own settings is different: sparsify's two optimisers (Signum is its
default), SAELens's `autocast` (bf16, off by default)."""
_WITHOUT_SPARSIFY = tuple(name for name in NAMES if not name.startswith("sparsify"))
ARCHS = {"topk": NAMES} | dict.fromkeys(
    ("batchtopk", "jumprelu", "gated", "matryoshka"), _WITHOUT_SPARSIFY
)
"""Architectures, and who trains them."""
LEVELS = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the latents that Matryoshka's levels add, the same for all."""


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


def widths(width: int) -> list[int]:
    """Matryoshka's nested sizes, up to all latents."""
    return [round(width * sum(LEVELS[: level + 1])) for level in range(len(LEVELS))]


class Step(Protocol):
    """A trainer: steps on batches, then hands over its SAE."""

    def step(self, x_BD: Tensor) -> None: ...

    def forward(self, x_BD: Tensor) -> Tensor:
        """The package's own reconstruction, as in training."""
        ...

    def arrays(self) -> dict[str, Tensor]:
        """W_enc [M, D], b_enc [M], W_dec [M, D], b_dec [D] and what the architecture has besides
        (`reconstruction` says what x̂ is of them)."""
        ...


def reconstruction(
    arch: str, arrays: dict[str, Tensor], x_BD: Tensor, k: int, shifted: bool
) -> Tensor:
    """x̂ = W_decᵀ f + b_dec, by the architecture's definition, from the arrays alone.

    With z = W_enc (x − b_dec) + b_enc (x itself where not `shifted`), f is max(z, 0) at the k
    largest of each token (topk) or at the B·k largest of the batch (batchtopk, matryoshka);
    z·[z > θ] (jumprelu); max(exp(r_mag) z' + b_mag, 0)·[z' + b_enc > 0] for z' without b_enc
    (gated).
    """
    u_BM = (x_BD - arrays["b_dec"] if shifted else x_BD) @ arrays["W_enc"].mT
    z_BM = u_BM + arrays["b_enc"]
    if arch == "gated":
        f_BM = (arrays["r_mag"].exp() * u_BM + arrays["b_mag"]).relu() * (z_BM > 0)
    elif arch == "jumprelu":
        f_BM = z_BM * (z_BM > arrays["threshold"])
    else:
        rows_RM = z_BM.relu() if arch == "topk" else z_BM.relu().view(1, -1)
        top = rows_RM.topk(k if arch == "topk" else k * len(x_BD), dim=1)
        f_BM = torch.zeros_like(rows_RM).scatter(1, top.indices, top.values).view_as(z_BM)
    return f_BM @ arrays["W_dec"] + arrays["b_dec"]


class Saeworks:
    """`saeworks.train.step.train_step`, with the trainer's schedule and dead counters.

    A ReLU-like SAE starts with k active latents per token, as it is trained to have: what its step
    costs depends on it. The peers compute densely, whatever L0 is.
    """

    shifted = True

    def __init__(self, o: Options, arch: str, device: str, precision: str) -> None:
        from saeworks.config import TrainConfig
        from saeworks.dictionary.registry import build_sae
        from saeworks.train.optimiser import DictionaryAdam

        self.o, self.arch, self.device = o, arch, torch.device(device)
        self.precision: Any = precision
        self.config = TrainConfig(tokens=o.steps * o.batch, batch=o.batch, lr=o.lr)
        own: dict[str, Any] = {"gated": {}, "jumprelu": {"subtract_b_dec": True}}.get(
            arch, {"k": o.k}
        )
        if arch == "matryoshka":
            own["sizes"] = tuple(widths(o.width))
        self.sae = build_sae(arch, o.d, width=o.width, **own)
        self.optimiser: Any = None
        self.make_optimiser = partial(
            DictionaryAdam, self.sae, o.lr, self.config.betas, self.config.eps, self.config.clip
        )
        self.idle_M = torch.zeros(o.width, dtype=torch.int64, device=self.device)
        self.done = 0

    def _start(self, x_BD: Tensor) -> None:
        cpu_BD = x_BD[:1024].cpu()
        self.sae.initialise(cpu_BD, torch.Generator().manual_seed(self.o.seed))
        if self.sae.gate:
            with torch.no_grad():
                z_BM = cpu_BD @ self.sae.w_enc.mT
                self.sae.get_parameter(self.sae.gate).fill_(
                    -float(z_BM.flatten().topk(self.o.k * len(z_BM)).values[-1])
                )
        self.sae.to(self.device)
        self.optimiser = self.make_optimiser()

    def step(self, x_BD: Tensor) -> None:
        from saeworks.dictionary.base import Batch, Context
        from saeworks.train.schedule import lr_factor
        from saeworks.train.step import train_step

        if self.done == 0:
            self._start(x_BD)
        dead = (self.idle_M >= self.o.dead_tokens).nonzero().squeeze(1)
        context = Context(dead, self.done / self.o.steps, self.precision)
        lr = self.o.lr * lr_factor(self.config, min(self.done, self.o.steps - 1))
        out = train_step(self.sae, self.optimiser, Batch(x_BD, x_BD), context, lr)
        self.idle_M = torch.where(out.fired, 0, self.idle_M + len(x_BD))
        self.done += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        from saeworks.dictionary.base import Batch, Context

        dead = torch.empty(0, dtype=torch.int64, device=self.device)
        return self.sae.step(Batch(x_BD, x_BD), Context(dead, 0.5, self.precision)).x_hat

    def arrays(self) -> dict[str, Tensor]:
        names = {
            "W_enc": "w_enc",
            "b_enc": "b_gate" if self.arch == "gated" else "b_enc",
            "W_dec": "w_dec",
            "b_dec": "b_dec",
            "r_mag": "r_mag",
            "b_mag": "b_mag",
            "threshold": "threshold",
        }
        has = dict(self.sae.named_parameters()) | dict(self.sae.named_buffers())
        return {name: has[own] for name, own in names.items() if own in has}


class Sparsify:
    """The body of `sparsify.trainer.Trainer.fit` for one SAE, without its language model.

    Its default optimiser is schedule-free Signum; `adam` is its other one. AuxK is off, as it is
    by default.
    """

    shifted = True

    def __init__(self, o: Options, optimiser: str, device: str) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.set_float32_matmul_precision("high")  # as its `fit` does
        torch.manual_seed(o.seed)
        self.sae = SparseCoder(o.d, SparseCoderConfig(num_latents=o.width, k=o.k), device)
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
        self.idle_M = torch.zeros(o.width, dtype=torch.int64, device=device)
        self.first = True

    def step(self, x_BD: Tensor) -> None:
        sae = self.sae
        if self.first:
            sae.b_dec.data = x_BD.mean(0)
            self.first = False
        sae.set_decoder_norm_to_unit_norm()
        variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = sae(x=x_BD, y=x_BD, dead_mask=None, total_variance=variance)
        fired_M = torch.zeros_like(self.idle_M, dtype=torch.bool)
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
    """`sae_lens.training.sae_trainer.SAETrainer.step` on one of its training SAEs."""

    shifted = True

    def __init__(self, o: Options, arch: str, device: str, autocast: bool) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(o.seed)
        self.arch = arch
        kind = "matryoshka_batchtopk" if arch == "matryoshka" else arch
        sae_class, config_class = get_sae_training_class(kind)
        own: dict[str, Any] = {} if arch in ("gated", "jumprelu") else {"k": o.k}
        if arch == "matryoshka":
            own["matryoshka_widths"] = widths(o.width)
        self.sae = sae_class(config_class(d_in=o.d, d_sae=o.width, device=device, **own))
        config = SAETrainerConfig(
            total_training_samples=o.steps * o.batch,
            train_batch_size_samples=o.batch,
            lr=o.lr,
            lr_end=0.0,
            lr_warm_up_steps=o.warmup,
            lr_decay_steps=o.decay,
            dead_feature_window=max(1, o.dead_tokens // o.batch),
            device=device,
            autocast=autocast,
        )
        self.trainer = SAETrainer(config, self.sae, data_provider=iter(()))

    def step(self, x_BD: Tensor) -> None:
        self.trainer.step(x_BD)
        self.trainer.n_training_steps += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.sae(x_BD)

    def arrays(self) -> dict[str, Tensor]:
        """TopK and its kin have no decoder rows of norm 1: they select by pre-activation × norm."""
        s = self.sae
        rescaled = getattr(s.cfg, "rescale_acts_by_decoder_norm", False)
        norm_M = s.W_dec.norm(dim=-1) if rescaled else torch.ones_like(s.W_dec[:, 0])
        out = {
            "W_enc": s.W_enc.mT * norm_M[:, None],
            "b_enc": (s.b_gate if self.arch == "gated" else s.b_enc) * norm_M,
            "W_dec": s.W_dec / norm_M[:, None],
            "b_dec": s.b_dec,
        }
        return out | {n: getattr(s, n) for n in ("r_mag", "b_mag", "threshold") if hasattr(s, n)}


class DictionaryLearning:
    """`update` of the trainers in `dictionary_learning.trainers`."""

    def __init__(self, o: Options, arch: str, device: str) -> None:
        from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, top_k
        from dictionary_learning.trainers import matryoshka_batch_top_k as matryoshka

        steps = max(o.steps, 4)
        warmup = min(o.warmup, steps - o.decay - 2)
        selecting = {"k": o.k, "threshold_start_step": o.warmup}
        kind, own = {
            "topk": (top_k.TopKTrainer, selecting),
            "batchtopk": (batch_top_k.BatchTopKTrainer, selecting),
            "matryoshka": (
                matryoshka.MatryoshkaBatchTopKTrainer,
                {**selecting, "group_fractions": list(LEVELS)},
            ),
            "jumprelu": (
                jumprelu.JumpReluTrainer,
                {"target_l0": float(o.k), "sparsity_warmup_steps": o.warmup},
            ),
            "gated": (gdm.GatedSAETrainer, {"sparsity_warmup_steps": o.warmup}),
        }[arch]
        self.arch, self.shifted = arch, arch != "jumprelu"
        self.trainer = kind(
            steps=steps,
            activation_dim=o.d,
            dict_size=o.width,
            layer=0,
            lm_name="none",
            lr=o.lr,
            warmup_steps=warmup,
            decay_start=steps - max(1, o.decay),
            seed=o.seed,
            device=device,
            **own,
        )
        self.trainer.dead_feature_threshold = o.dead_tokens
        self.done = 0

    def step(self, x_BD: Tensor) -> None:
        self.trainer.update(self.done, x_BD)
        self.done += 1

    def forward(self, x_BD: Tensor) -> Tensor:
        """Its `forward` has the threshold of inference where training selects over the batch."""
        ae = self.trainer.ae
        if self.arch in ("batchtopk", "matryoshka"):
            return ae.decode(ae.encode(x_BD, use_threshold=False))
        return ae(x_BD)

    def arrays(self) -> dict[str, Tensor]:
        a = self.trainer.ae
        if self.arch in ("jumprelu", "matryoshka"):
            out = {"W_enc": a.W_enc.mT, "b_enc": a.b_enc, "W_dec": a.W_dec, "b_dec": a.b_dec}
            return out | ({"threshold": a.threshold} if self.arch == "jumprelu" else {})
        out = {"W_enc": a.encoder.weight, "W_dec": a.decoder.weight.mT}
        if self.arch == "gated":
            names = {"b_enc": "gate_bias", "b_dec": "decoder_bias", "b_mag": "mag_bias"}
            own = {name: getattr(a, attribute) for name, attribute in names.items()}
            return out | own | {"r_mag": a.r_mag}
        return out | {"b_enc": a.encoder.bias, "b_dec": a.b_dec}


def build(name: str, options: Options, arch: str = "topk", device: str = "cpu") -> Any:
    """The trainer (`Step`) of a name in NAMES."""
    package, _, variant = name.partition("-")
    if package == "saeworks":
        return Saeworks(options, arch, device, variant or "float32")
    if package == "sparsify":
        return Sparsify(options, variant, device)
    if package == "saelens":
        return SaeLens(options, arch, device, variant == "autocast")
    return DictionaryLearning(options, arch, device)


def python_of(name: str) -> str:
    """The interpreter of the environment a trainer lives in: ours, or that of `make peers`, unless
    ours has the peer, too."""
    if name.startswith("saeworks"):
        return sys.executable
    path = ROOT / ".venv-peers" / "bin" / "python"
    if path.exists():
        return str(path)
    package = name.partition("-")[0]
    if importlib.util.find_spec({"saelens": "sae_lens"}.get(package, package)):
        return sys.executable
    raise SystemExit(f"{name} needs .venv-peers: run `make peers`")
