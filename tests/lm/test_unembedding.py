"""Direct effects equal finite differences of the logits, in families that differ; or one line says
why there are none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lm.test_families import built
from saeworks.config import ModelConfig
from saeworks.errors import UserError
from saeworks.lm import unembedding
from saeworks.lm.model import LanguageModel
from saeworks.lm.unembedding import Unembedding, no_direct_path

FAMILIES = {
    "gpt2": "the tied unembedding with the gain of the final LayerNorm folded in",
    "llama": "the unembedding with the gain of the final RMSNorm folded in",
    "gemma": "the tied unembedding with the gain of the final RMSNorm folded in",
    "gpt_neox": "the unembedding with the gain of the final LayerNorm folded in",
    "phi": "the unembedding with the gain of the final LayerNorm folded in",
    "openai-gpt": "the tied unembedding with no final norm",
    "cohere": "the tied unembedding with the gain of the final LayerNorm folded in, "
    "times the logit scale 0.0625",
    "gemma2": "the tied unembedding with the gain of the final RMSNorm folded in, "
    "before the soft cap at 30",
}


def logits(lm: LanguageModel, tokens_BT: Tensor, site: str, added: Tensor) -> Tensor:
    """Of the last position, with something added at a site; in float64."""
    out = lm.run(tokens_BT, {site: lambda x: x + added.to(x)}, logits=True)
    assert out is not None
    return out[:, -1].double()


def tangent(unembedding: Unembedding, x_D: Tensor, d_MD: Tensor) -> tuple[Tensor, float]:
    """Directions that do not change the norm's scale at x, and that scale."""
    if unembedding.norm == "none":
        return d_MD, 1.0
    centre_D = x_D - x_D.mean() if unembedding.norm == "LayerNorm" else x_D
    along_M = d_MD @ centre_D / centre_D.square().sum()
    return d_MD - along_M[:, None] * centre_D, float(centre_D.square().mean().sqrt())


@pytest.mark.parametrize("family", FAMILIES)
def test_effect_is_the_change_of_the_logits(family: str) -> None:
    lm = built(family)
    lm.model.double()
    found = Unembedding.of(lm)
    assert str(found) == FAMILIES[family]
    last, tokens_BT = lm.blocks[-1], torch.tensor([[9, 40, 23, 71, 5]])
    x_D = lm.capture(tokens_BT, last)[0, -1].double()
    d_MD, sigma = tangent(found, x_D, torch.randn(4, len(x_D), dtype=torch.float64))
    step = 3e-3 * sigma  # norms compute in float32
    effect_MV = found.effect(d_MD.float()) / sigma
    for d_D, effect_V in zip(d_MD, effect_MV, strict=True):
        ends = [logits(lm, tokens_BT, last, sign * step * d_D)[0] for sign in (1, -1)]
        change_V = (ends[0] - ends[1]) / (2 * step)
        if found.softcap is not None:
            change_V = change_V / (1 - (logits(lm, tokens_BT, last, 0 * d_D)[0] / 30) ** 2)
        assert (change_V - effect_V).norm() < 1e-3 * change_V.norm()


def test_top_is_the_sorted_effect_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Unembedding.of(built("gpt2"))
    d_MD = torch.randn(13, 32)
    order_MV = found.effect(d_MD).sort(dim=1, descending=True)
    monkeypatch.setattr(unembedding, "_TILE", 320)  # 10 tokens of 101, 32 directions at a time
    promoted, suppressed = found.top(d_MD, 4)
    assert torch.equal(promoted.token_Mn, order_MV.indices[:, :4])
    assert torch.equal(suppressed.token_Mn, order_MV.indices.flip(1)[:, :4])
    torch.testing.assert_close(promoted.effect_Mn, order_MV.values[:, :4])
    torch.testing.assert_close(suppressed.effect_Mn, order_MV.values.flip(1)[:, :4])
    none, _ = found.top(d_MD[:0], 4)
    assert none.token_Mn.shape == (0, 4)
    assert found.top(d_MD, 1000)[0].token_Mn.shape == (13, 101)


def test_half_precision_finds_the_same() -> None:
    lm = built("gemma2")
    gain_D = Unembedding.of(lm).gain_D
    lm.model.bfloat16()
    found = Unembedding.of(lm)
    assert str(found) == FAMILIES["gemma2"]
    assert (found.gain_D - gain_D).norm() < 0.01 * gain_D.norm()


def test_tokens_that_the_tokenizer_lacks_are_never_named() -> None:
    lm = LanguageModel.load("embedded")
    found = Unembedding.of(lm)
    assert found.tokens == len(lm.tokenizer) == len(found.weight_VD)


class Doubled(nn.Module):
    """A head that is no linear map."""

    def __init__(self, weight_VD: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_VD)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return (x_BTD @ self.weight.T).abs()


class Shifted(nn.Module):
    """A norm that is none."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.tanh(x_BTD)


def test_other_heads_are_refused_in_one_line() -> None:
    lm = built("llama")
    head, norm = lm.model.lm_head, lm.model.model.norm
    lm.model.lm_head = Doubled(head.weight.data)
    with pytest.raises(UserError, match=r"its head is no linear map; measure effects by steering"):
        Unembedding.of(lm)
    lm.model.lm_head, lm.model.model.norm = head, Shifted()
    with pytest.raises(UserError, match=r"neither LayerNorm nor RMSNorm of the last block's"):
        Unembedding.of(lm)
    lm.model.model.norm = norm
    with pytest.raises(UserError, match=r"directions of width 8 are none .* width 32; choose"):
        Unembedding.of(lm).effect(torch.zeros(1, 8))


def test_what_blocks_add_has_a_direct_path_and_what_they_normalise_has_none() -> None:
    for family in ("gpt2", "llama", "gpt_neox", "granite", "gemma2"):
        lm = built(family)
        assert no_direct_path(lm, lm.blocks[0]) is None
        assert no_direct_path(lm, lm.blocks[-1]) is None
    gpt2 = built("gpt2")
    assert no_direct_path(gpt2, "h.1.mlp") is None
    assert no_direct_path(gpt2, "h.1@in") is None
    assert "neither a block's" in str(no_direct_path(gpt2, "h.1.ln_1"))
    bert = built("bert", is_decoder=True)
    assert no_direct_path(bert, bert.blocks[0]) == f"{bert.blocks[1]} does not pass its input on"
    assert no_direct_path(bert, bert.blocks[-1]) is None


@pytest.mark.real
def test_a_real_model(real_data: Path) -> None:
    lm = LanguageModel.load(ModelConfig(name=str(real_data / "tinystories-neox-6L256")))
    found = Unembedding.of(lm)
    assert found.norm == "LayerNorm"
    tokens_BT = lm.tokens("Once upon a time there was a little")
    last = lm.blocks[-1]
    x_D = lm.capture(tokens_BT, last)[0, -1].double()
    d_MD, sigma = tangent(found, x_D, torch.randn(2, len(x_D), dtype=torch.float64))
    step = 1e-2 * sigma
    for d_D, effect_V in zip(d_MD, found.effect(d_MD.float()), strict=True):
        ends = [logits(lm, tokens_BT, last, sign * step * d_D)[0] for sign in (1, -1)]
        change_V = (ends[0] - ends[1]) / (2 * step)
        assert (change_V - effect_V / sigma).norm() < 1e-2 * change_V.norm()
