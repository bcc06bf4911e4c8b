"""Encoder and TopK in Triton: against a dense product and its TopK."""

import pytest
import torch

from saeworks.dictionary.triton import select
from saeworks.dictionary.triton.select import Groups, encoder_topk

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-11}
TYPES = list(ROUNDING)
SHAPES = [(1, 1, 1, 1), (5, 7, 300, 4), (3, 70, 40, 40), (2, 5, 600, 512), (0, 4, 9, 2)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles of everything in few tokens; on a GPU at least what a product needs."""
    monkeypatch.setattr(select, "_TOKENS", 16)
    monkeypatch.setattr(select, "_LATENTS", 64)
    monkeypatch.setattr(select, "_DEPTH", 32)
    monkeypatch.setattr(select, "_MERGED", 128)


def random(*shape, dtype, device, seed):
    """Small integers: their products and sums are exact, whatever the order and the type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).to(device, dtype)


def plain(x_BD, w_MD, bias_M, k):
    """The latents of the k largest, ascending; of equal ones the lower stays."""
    z_BM = x_BD.float() @ w_MD.float().T
    if bias_M is not None:
        z_BM += bias_M.float()
    latent_BK = z_BM.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    return z_BM.gather(1, latent_BK), latent_BK


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "d", "width", "k"), SHAPES)
def test_the_k_largest_are_selected_and_ties_fall_to_the_lower_latent(
    rows, d, width, k, dtype, device
):
    kind = {"dtype": dtype, "device": device}
    x_BD, w_MD = random(rows, d, **kind, seed=1), random(width, d, **kind, seed=2)
    bias_M = random(width, **kind, seed=3)
    value_BK, latent_BK = encoder_topk(x_BD, w_MD, bias_M, k)
    expected = plain(x_BD, w_MD, bias_M, k)
    torch.testing.assert_close(value_BK, expected[0], rtol=ROUNDING[dtype], atol=0)
    assert torch.equal(latent_BK, expected[1])


def test_inputs_that_are_not_contiguous_and_no_bias(device):
    kind = {"dtype": torch.float32, "device": device}
    x_BD = random(9, 8, **kind, seed=1)[::2, 1:6]
    w_MD = random(5, 70, **kind, seed=2).T
    value_BK, latent_BK = encoder_topk(x_BD, w_MD, None, 3)
    expected = plain(x_BD, w_MD, None, 3)
    assert torch.equal(value_BK, expected[0]) and torch.equal(latent_BK, expected[1])


def test_random_numbers_in_float32_are_ordered_to_the_last_bit(device):
    generator = torch.Generator().manual_seed(0)
    w_MD = torch.randn(200, 1, generator=generator).to(device)
    x_BD = torch.tensor([[1.0], [-1.0], [1e-30]], device=device)
    value_BK, latent_BK = encoder_topk(x_BD, w_MD, None, 20)
    expected = plain(x_BD, w_MD, None, 20)
    assert torch.equal(value_BK, expected[0]) and torch.equal(latent_BK, expected[1])


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
def test_nan_is_selected_and_infinities_have_their_order(device):
    w_MD = torch.tensor([[1.0], [torch.nan], [torch.inf], [-torch.inf], [2.0]], device=device)
    value_BK, latent_BK = encoder_topk(torch.ones(1, 1, device=device), w_MD, None, 3)
    assert latent_BK.tolist() == [[1, 2, 4]]
    assert value_BK[0].isnan().tolist() == [True, False, False]
    assert value_BK[0, 1:].tolist() == [torch.inf, 2.0]


@pytest.mark.parametrize("dtype", TYPES)
def test_each_group_of_rows_has_its_latents_in_one_launch(dtype, device):
    """Groups without rows, without latents, and with fewer than k of them."""
    rows = torch.tensor([0, 20, 20, 23, 24, 26], device=device)
    latents = torch.tensor([0, 90, 100, 103, 103, 180], device=device)
    kind = {"dtype": dtype, "device": device}
    x_BD, w_MD = random(26, 5, **kind, seed=1), random(180, 5, **kind, seed=2)
    value_BK, latent_BK = encoder_topk(x_BD, w_MD, None, 4, Groups(rows, latents, 90))
    assert latent_BK.min() >= 0 and latent_BK.max() < 180
    for i in range(5):
        mine, has = slice(rows[i], rows[i + 1]), slice(latents[i], latents[i + 1])
        k = min(4, int(latents[i + 1] - latents[i]))
        expected = plain(x_BD[mine], w_MD[has], None, k)
        real = value_BK[mine] > -torch.inf
        assert real.sum() == k * len(x_BD[mine])
        plain_values = expected[0].flatten()
        torch.testing.assert_close(value_BK[mine][real], plain_values, rtol=ROUNDING[dtype], atol=0)
        assert torch.equal(latent_BK[mine][real], expected[1].flatten() + latents[i])
