import pytest
import torch

from saeworks.activations.synthetic import SyntheticConfig, SyntheticSource, power_law
from saeworks.errors import UserError


def test_rows_are_sparse_combinations_of_unit_directions():
    source = SyntheticSource(SyntheticConfig(), batch=128, seed=0)
    c_BF = source.coefficients(0)
    assert (c_BF.count_nonzero(1) == 5).all()
    assert torch.allclose(source.dictionary.norm(dim=1), torch.ones(256))
    torch.testing.assert_close(next(source).x["synthetic"], c_BF @ source.dictionary)


def test_features_fire_as_often_as_stated():
    source = SyntheticSource(SyntheticConfig(exponent=0.7), batch=20_000, seed=0)
    measured = (source.coefficients(0) > 0).float().mean(0)
    assert abs(float(source.frequencies.sum()) - 5) < 1e-3
    ratio = measured[:64] / source.frequencies[:64]
    assert ((ratio > 0.85) & (ratio < 1.15)).all()


def test_a_power_law_is_capped_and_keeps_its_sum():
    p_F = power_law(50, 5, exponent=2.0)
    assert float(p_F.max()) <= 0.991 and abs(float(p_F.sum()) - 5) < 1e-3
    assert (p_F.diff() <= 1e-6).all()


def test_correlated_features_fire_together():
    def together(correlation: float) -> float:
        config = SyntheticConfig(exponent=0.0, correlation=correlation)
        c_BF = SyntheticSource(config, 20_000, seed=0).coefficients(0) > 0
        both = (c_BF[:, 0:256:8] & c_BF[:, 1:256:8]).float().mean()
        return float(both) / float(c_BF.float().mean()) ** 2

    assert together(0.0) < 1.3 and together(1.5) > 3


@pytest.mark.parametrize("kind", ["uniform", "exponential", "constant"])
def test_coefficients_are_positive_with_mean_one(kind: str):
    source = SyntheticSource(SyntheticConfig(coefficients=kind), 4000, seed=0)  # type: ignore[arg-type]
    c_BF = source.coefficients(0)
    assert float(c_BF[c_BF != 0].mean()) == pytest.approx(1.0, abs=0.05)
    assert (c_BF >= 0).all()


def test_the_state_is_the_number_of_the_batch_and_seeds_differ():
    config = SyntheticConfig(sites=("a", "b"), noise=0.1)
    source = SyntheticSource(config, 64, seed=0)
    head = source.head("b", 100)
    batches = [next(source) for _ in range(4)]
    assert torch.equal(head, torch.cat([b.x["b"] for b in batches])[:100])
    resumed = SyntheticSource(config, 64, seed=0)
    resumed.load_state_dict({"batches": 3})
    assert torch.equal(next(resumed).x["a"], batches[3].x["a"])
    other = SyntheticSource(config, 64, seed=1)
    assert not torch.equal(next(other).x["a"], batches[0].x["a"])
    assert not torch.equal(other.dictionary, source.dictionary)


def test_impossible_sparsity_is_refused():
    with pytest.raises(UserError, match="active = 300"):
        SyntheticSource(SyntheticConfig(active=300), 64, seed=0)
