"""‖μ‖/‖σ‖ and its warning."""

import pytest
import torch

from saeworks.activations.offset import mean_over_std, offset_warning


def test_the_ratio_is_that_of_the_mean_to_the_spread() -> None:
    x_ND = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    x_ND[:, 0] += 8.0
    assert mean_over_std(x_ND) == pytest.approx(8 / 16**0.5, rel=0.02)
    assert mean_over_std(7 * x_ND) == pytest.approx(mean_over_std(x_ND), rel=1e-6)
    assert mean_over_std(torch.ones(5, 3)) is None


def test_the_worst_sites_are_named() -> None:
    assert offset_warning({"a": 0.99, "b": None}) is None
    warning = offset_warning({"a": 1.0, "b": 5.0, "c": 0.2, "d": 3.0, "e": 2.0})
    assert warning is not None and "b 5.0, d 3.0, e 2.0, and 1 more sites" in warning
