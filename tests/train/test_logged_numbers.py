"""What training logs of a step, against the same numbers from raw rows, for every architecture,
kind of normaliser and way in which sites share an SAE."""

from typing import Any, get_args

import pytest
import torch

from helpers.tiny_saes import TINY, D, name, training_code
from saeworks.config import NormaliserKind
from saeworks.dictionary.base import (
    SAE,
    Batch,
    Context,
    StepOut,
)
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.dictionary.site_affine import SiteAffine
from saeworks.train.mixing import View
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

SITES = ("layers.0", "layers.2")
VIEWS: dict[str, tuple[tuple[str, ...], Any]] = {
    "one site": (SITES[:1], "one"),
    "a group, one site of a row": (SITES, "one"),
    "a group, all sites of a row": (SITES, "all"),
}


def raw(rows: int = 90) -> dict[str, torch.Tensor]:
    """Rows of two sites that differ in mean and scale."""
    random = torch.Generator().manual_seed(0)
    return {
        site: (2 + 3 * i) * torch.randn(rows, D, generator=random) + i + 1
        for i, site in enumerate(SITES)
    }


def made(arch: str, view: View, first: Batch) -> SAE | SiteAffine:
    """Its SAE, away from where it starts."""
    sae = build_sae(name(arch), d=D, **TINY[arch])
    sae.share(len(view.sites))
    trained = SiteAffine(sae, len(view.sites)) if view.normaliser == "learnable" else sae
    trained.initialise(first.x, torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    if isinstance(trained, SiteAffine):
        with torch.no_grad():
            trained.shift.normal_(std=0.3)
            trained.log_scale.normal_(std=0.4)
    return trained


def inside(sae: SAE | SiteAffine, batch: Batch) -> tuple[SAE, Batch]:
    """The SAE and the rows as it sees them."""
    if not isinstance(sae, SiteAffine):
        return sae, batch
    site_B = batch.site if batch.site is not None else torch.zeros(len(batch.x), dtype=torch.int64)
    x_BD = (batch.x - sae.shift[site_B]) / sae.log_scale[site_B].exp()[:, None]
    return sae.inner, Batch(x_BD.detach(), x_BD.detach(), batch.site, label=batch.label)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("kind", get_args(NormaliserKind))
@pytest.mark.parametrize("arch", TINY)
def test_logged_numbers_are_those_of_raw_rows(
    arch: str, kind: NormaliserKind, views: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, draw = VIEWS[views]
    x, view = raw(), View(sites, kind, draw)
    frozen = "centre-scale" if kind == "learnable" else kind
    maps = {site: Normaliser.estimate(x[site], frozen) for site in sites}
    batch = view.batch(x, maps, 3)
    if TINY[arch].get("router") == "layer" and batch.site is None:
        batch = Batch(batch.x, batch.target, torch.zeros(len(batch.x), dtype=torch.int64))
    sae = made(arch, view, batch)
    with torch.no_grad():
        inner, own = inside(sae, batch)
        fires = (training_code(inner, own).dense() > 0).sum(1).double().mean().item()
    seen: list[StepOut] = []
    step = sae.step

    def kept(*args: Any) -> StepOut:
        seen.append(step(*args))
        return seen[0]

    monkeypatch.setattr(sae, "step", kept)
    context = Context(torch.empty(0, dtype=torch.int64), 0.5)
    stepped = train_step(sae, DictionaryAdam(sae, 1e-3), batch, context, 1e-3, len(sites))

    x_hat_BD = seen[0].x_hat.detach().double()
    site_B = batch.site if batch.site is not None else torch.zeros(len(batch.x), dtype=torch.int64)
    expected = []
    for index, site in enumerate(sites):
        mean_D, scale = maps[site].mean.double(), maps[site].scale.double()
        target_nD = batch.target[site_B == index].double() * scale + mean_D
        error_nD = x_hat_BD[site_B == index] * scale + mean_D - target_nD
        spread_nD = target_nD - target_nD.mean(0)
        expected.append((error_nD.square().sum() / spread_nD.square().sum()).item())
    assert stepped.stats["fvu"].view(-1).tolist() == pytest.approx(expected, rel=1e-4)
    assert stepped.stats["l0"].item() == pytest.approx(fires, rel=1e-6)
    error_BD = x_hat_BD - batch.target.double()
    mse = error_BD.square().mean().item()
    assert stepped.losses["reconstruction"].item() == pytest.approx(mse, rel=1e-4)
    assert all(stat.numel() in (1, len(sites)) for stat in stepped.stats.values())
