import pytest
import torch

from helpers.circuits import (
    LinearPasses,
    toy_activations,
    toy_coded,
    toy_prompts,
)
from helpers.tiny_saes import TINY
from saeworks.measure.circuits.attribution import effects, mean_gradient, patched_alone, points
from saeworks.measure.circuits.passes import Passes
from saeworks.measure.circuits.prompts import CodedSite

SITE = "layers.1"


def quiet(done: int) -> None:
    pass


def toy_passes(lm, prompts):
    return Passes(lm, prompts, SITE, prompts.difference(lm, {}))


def test_points() -> None:
    assert points("plain", 10) == [0.0]
    assert points("integrated", 4) == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("arch", ["topk", "jumprelu", "switch", "switch: top-n"])
def test_gradients_through_the_splice_equal_finite_differences(arch: str) -> None:
    """∂m/∂f through x = decode(f) + e, e and encoder detached: autograd, W_dec · ∂m/∂x, and
    central differences."""
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    coded = toy_coded(arch, x)
    sae, passes = coded.sae, toy_passes(lm, prompts)
    f_RM = coded.clean.dense().requires_grad_()
    error_RD = (x.clean_PTD.flatten(0, 1) - sae.decode(coded.clean)).detach()

    def m_of(f_RM: torch.Tensor) -> torch.Tensor:
        x_PTD = (sae.decode(f_RM) + error_RD).view_as(x.clean_PTD)
        return passes.differences(slice(0, len(x_PTD)), x_PTD[None]).sum()

    (through_RM,) = torch.autograd.grad(m_of(f_RM), f_RM)
    gradient_PTD = mean_gradient(passes, x, points("plain", 1), quiet)
    assert torch.allclose(through_RM, gradient_PTD.flatten(0, 1) @ sae.w_dec.T, atol=1e-5)
    largest = through_RM.abs().flatten().topk(5).indices
    for place in largest.tolist():
        row, latent = divmod(place, sae.width)
        step_RM = torch.zeros_like(f_RM)
        step_RM[row, latent] = 0.02
        with torch.no_grad():
            slope = (m_of(f_RM + step_RM) - m_of(f_RM - step_RM)) / 0.04
        assert float(slope) == pytest.approx(float(through_RM[row, latent]), rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("arch", TINY)
def test_effects_of_every_architecture_by_hand(arch: str) -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    coded = toy_coded(arch, x)
    g_PTD = mean_gradient(toy_passes(lm, prompts), x, points("integrated", 3), quiet)
    nodes = effects(coded, prompts, g_PTD)
    f_RM, patch_RM = coded.clean.dense(), coded.patch.dense()
    by_hand_RM = (patch_RM - f_RM) * (g_PTD.flatten(0, 1) @ coded.sae.w_dec.T)
    by_hand_PM = by_hand_RM.view(*prompts.shape, -1).sum(1)
    every = torch.arange(coded.sae.width)
    assert torch.allclose(nodes.by_prompt(every).float(), by_hand_PM, atol=1e-4)
    assert torch.allclose(nodes.total_M.float(), by_hand_PM.mean(0), atol=1e-4)
    read_RM = ((f_RM != 0) | (patch_RM != 0)) & prompts.read_PT.flatten()[:, None]
    assert set(nodes.ranked_n.tolist()) == set(read_RM.any(0).nonzero().flatten().tolist())
    ranked = nodes.total_M[nodes.ranked_n].abs()
    assert torch.equal(ranked, ranked.sort(descending=True).values)
    assert nodes.error_place == int((ranked > abs(nodes.error_total)).sum())


def test_all_effects_add_up_to_what_patching_the_site_changes() -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    passes = toy_passes(lm, prompts)
    patched_P = passes.differences(slice(0, len(x.patch_PTD)), x.patch_PTD[None])[0]
    changed = float((patched_P - passes.clean_P).mean())
    off = {}
    for steps in (1, 40):
        g_PTD = mean_gradient(passes, x, points("integrated", steps), quiet)
        nodes = effects(toy_coded("topk", x), prompts, g_PTD)
        off[steps] = abs(float(nodes.total_M.sum()) + nodes.error_total - changed)
    assert off[40] < 0.01 * abs(changed)
    assert off[40] < off[1] / 10


def test_nothing_after_a_prompts_end_matters() -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    g_PTD = mean_gradient(toy_passes(lm, prompts), x, points("integrated", 2), quiet)
    after_PT = torch.arange(prompts.shape[1]) > prompts.last_P[:, None]
    assert not g_PTD[after_PT].any()
    assert g_PTD[~after_PT].any(-1).float().mean() > 0.9
    alone = []
    for p in range(prompts.shape[0]):
        one = prompts.at(slice(p, p + 1))
        logits_1TV = lm.run(one.pairs.clean_PT[:, : int(one.last_P) + 1], logits=True)
        assert logits_1TV is not None
        answers = int(one.pairs.clean_answer_P), int(one.pairs.patch_answer_P)
        alone.append(logits_1TV[0, -1, answers[0]] - logits_1TV[0, -1, answers[1]])
    assert torch.allclose(torch.stack(alone), prompts.difference(lm, {}), atol=1e-5)


def test_a_linear_model_in_closed_form() -> None:
    """There the gradient is w everywhere, and attribution is exact."""
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    w_TD = torch.randn(x.clean_PTD.shape[1:], generator=torch.Generator().manual_seed(3))
    w_TD[5:] = 0  # the shorter case ends there
    passes = LinearPasses(prompts, w_TD, x.clean_PTD)
    coded: CodedSite = toy_coded("topk", x)
    g_PTD = mean_gradient(passes, x, points("integrated", 4), quiet)
    assert torch.allclose(g_PTD, w_TD.expand_as(g_PTD), atol=1e-6)
    nodes = effects(coded, prompts, g_PTD)
    sample_S = nodes.ranked_n[:12]
    exact_PS = patched_alone(passes, coded, sample_S, quiet)
    change_RM = coded.patch.dense() - coded.clean.dense()
    by_hand_PTM = change_RM.view(*prompts.shape, -1) * (w_TD @ coded.sae.w_dec.T)
    assert torch.allclose(exact_PS.float(), by_hand_PTM.sum(1)[:, sample_S], atol=1e-4)
    assert torch.allclose(nodes.by_prompt(sample_S), exact_PS, atol=1e-4)


def test_patching_alone_by_hand() -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    coded, passes = toy_coded("switch", x), toy_passes(lm, prompts)
    latent = int(coded.patch.indices.flatten()[coded.patch.values.flatten().argmax()])
    exact_PS = patched_alone(passes, coded, torch.tensor([latent, 0]), quiet)
    f_RM = coded.clean.dense()
    new_RM = f_RM.clone()
    new_RM[:, latent] = coded.patch.dense()[:, latent]
    x_PTD = x.clean_PTD + coded.sae.decode(new_RM - f_RM).sub(coded.sae.b_dec).view_as(x.clean_PTD)
    by_hand_P = prompts.difference(lm, {SITE: lambda _: x_PTD}) - passes.clean_P
    assert torch.allclose(exact_PS[:, 0].float(), by_hand_P, atol=1e-5)
    assert by_hand_P.abs().max() > 1e-3
