"""Edits of latents against arithmetic on dense codes."""

import pytest
import torch
from torch import Tensor

from helpers.tiny_saes import TINY, D, build
from helpers.toys import Toy, held_out, tiny_llama
from saeworks.dictionary.archs.switch import Switch
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.interventions import Edit, activations, direction_hook, edit_hooks


def sae_of(arch: str) -> SAE:
    return build(arch).requires_grad_(False)


def rows(count: int = 40) -> Tensor:
    return 3 * torch.randn(2, count // 2, D, generator=torch.Generator().manual_seed(4))


def live(sae: SAE, x_BTD: Tensor, count: int = 3) -> list[int]:
    """The latents that fire most often, and one that never does where there is one."""
    fired_M = (sae.encode(x_BTD) > 0).sum((0, 1))
    return [*fired_M.topk(count).indices.tolist(), int(fired_M.argmin())]


@pytest.mark.parametrize("arch", list(TINY))
def test_an_edit_is_the_difference_of_two_dense_decodings(arch: str) -> None:
    sae, x_BTD = sae_of(arch), rows()
    first, second, third, never = live(sae, x_BTD)
    edits = [
        Edit("s", first, "add", 1.5),
        Edit("s", second, "clamp", 4.0),
        Edit("s", third, "ablate"),
        Edit("s", never, "add", -2.0),
    ]
    f_BTM = sae.encode(x_BTD)
    edited_BTM = f_BTM.clone()
    edited_BTM[..., first] += 1.5
    edited_BTM[..., second] = 4.0
    edited_BTM[..., third] = 0.0
    edited_BTM[..., never] -= 2.0
    expected = x_BTD + sae.decode(edited_BTM) - sae.decode(f_BTM)
    out = edit_hooks({"s": sae}, edits)["s"](x_BTD)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", list(TINY))
def test_ablating_takes_the_latents_part_away_and_the_error_stays(arch: str) -> None:
    sae, x_BTD = sae_of(arch), rows()
    latent = live(sae, x_BTD)[0]
    out = edit_hooks({"s": sae}, [Edit("s", latent, "ablate")])["s"](x_BTD)
    f_BT = sae.encode(x_BTD)[..., latent]
    torch.testing.assert_close(out, x_BTD - f_BT[..., None] * sae.w_dec[latent])
    untouched = f_BT == 0
    assert torch.equal(out[untouched], x_BTD[untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_adding_nothing_changes_no_bit(dtype: torch.dtype) -> None:
    sae, x_BTD = sae_of("topk"), rows().to(dtype)
    latents = live(sae, x_BTD.float())
    out = edit_hooks({"s": sae}, [Edit("s", latent, "add", 0.0) for latent in latents])["s"](x_BTD)
    assert out.dtype == dtype and torch.equal(out, x_BTD)
    zero = direction_hook(torch.zeros(D))(x_BTD)
    assert torch.equal(zero, x_BTD)


def test_a_switch_edit_moves_no_token_to_another_expert() -> None:
    sae, x_BTD = sae_of("switch"), rows()
    assert isinstance(sae, Switch)
    f_BTM = sae.encode(x_BTD)
    expert_BT = sae.route(x_BTD.flatten(0, 1)).expert.view(2, -1)
    per_expert = sae.width // sae.experts
    latent = int((f_BTM > 0).sum((0, 1)).argmax())
    elsewhere = expert_BT != latent // per_expert
    assert elsewhere.any() and not elsewhere.all()
    ablated = edit_hooks({"s": sae}, [Edit("s", latent, "ablate")])["s"](x_BTD)
    assert torch.equal(ablated[elsewhere], x_BTD[elsewhere])
    clamped = edit_hooks({"s": sae}, [Edit("s", latent, "clamp", 2.0)])["s"](x_BTD)
    w_D = sae.w_dec[latent]  # elsewhere f is 0, and all other latents stay as they were
    torch.testing.assert_close(clamped[elsewhere], x_BTD[elsewhere] + 2.0 * w_D)


def test_positions_and_several_sites_in_one_pass() -> None:
    lm, sample = tiny_llama(), held_out(sequences=2)
    tokens = sample.tokens_NT
    shared = Toy(16)
    bank = {"layers.0": shared, "layers.1": shared}
    positions = torch.zeros_like(tokens, dtype=torch.bool)
    positions[0, 3] = True
    x = lm.capture(tokens, "layers.0")
    latent = int(shared.encode(x[0, 3]).argmax())
    hooks = edit_hooks(
        bank, [Edit("layers.0", latent, "ablate"), Edit("layers.1", 1, "add", 1.0)], positions
    )
    assert list(hooks) == ["layers.0", "layers.1"]
    out = hooks["layers.0"](x)
    assert out is not None
    changed = (out != x).any(-1)
    assert changed.nonzero().tolist() == [[0, 3]]
    edited, clean = lm.run(tokens, hooks, logits=True), lm.run(tokens, logits=True)
    assert edited is not None and clean is not None
    assert torch.equal(edited[0, :3], clean[0, :3]) and torch.equal(edited[1], clean[1])
    assert not torch.equal(edited[0, 3:], clean[0, 3:])
    with pytest.raises(UserError, match=r"positions .* do not fit activations"):
        hooks["layers.0"](x[:, :5])


def test_gradients_go_through_an_edit() -> None:
    sae = sae_of("topk")
    x_BTD = rows().double().requires_grad_()
    hook = edit_hooks({"s": sae.double()}, [Edit("s", live(sae, x_BTD)[0], "ablate")])["s"]
    out = hook(x_BTD)
    assert out is not None
    weight = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * weight).sum(), x_BTD)
    step = 1e-6 * torch.randn_like(x_BTD)
    up, down = hook(x_BTD + step), hook(x_BTD - step)
    assert up is not None and down is not None
    torch.testing.assert_close(
        (grad * step).sum() * 2, ((up - down) * weight).sum(), rtol=1e-5, atol=1e-10
    )


def test_activations_of_some_latents_are_those_of_the_dense_code() -> None:
    for arch in ("topk", "relu", "switch"):
        sae, x_BTD = sae_of(arch), rows()
        index = torch.tensor(live(sae, x_BTD))
        x_ND = x_BTD.flatten(0, 1)
        assert torch.equal(activations(sae, x_ND, index), sae.encode(x_ND)[:, index])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: Edit("s", 0, "add", float("nan")), "has the value nan; give a finite number"),
        (lambda: Edit("s", 0, "add", float("inf")), "has the value inf"),
        (lambda: Edit("s", 0, "push"), "is 'push'; choose one of add, clamp, ablate"),
        (lambda: Edit("s", -1), "numbered from 0"),
        (lambda: Edit("s", 0, "ablate", 1.0), "for 1, clamp it"),
        (lambda: edit_hooks({"s": Toy(D)}, []), "nothing to edit"),
        (lambda: edit_hooks({"s": Toy(D)}, [Edit("t", 0)]), "no SAE at site 't', only at s"),
        (lambda: edit_hooks({"s": Toy(D)}, [Edit("s", 32)]), r"does not exist: .* 0 to 23"),
        (lambda: edit_hooks({"s": Toy(D)}, [Edit("s", 1), Edit("s", 1, "ablate")]), "edited twice"),
    ],
)
def test_impossible_edits_are_refused_in_a_line(edit: object, message: str) -> None:
    assert callable(edit)
    with pytest.raises(UserError, match=message):
        edit()
