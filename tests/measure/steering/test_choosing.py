"""Sums of two classes, latents chosen by them, and who judges."""

import numpy as np
import pytest
import torch

from helpers.tiny_saes import D, build, rows
from helpers.toys import Toy
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import firing
from saeworks.measure.interventions import Edit, edit_hooks
from saeworks.measure.steering.fit import Classes, candidates, check_live, weights
from saeworks.measure.steering.judges import FiringJudge, GrammarJudge, WordsJudge, spelt
from saeworks.measure.steering.pushes import of_direction, of_latents


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return LanguageModel.load("embedded")


def test_sums_of_classes_are_those_of_whole_arrays() -> None:
    sae, x_ND = build("topk").requires_grad_(False), rows(400)
    label_N = torch.randint(-1, 2, (400,), generator=torch.Generator().manual_seed(3))
    classes = Classes(D, sae.width, torch.device("cpu"))
    for part in (slice(0, 150), slice(150, 400)):
        classes.add_x(x_ND[part], label_N[part])
        classes.add_code(*firing(sae.encode_sparse(x_ND[part])), label_N[part])
    known = label_N >= 0
    x, y, f = x_ND[known].double(), label_N[known], sae.encode(x_ND)[known].double()
    difference_D = x[y == 1].mean(0) - x[y == 0].mean(0)
    torch.testing.assert_close(classes.mean_difference(), difference_D)
    rise_M = f[y == 1].mean(0) - f[y == 0].mean(0)
    torch.testing.assert_close(classes.rise(), rise_M)
    r_M = classes.correlation()
    for latent in r_M.topk(5).indices.tolist():
        expected = np.corrcoef(f[:, latent].numpy(), y.numpy())[0, 1]
        assert float(r_M[latent]) == pytest.approx(expected)
    rare = (f[y == 1] > 0).sum(0) < 8
    assert bool((r_M[rare] == -1).all())
    assert candidates(classes, 3, "c") == r_M.topk(3).indices.tolist()


def test_a_concept_that_no_latent_follows_is_refused() -> None:
    classes = Classes(D, 4, torch.device("cpu"))
    classes.tokens_2 += 100
    with pytest.raises(UserError, match=r"c at s: no latent fires more on its tokens"):
        candidates(classes, 3, "c at s")


def test_a_push_has_the_norm_that_it_says_whatever_pushes() -> None:
    sae, x_BTD = Toy(D, gain=3.0), rows(8).view(2, 4, D)
    for latents in ([1], [2, 5, 7]):
        a_n = weights(sae, latents, None)
        moved = of_latents({"s": sae}, "s", latents, a_n, "add", 2.0)(-0.5, None)["s"](x_BTD)
        torch.testing.assert_close((moved - x_BTD).norm(dim=-1), torch.ones(2, 4))
    direction_D = 7 * torch.randn(D, generator=torch.Generator().manual_seed(0))
    moved = of_direction("s", direction_D, 2.0)(0.5, None)["s"](x_BTD)
    torch.testing.assert_close((moved - x_BTD).norm(dim=-1), torch.ones(2, 4))
    with pytest.raises(UserError, match="latents 1, 13 add nothing"):  # w_13 = −w_1
        weights(sae, [1, 13], None)


def test_latents_that_never_fire_are_refused() -> None:
    live_M = torch.tensor([3, 0, 1])
    check_live(live_M, [0, 2], "layers.3", 1000)
    with pytest.raises(UserError, match=r"latent 1 at layers.3 never fires on the 1,000 tokens"):
        check_live(live_M, [2, 1], "layers.3", 1000)


def test_words_are_found_as_sequences_of_tokens() -> None:
    tokens_BX = torch.tensor([[1, 2, 3, 1, 2], [2, 3, 3, 9, 1]])
    assert spelt(tokens_BX, [[1, 2], [9]]).tolist() == [
        [True, True, False, True, True],
        [False, False, False, True, False],
    ]
    assert not spelt(tokens_BX, [[1, 2, 3, 1, 2, 3]]).any()
    stands, could = WordsJudge([[3]]).judge(tiny(), tokens_BX, 2)
    assert stands.tolist() == [[True, False, False], [True, False, False]] and could.all()


def tiny() -> LanguageModel:
    from helpers.toys import tiny_llama

    return tiny_llama()


def test_the_grammar_judges_the_continuation_alone(embedded: LanguageModel) -> None:
    text = "It is winter in the valley. There are icicles in the valley."
    tokens_BX = embedded.tokens(text)
    for value, expected in (("winter", True), ("spring", False)):
        stands, could = GrammarJudge("season", value).judge(embedded, tokens_BX, 7)
        assert bool(stands.all()) is expected and could.all()
    stands, could = GrammarJudge("mood", "happy").judge(embedded, tokens_BX, 7)
    assert not stands.any() and not could.any()


def test_latents_judge_by_firing(embedded: LanguageModel) -> None:
    sae = Toy(128)
    tokens_BX = embedded.tokens("It is winter in the valley.").repeat(2, 1)
    stands, _ = FiringJudge(sae, "layers.2", [4]).judge(embedded, tokens_BX, 3)
    x_BXD = embedded.capture(tokens_BX, "layers.2")
    assert torch.equal(stands, x_BXD[:, 3:, 4] > 0)
    assert edit_hooks({"layers.2": sae}, [Edit("layers.2", 4, "ablate")])
