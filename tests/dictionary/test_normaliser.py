"""The per-site affine map."""

import pytest
import torch

from saeworks.dictionary.normaliser import Normaliser
from saeworks.errors import UserError


def raw(rows=20_000, d=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, d, generator=generator) * torch.arange(1, d + 1) * 7 + 30


def test_centre_scale_gives_mean_zero_and_squared_norm_d():
    x = raw()
    z = Normaliser.estimate(x, "centre-scale").normalise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.square().sum(1).mean(), torch.tensor(6.0))


def test_scale_only_keeps_the_direction_of_the_mean():
    x = raw()
    normaliser = Normaliser.estimate(x, "scale-only")
    assert torch.equal(normaliser.mean, torch.zeros(6))
    torch.testing.assert_close(normaliser.normalise(x).square().sum(1).mean(), torch.tensor(6.0))


def test_none_is_the_identity():
    x = raw(10)
    for normaliser in (Normaliser.estimate(x, "none"), Normaliser.identity(6)):
        assert torch.equal(normaliser.normalise(x), x)


def test_denormalise_undoes_normalise():
    x = raw(100)
    normaliser = Normaliser.estimate(x)
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(x)), x)


def test_sums_are_exact_far_from_zero():
    """In float32 the variance of 1e6 + noise would be lost."""
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)) + 10_000
    assert abs(Normaliser.estimate(x).scale.item() - 1) < 0.02


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.ones(5, 3), torch.full((2, 3), torch.inf)])
def test_unusable_activations_are_refused(x):
    with pytest.raises(UserError, match="normaliser"):
        Normaliser.estimate(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_comes_in_and_at_least_float32_goes_out(dtype):
    x = raw(200).to(dtype)
    normaliser = Normaliser.estimate(x)
    assert normaliser.mean.dtype == normaliser.scale.dtype == torch.float32
    wide = torch.promote_types(dtype, torch.float32)
    for apply in (normaliser.normalise, normaliser.denormalise):
        assert apply(x).dtype == wide
        assert torch.equal(apply(x), apply(x.to(wide)))
