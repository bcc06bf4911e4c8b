"""Training finds a dictionary that is known, whatever the architecture."""

from pathlib import Path

import pytest
import torch

from helpers.synthetic import SyntheticSource
from saeworks import ARCHS
from saeworks.config import BufferConfig, TrainConfig
from saeworks.train.trainer import Trainer
from saeworks.train.variants import build_members, expand_variants, suite_dirs

D, FEATURES, ACTIVE, WIDTH = 48, 96, 3, 192
BATCH, STEPS = 256, 500

RUNS = [
    ("topk", {"k": ACTIVE}, 1e-2),
    ("batchtopk", {"k": ACTIVE}, 1e-2),
    # prefixes below the number of directions could not but blend them
    ("matryoshka", {"k": ACTIVE, "sizes": [FEATURES, WIDTH]}, 1e-2),
    # a short run: the coefficient has to rise slowly for the controller to follow
    ("relu", {"target_l0": 3.0, "sparsity_warmup": 0.3}, 2e-2),
    ("gated", {"target_l0": 3.0}, 1e-2),
    # each expert needs every direction that its tokens have
    ("switch", {"k": ACTIVE, "experts": 2}, 1e-2),
    ("jumprelu", {"target_l0": 3.0, "bandwidth": 0.05, "threshold": 0.05}, 1e-2),
]
"""Architecture, options and learning rate, which is high since the runs are short."""


def test_every_architecture_has_a_run():
    assert {arch for arch, _, _ in RUNS} == set(ARCHS)


@pytest.mark.parametrize(("arch", "options", "lr"), RUNS, ids=[run[0] for run in RUNS])
def test_at_least_90_percent_of_the_directions_are_found(arch, options, lr, tmp_path: Path):
    config = TrainConfig(tokens=BATCH * STEPS, batch=BATCH, lr=lr, checkpoint_every=0)
    source = SyntheticSource(BATCH, d=D, features=FEATURES, active=ACTIVE)
    variants = expand_variants([{"arch": arch, "width": WIDTH, **options}], source.planes)
    members = build_members(variants, source.planes)
    trainer = Trainer(
        members,
        source,
        config,
        seed=0,
        run_dir=tmp_path,
        suite_dirs=suite_dirs(variants, tmp_path),
        identity={},
        buffer=BufferConfig(),
        say=lambda line: None,
    )
    assert trainer.run() == "finished"
    sae = members[0].sae
    w_MD = sae.w_dec.detach()
    norm_M = w_MD.norm(dim=1)
    if "w_dec" in sae.unit_norm:
        assert torch.allclose(norm_M, torch.ones(WIDTH), atol=1e-5)  # also after the last step
    cosine_F = (source.dictionary @ (w_MD / norm_M.clamp_min(1e-9).unsqueeze(1)).T).amax(1)
    occurring = source.frequencies * config.tokens > 1
    assert (cosine_F[occurring] > 0.95).float().mean().item() >= 0.9
    x_BD = torch.cat([next(source).x["synthetic"] for _ in range(8)])
    f_BM = sae.encode(trainer.normalisers["centre-scale"]["synthetic"].normalise(x_BD))
    assert (f_BM > 0).sum(1).float().mean().item() == pytest.approx(ACTIVE, rel=0.05)
