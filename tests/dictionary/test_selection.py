"""The two-round selection is torch's topk."""

import pytest
import torch

from saeworks import build_sae
from saeworks.dictionary.selection import GROUP, padded_width, topk_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("width", [8, 64, 65, 224, 512, 4096])
@pytest.mark.parametrize("levels", [None, 3])  # 3: nearly everything is tied
def test_values_are_those_of_topk(width, k, levels):
    generator = torch.Generator().manual_seed(width)
    pre = torch.randn(50, width, generator=generator)
    if levels:
        pre = torch.randint(levels, (50, width), generator=generator).float()
    values, indices = topk_rows(pre, k)
    assert torch.equal(values.sort(1).values, pre.topk(k, dim=1).values.flip(1))
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())
    again = topk_rows(pre[7:8].clone(), k)[1]
    assert torch.equal(again[0], indices[7])


def test_width_is_padded_only_where_groups_pay():
    assert padded_width(1000, 4, CPU) == 1000
    assert padded_width(1001, 4, CPU) == 1008
    assert padded_width(1001, 4, CPU) % GROUP == 0
    assert padded_width(1001, 500, CPU) == 1001
    assert padded_width(1001, 4, torch.device("cuda")) == 1001


@pytest.mark.parametrize("width", [257, 263, 264])
def test_padding_is_never_chosen(width):
    torch.manual_seed(0)
    sae = build_sae("topk", d=5, width=width, k=8)
    x = torch.randn(40, 5)
    with torch.no_grad():
        sae.b_enc.fill_(-1000)  # everything below zero, padding still lower
        code = sae.encode_sparse(x)
        assert code.indices.max() < width
        sae.b_enc.fill_(1000)
        pre = (x @ sae.w_enc.T + sae.b_enc).topk(8, dim=1).values
        torch.testing.assert_close(sae.encode_sparse(x).values.sort(1).values, pre.flip(1))
