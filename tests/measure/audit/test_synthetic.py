"""The closed form of the synthetic test, simulated through the audit; and its inverse."""

from functools import cache

import numpy as np
import pytest
import torch

import saeworks as sw
from helpers.audit_arrays import documents
from helpers.noise_forms import closed_form, closed_form_zeroed
from saeworks.measure.audit.synthetic import recover

TOKENS, D = 200_000, 8


@cache
def signal() -> torch.Tensor:
    """x' with a spread of eigenvalues, from 4 to 0.05."""
    generator = torch.Generator().manual_seed(4)
    scale_D = torch.linspace(2.0, 0.22, D, dtype=torch.float64)
    rotation_DD = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    x_ND = torch.randn(TOKENS, D, generator=generator, dtype=torch.float64).abs() * scale_D
    return x_ND @ rotation_DD


def noise(sigma: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(TOKENS, D, generator=generator, dtype=torch.float64)


def eigenvalues(x_ND: torch.Tensor) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(x_ND.numpy().T))


@pytest.mark.parametrize("activation", [0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("reconstruction", [0.0, 1.0, 4.0])
def test_grid(activation: float, reconstruction: float) -> None:
    x = signal()
    found = sw.audit(
        x + noise(activation, 1), x + noise(reconstruction, 2), documents(TOKENS, 100), resamples=0
    )
    fvu, nonlinear = closed_form(eigenvalues(x), activation, reconstruction)
    assert found.fvu == pytest.approx(fvu, rel=0.01, abs=1e-6)
    assert found.fvu_nonlinear == pytest.approx(nonlinear, rel=0.01, abs=1e-6)


def test_with_latents_zeroed() -> None:
    """z, a nonlinear function of the same signal, is removed from the reconstruction too."""
    x = signal()
    z = (x - x.mean(0)).clamp_min(0.3) * 0.4
    found = sw.audit(x + z + noise(0.5, 1), x + noise(0.3, 2), documents(TOKENS, 100), resamples=0)
    fvu, nonlinear = closed_form_zeroed(x, z, 0.5, 0.3)
    mean = float(z.mean(0).square().sum())  # of e, which FVU counts and a covariance does not
    total = float((x + z).var(0).sum()) + D * 0.25
    assert found.fvu_nonlinear == pytest.approx(nonlinear, rel=0.01)
    assert found.fvu == pytest.approx(fvu + mean / total, rel=0.01)


def test_zeroed_form_without_anything_zeroed_is_the_other() -> None:
    x = signal()
    plain = closed_form(eigenvalues(x), 0.7, 0.4)
    assert closed_form_zeroed(x, torch.zeros_like(x), 0.7, 0.4) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("sigmas", [(0.0, 0.3), (0.5, 0.0), (0.7, 0.4), (3.0, 0.2)])
def test_recover_inverts_the_closed_form(sigmas: tuple[float, float]) -> None:
    values = np.array([4.0, 2.0, 1.0, 0.2, 0.05])
    found = recover(values, *closed_form(values, *sigmas))
    assert found is not None
    assert found == pytest.approx(sigmas, abs=1e-5)


def test_where_no_noise_gives_the_numbers() -> None:
    values = np.array([1.0, 0.5])
    assert recover(values, 0.1, 0.2) is None  # more nonlinear than there is error
    assert recover(values, 0.5, 0.0) is None  # no noise is purely linear here
    assert recover(np.zeros(2), 0.5, 0.1) is None
