"""The grid of the synthetic test: equal to the closed form and to what is drawn; its inverse."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from audit_arrays import documents
from planted import D, M, Planted, audited, sae_of

import saeforge as sf
from saeforge.eval.audit.arrays import base
from saeforge.eval.audit.measurement import Measurement, Place
from saeforge.eval.audit.synthetic import closed_form_zeroed
from saeforge.eval.audit.zeroing import SHARES, SIGMAS, Zeroed, Zeroing, correlated, curved

TOKENS = 8000


def make(place: Place) -> Sequence[Measurement]:
    return [*base(place), Zeroing(place, TOKENS)]


def section(x_gain: float = 1.0) -> tuple[Zeroing, Planted]:
    planted = Planted.draw(TOKENS)
    strength_M = torch.linspace(0.3, 1.5, M)  # latents of clearly different mean values
    values_NK = planted.values_NK * strength_M[planted.indices_NK]
    planted = Planted(planted.atoms_MD, planted.indices_NK, values_NK)
    noise = 0.3 * torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))
    x_ND = x_gain * planted.x() + noise
    one = audited(x_ND, planted.indices_NK, values_NK, sae_of(planted.atoms_MD), make)
    found = one.measurements["zeroing"]
    assert isinstance(found, Zeroing)
    return found, planted


def test_the_grid_is_the_closed_form() -> None:
    found, planted = section()
    series = found.series()
    assert series["zeroed"] == list(SHARES)
    weak_NK = planted.indices_NK < M // 2
    x_ND = planted.x()
    z_ND = planted.x(planted.values_NK * weak_NK)
    for a, r in ((0, 0), (2, 1), (4, 4)):
        sigmas = SIGMAS[a] * series["unit"], SIGMAS[r] * series["unit"]
        expected = closed_form_zeroed(x_ND - z_ND, z_ND, *sigmas)
        mean = float(z_ND.mean(0).square().sum())
        total = float(x_ND.var(0).sum()) + D * sigmas[0] ** 2
        assert series["fvu"][-1][a][r] == pytest.approx(expected[0] + mean / total, rel=0.03)
        assert series["fvu_nonlinear"][-1][a][r] == pytest.approx(expected[1], rel=0.03)
    assert series["removed"][0] == 0 and series["removed"] == sorted(series["removed"])


def test_without_zeroed_latents_the_noise_is_recovered() -> None:
    series = section()[0].series()
    activation, reconstruction = np.meshgrid(SIGMAS, SIGMAS, indexing="ij")
    np.testing.assert_allclose(series["recovered_activation"][0], activation, atol=1e-4)
    np.testing.assert_allclose(series["recovered_reconstruction"][0], reconstruction, atol=1e-4)
    missing = series["recovered_activation"][-1][0][0]
    assert missing is None or missing > 0.1  # zeroed latents alone pass for noise


def test_metrics_are_the_noise_beside_missing_latents() -> None:
    values = section()[0].fixed()
    assert set(values) == set(Zeroing.metrics)
    activation, reconstruction = values["activation_noise_0"], values["reconstruction_noise_0"]
    assert activation.value is not None and reconstruction.value is not None
    assert activation.value == pytest.approx(0.3**2 * D / 6, rel=0.8)  # of the order of the noise


def test_zeroed_moments_invert_their_closed_form() -> None:
    zeroed = Zeroed(
        np.array([3.0, 1.0, 0.3]), np.array([0.2, 0.05, 0.0]), np.array([0.3, 0.1, 0.01]), 0.5, 0.2
    )
    for a2, r2 in ((0.2, 0.1), (1.0, 0.0), (0.0, 0.3)):
        found = zeroed.recover(*zeroed.fvus(a2, r2))
        assert found is not None
        assert found == pytest.approx((a2**0.5, r2**0.5), abs=1e-4)
    assert zeroed.recover(0.5, 0.5) is None  # z alone has a linear part


def test_a_constant_sae_has_no_grid() -> None:
    planted = Planted.draw(TOKENS)
    nothing = torch.zeros_like(planted.values_NK)
    one = audited(planted.x(), planted.indices_NK, nothing, sae_of(planted.atoms_MD), make)
    assert one.values(0, 0)["zeroing"] == {} and "zeroing" not in one.series()


def test_dense_parts_that_are_no_noise() -> None:
    """Drawn and audited as arrays: a curve, and noise that the reconstruction partly holds."""
    tokens, d = 40_000, 12
    random = torch.Generator().manual_seed(0)
    mix_DD = torch.randn(d, d, generator=random, dtype=torch.float64)
    x_ND = torch.randn(tokens, d, generator=random, dtype=torch.float64) @ mix_DD
    covariance_DD = np.cov(x_ND.numpy().T)
    a2, rank = 0.8, 8
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((d, rank)))
    theta = 2 * torch.pi * torch.rand(tokens, 1, generator=random, dtype=torch.float64)
    angles = theta * torch.arange(1, rank // 2 + 1)
    curve = torch.cat([angles.cos(), angles.sin()], dim=1) * (2 * d * a2 / rank) ** 0.5
    noise = a2**0.5 * torch.randn(tokens, d, generator=random, dtype=torch.float64)
    cases = (
        (x_ND + curve @ torch.from_numpy(basis.T), x_ND, curved(covariance_DD, a2, 0)),
        (x_ND + noise, x_ND + 0.5 * noise, correlated(np.linalg.eigvalsh(covariance_DD), a2)),
    )
    for x, x_hat, expected in cases:
        found = sf.audit(x, x_hat, documents(tokens, 100), resamples=0)
        assert found.fvu == pytest.approx(expected[0], rel=0.02)
        assert found.fvu_nonlinear == pytest.approx(expected[1], rel=0.02)
