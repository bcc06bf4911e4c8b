"""Random directions that are not trained: baselines of every architecture."""

from dataclasses import replace

import pytest
import torch

from helpers.tiny_saes import TINY, build, context, loss, rows
from saeworks.dictionary.base import FROZEN, SAE, Batch
from saeworks.dictionary.site_affine import SiteAffine
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step


def frozen(arch: str, part: str) -> SAE:
    whole = build(arch)
    sae = type(whole)(whole.d, replace(whole.config, frozen=part))
    sae.load_state_dict(whole.state_dict())
    return sae


def batch(arch: str) -> Batch:
    x = rows(64)
    label = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, x, site=label, label=label)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("arch", TINY)
def test_what_is_frozen_stays_and_all_else_has_the_same_gradient(arch: str, part: str) -> None:
    whole, sae = build(arch), frozen(arch, part)
    (name,) = FROZEN[part]
    optimiser = DictionaryAdam(sae, 1e-2)
    assert name not in optimiser.state_dict() and f"exp_avg.{name}" not in optimiser.state_dict()
    for each in (whole, sae):
        loss(each.step(batch(arch), context(each, dead=3))).backward()
    gradient = {key: parameter.grad for key, parameter in whole.named_parameters()}
    assert dict(sae.named_parameters())[name].grad is None
    for key, parameter in sae.named_parameters():
        if key != name and gradient[key] is not None:
            torch.testing.assert_close(parameter.grad, gradient[key])
    optimiser.zero_grad()
    before = {key: parameter.clone() for key, parameter in sae.named_parameters()}
    for _ in range(3):
        train_step(sae, optimiser, batch(arch), context(sae, dead=3), 1e-2)
    moved = {key for key, value in sae.named_parameters() if not torch.equal(value, before[key])}
    assert name not in moved and {"w_enc", "w_dec"} - {name} <= moved


def test_a_learnable_normaliser_around_a_frozen_decoder() -> None:
    sae = SiteAffine(frozen("topk", "decoder"), 1)
    optimiser = DictionaryAdam(sae, 1e-2)
    before = sae.inner.w_dec.clone()
    train_step(sae, optimiser, batch("topk"), context(sae.inner), 1e-2)
    assert torch.equal(sae.inner.w_dec, before)
    assert sae.shift.abs().sum() > 0
