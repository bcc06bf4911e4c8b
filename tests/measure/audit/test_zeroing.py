"""The grid of the synthetic test: equal to the closed form and to what is drawn; its inverse."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch

import saeworks as sw
from helpers.audit_arrays import documents
from helpers.noise_forms import closed_form_zeroed
from helpers.planted import D, M, Planted, audited, sae_of
from saeworks.measure.audit import folds
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.zeroing import (
    SHARES,
    SIGMAS,
    Zeroed,
    Zeroing,
    correlated,
    curved,
)

TOKENS, MANY = 8000, 200_000


def make(place: Place) -> Sequence[Measurement]:
    return [*base(place), Zeroing(place, TOKENS)]


@cache
def section() -> tuple[Zeroing, Planted]:
    planted = Planted.draw(MANY)
    strength_M = torch.linspace(0.3, 1.5, M)  # latents of clearly different mean values
    values_NK = planted.values_NK * strength_M[planted.indices_NK]
    planted = Planted(planted.atoms_MD, planted.indices_NK, values_NK)
    noise = 0.3 * torch.randn(MANY, D, generator=torch.Generator().manual_seed(1))
    sae = sae_of(planted.atoms_MD)
    one = audited(
        planted.x() + noise, planted.indices_NK, values_NK, sae, lambda p: [Zeroing(p, MANY)], 0
    )
    found = one.measurements["zeroing"]
    assert isinstance(found, Zeroing)
    return found, planted


def test_the_grid_is_the_closed_form() -> None:
    """Within 1%, at a fold of 50,000 tokens."""
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
        assert series["fvu"][-1][a][r] == pytest.approx(expected[0] + mean / total, rel=0.01)
        assert series["fvu_nonlinear"][-1][a][r] == pytest.approx(expected[1], rel=0.01)
    assert series["removed"][0] == 0 and series["removed"] == sorted(series["removed"])


def test_without_zeroed_latents_the_noise_is_recovered() -> None:
    """But for what fitting on one fold costs on the other."""
    series = section()[0].series()
    activation, reconstruction = np.meshgrid(SIGMAS, SIGMAS, indexing="ij")
    np.testing.assert_allclose(series["recovered_activation"][0], activation, atol=2e-3)
    recovered = np.square(series["recovered_reconstruction"][0])
    np.testing.assert_allclose(recovered, np.square(reconstruction), atol=2e-3)
    missing = series["recovered_activation"][-1][0][0]
    assert missing is None or missing > 0.1  # zeroed latents alone pass for noise


def test_metrics_are_the_noise_beside_missing_latents() -> None:
    values = section()[0].fixed()
    assert set(values) == set(Zeroing.metrics)
    activation, reconstruction = values["activation_noise_0"], values["reconstruction_noise_0"]
    assert activation.value is not None and reconstruction.value is not None
    assert activation.value == pytest.approx(0.3**2 * D / 6, rel=0.8)  # of the order of the noise


def test_zeroed_moments_invert_their_closed_form() -> None:
    t_DD, c_DD = np.diag([3.0, 1.0, 0.3]), np.diag([0.3, 0.1, 0.01]) + 0.05
    p_DD, r_DD = c_DD @ c_DD.T, c_DD + c_DD.T
    zeroed = Zeroed(
        t_DD.diagonal(),
        (t_DD * p_DD, t_DD * r_DD),
        (t_DD.diagonal(), p_DD.diagonal(), r_DD.diagonal()),
        (p_DD.diagonal(), r_DD.diagonal()),
        total=4.3,
        own=0.5,
        mean=0.2,
    )
    for a2, r2 in ((0.2, 0.1), (1.0, 0.0), (0.0, 0.3)):
        found = zeroed.recover(*zeroed.fvus(a2, r2))
        assert found is not None
        assert found == pytest.approx((a2**0.5, r2**0.5), abs=1e-4)
    assert zeroed.recover(0.5, 0.5) is None  # z alone has a linear part


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_the_grid_is_held_out(sigma: float) -> None:
    """On few tokens, equal to least squares on those of the second fold, measured on the test fold;
    with noise in the activation, to the ridge that noise is."""
    count, planted = 120, Planted.draw(TOKENS)
    x_hat, z = planted.x().double(), planted.x(planted.values_NK * (planted.indices_NK < M // 2))
    one = audited(
        planted.x() + 0.1,
        planted.indices_NK,
        planted.values_NK * torch.where(planted.indices_NK < M // 2, 0.5, 1.0),
        sae_of(planted.atoms_MD),
        lambda place: [Zeroing(place, count)],
    )
    left_ND, out_ND = (x_hat - 0.5 * z).numpy(), 0.5 * z.double().numpy()  # of the weakest half
    found = one.measurements["zeroing"]
    assert isinstance(found, Zeroing)
    series = found.series()
    fold_N = folds.assign(torch.bincount(documents(TOKENS)).numpy(), 0)[documents(TOKENS).numpy()]
    second, test = ((fold_N == fold).nonzero()[0][:count] for fold in (folds.SECOND, folds.TEST))
    x_mean, z_mean = left_ND[second].mean(0), out_ND[second].mean(0)
    x, y, a2 = left_ND[second] - x_mean, out_ND[second] - z_mean, sigma**2 * np.eye(D)
    w_DD = np.linalg.solve(x.T @ x / count + a2, x.T @ y / count + a2)
    x, y = left_ND[test] - x_mean, out_ND[test] - z_mean
    total = np.square(x).sum() / count + a2.trace()
    u = np.square(y - x @ w_DD).sum() / count + (a2 @ np.square(w_DD - np.eye(D))).sum()
    fvu = np.square(out_ND[test]).sum() / count + a2.trace()
    cell = found._zeroed[0.5].fvus(sigma**2, 0.0)
    assert cell == pytest.approx((fvu / total, u / total), rel=1e-4)
    if sigma == 0:
        assert (series["fvu"][-1][0][0], series["fvu_nonlinear"][-1][0][0]) == cell
    assert series["tokens"] == {"second": count, "test": count}


@pytest.mark.parametrize("count", [2 * (D + 1) - 1, 2 * (D + 1)])
def test_too_few_tokens_have_no_grid(count: int) -> None:
    planted = Planted.draw(TOKENS)
    one = audited(
        planted.x() + 0.1,
        planted.indices_NK,
        planted.values_NK,
        sae_of(planted.atoms_MD),
        lambda place: [Zeroing(place, count)],
    )
    values = one.values(0, 0)["zeroing"]
    assert set(values) == set(Zeroing.metrics)
    none = count < 2 * (D + 1)
    assert all(value.value is None for value in values.values()) or not none
    assert ("zeroing" not in one.series()) == none


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
        found = sw.audit(x, x_hat, documents(tokens, 100), resamples=0)
        assert found.fvu == pytest.approx(expected[0], rel=0.02)
        assert found.fvu_nonlinear == pytest.approx(expected[1], rel=0.02)
