"""AuxK over a short run: what it is for is fewer dead latents, and it must not make more."""

import pytest
import torch

from saeworks import build_sae
from saeworks.config import TrainConfig
from saeworks.dictionary.base import Batch, Context
from saeworks.train import schedule
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

D, FEATURES, WIDTH, K, ROWS, STEPS = 24, 400, 512, 4, 256, 240


def features() -> torch.Tensor:
    """Sparse sums of unit vectors, E‖x‖² = D: rows of a whole run."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(FEATURES, D, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    often = 0.3 / torch.arange(1, FEATURES + 1)
    active = torch.rand(ROWS * STEPS, FEATURES, generator=generator) < often
    x = (active * torch.rand(active.shape, generator=generator)) @ vectors
    x = x - x.mean(0)
    return x * (D / x.square().sum(1).mean()).sqrt()


def dead_share(arch: str, aux_coefficient: float, **options: int) -> float:
    config = TrainConfig(tokens=ROWS * STEPS, batch=ROWS)
    sae = build_sae(arch, D, width=WIDTH, k=K, aux_coefficient=aux_coefficient, **options)
    x_SBD = features().view(STEPS, ROWS, D)
    sae.initialise(x_SBD[0], torch.Generator().manual_seed(0))
    optimiser = DictionaryAdam(sae, schedule.base_lr(config, WIDTH), config.betas, config.eps)
    idle_M = torch.zeros(WIDTH, dtype=torch.int64)
    for step, x_BD in enumerate(x_SBD):
        dead = (idle_M >= schedule.dead_threshold(config)).nonzero().squeeze(1)
        lr = schedule.base_lr(config, WIDTH) * schedule.lr_factor(config, step)
        context = Context(dead, step / STEPS)
        done = train_step(sae, optimiser, Batch(x_BD, x_BD), context, lr)
        idle_M.add_(ROWS).masked_fill_(done.fired, 0)
    fired_M = torch.zeros(WIDTH, dtype=torch.bool)
    for x_BD in x_SBD:
        code = sae.encode_sparse(x_BD)
        fired_M[code.indices[code.values > 0]] = True
    return 1 - fired_M.float().mean().item()


@pytest.mark.parametrize(("arch", "options"), [("topk", {}), ("switch", {"experts": 4})])
def test_auxk_halves_the_dead_of_a_short_run(arch: str, options: dict[str, int]) -> None:
    without = dead_share(arch, 0.0, **options)
    assert without > 0.02
    assert dead_share(arch, 1 / 32, **options) < without / 2
