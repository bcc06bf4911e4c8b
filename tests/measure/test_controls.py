import pytest
import torch

from saeworks.errors import UserError
from saeworks.measure.controls import active_per_token, random_directions, shuffled, zero_sae

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 3


def test_the_zero_sae_gives_the_mean_and_an_fvu_of_1() -> None:
    sae = zero_sae(X.mean(0))
    x_hat_ND = sae(X)
    assert torch.equal(x_hat_ND, X.mean(0).expand_as(X))
    fvu = (X - x_hat_ND).square().sum() / (X - X.mean(0)).square().sum()
    assert float(fvu) == pytest.approx(1.0, rel=1e-6)
    assert not (sae.encode_sparse(X).values > 0).any()


def test_random_directions_by_hand() -> None:
    sae = random_directions(X.mean(0), width=30, k=4, seed=1)
    w_MD = sae.w_dec
    assert torch.allclose(w_MD.norm(dim=1), torch.ones(30))
    f_NM = ((X - X.mean(0)) @ w_MD.T).relu()
    kept = torch.zeros_like(f_NM).scatter(1, f_NM.topk(4).indices, 1.0)
    assert torch.allclose(sae.encode(X), f_NM * kept, atol=1e-6)
    assert torch.allclose(sae(X), (f_NM * kept) @ w_MD + X.mean(0), atol=1e-5)
    assert active_per_token(sae, X) == 4
    again, other = (random_directions(X.mean(0), 30, 4, seed) for seed in (1, 2))
    assert torch.equal(sae.w_dec, again.w_dec)
    assert not torch.equal(sae.w_dec, other.w_dec)
    with pytest.raises(UserError, match="k = 31"):
        random_directions(X.mean(0), 30, 31, 0)


def test_shuffled_keeps_the_latents_and_loses_their_order() -> None:
    latents_n = torch.arange(3, 60, 2)
    mixed_n = shuffled(latents_n, 0)
    assert torch.equal(mixed_n.sort().values, latents_n)
    assert not torch.equal(mixed_n, latents_n)
    assert torch.equal(mixed_n, shuffled(latents_n, 0))
    assert not torch.equal(mixed_n, shuffled(latents_n, 1))


def test_active_per_token_refuses_no_rows() -> None:
    with pytest.raises(UserError, match="at least one row"):
        active_per_token(zero_sae(X.mean(0)), X[:0])
