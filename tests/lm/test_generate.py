"""What is generated with a cache and hooks is what whole passes give."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.families import FAMILIES, build
from helpers.toys import tiny_llama
from saeworks.errors import UserError
from saeworks.lm.generate import has_cache
from saeworks.lm.model import Hook, LanguageModel


def by_whole_passes(lm: LanguageModel, tokens_BT: Tensor, hooks: dict[str, Hook], n: int) -> Tensor:
    """Greedy, one uncached pass for each token."""
    for _ in range(n):
        logits_BTV = lm.run(tokens_BT, hooks, logits=True)
        assert logits_BTV is not None
        tokens_BT = torch.cat([tokens_BT, logits_BTV[:, -1:].argmax(-1)], dim=1)
    return tokens_BT


def prompts(lm: LanguageModel, rows: int = 3, length: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, lm.vocabulary, (rows, length), generator=generator)


def push(site_width: int, scale: float) -> Hook:
    direction_D = scale * torch.randn(site_width, generator=torch.Generator().manual_seed(2))
    return lambda x_BTD: x_BTD + direction_D.to(x_BTD)


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return LanguageModel.load("embedded")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_generates_the_same_with_and_without_its_cache(family: str) -> None:
    lm = build(family)
    site = lm.sites("1@resid")[0]
    hooks = {site: push(lm.width(site), 0.5)}
    tokens = prompts(lm)
    assert has_cache(lm)
    cached = lm.generate(tokens, hooks, new_tokens=6)
    lm.cached = False
    assert torch.equal(lm.generate(tokens, hooks, new_tokens=6), cached)
    assert torch.equal(by_whole_passes(lm, tokens, hooks, 6), cached)
    lm.cached = None


def test_embedded_logits_with_the_cache_are_those_of_whole_passes(embedded: LanguageModel) -> None:
    site = "layers.2"
    hooks = {site: push(embedded.width(site), 2.0)}
    tokens = prompts(embedded, length=20)
    whole = embedded.run(tokens, hooks, logits=True)
    first, cache = embedded.extend(tokens[:, :12], hooks)
    parts = [first]
    for at in range(12, 20):
        logits, cache = embedded.extend(tokens[:, at : at + 1], hooks, cache)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)
    sampled = embedded.generate(tokens, hooks, new_tokens=12, temperature=1.0, seed=3)
    embedded.cached = False
    again = embedded.generate(tokens, hooks, new_tokens=12, temperature=1.0, seed=3)
    embedded.cached = None
    assert torch.equal(sampled, again)


def test_hooks_change_every_new_token_and_leave_bos_alone(embedded: LanguageModel) -> None:
    seen: list[Tensor] = []
    tokens = embedded.tokens("It is winter in the valley,")

    def watch(x_BTD: Tensor) -> Tensor:
        seen.append(x_BTD.clone())
        return x_BTD + 1.0

    after: list[Tensor] = []
    embedded.generate(tokens, {"layers.1": watch}, new_tokens=4)
    embedded.generate(
        tokens,
        {"layers.1": lambda x: x + 1.0, "layers.2@in": lambda x: after.append(x.clone())},
        new_tokens=4,
    )
    assert [x.shape[1] for x in seen] == [tokens.shape[1], 1, 1, 1]
    assert torch.equal(after[0][:, 0], seen[0][:, 0])  # BOS
    for x, y in zip(seen[1:], after[1:], strict=True):
        assert torch.equal(x + 1.0, y)
    assert torch.equal(seen[0][:, 1:] + 1.0, after[0][:, 1:])


def test_positions_of_the_prompt_can_be_chosen(embedded: LanguageModel) -> None:
    tokens = embedded.tokens("It is winter in the valley,")
    none_BT = torch.zeros_like(tokens, dtype=torch.bool)
    given: list[Tensor] = []
    embedded.generate(
        tokens,
        {"layers.1": lambda x: x + 1.0, "layers.2@in": lambda x: given.append(x.clone())},
        new_tokens=2,
        positions_BT=none_BT,
    )
    assert torch.equal(given[0], embedded.capture(tokens, "layers.1"))
    with pytest.raises(UserError, match=r"positions \[1, 2\] do not fit prompts"):
        embedded.generate(tokens, positions_BT=none_BT[:, :2])


def test_a_seed_decides_and_a_draw_depends_on_its_row_alone(embedded: LanguageModel) -> None:
    tokens = embedded.tokens("It is").repeat(6, 1)
    draw = embedded.generate(tokens, new_tokens=8, temperature=1.0, seed=5)
    assert torch.equal(draw, embedded.generate(tokens, new_tokens=8, temperature=1.0, seed=5))
    assert not torch.equal(draw, embedded.generate(tokens, new_tokens=8, temperature=1.0, seed=6))
    assert torch.equal(
        draw[:2], embedded.generate(tokens[:2], new_tokens=8, temperature=1.0, seed=5)
    )
    assert len(draw.unique(dim=0)) > 1
    cold = embedded.generate(tokens, new_tokens=8, temperature=1e-6, seed=5)
    assert torch.equal(cold, embedded.generate(tokens, new_tokens=8))


def test_sampled_tokens_come_as_often_as_the_model_says() -> None:
    lm = tiny_llama()
    tokens = torch.tensor([[5, 9]]).repeat(4000, 1)
    logits = lm.run(tokens[:1], logits=True)
    assert logits is not None
    expected_V = (logits[0, -1].double() / 2.0).softmax(-1)
    drawn_B = lm.generate(tokens, new_tokens=1, temperature=2.0)[:, -1]
    share_V = torch.bincount(drawn_B, minlength=lm.vocabulary) / len(drawn_B)
    error_V = (expected_V * (1 - expected_V) / len(drawn_B)).sqrt()
    assert bool(((share_V - expected_V).abs() < 4.5 * error_V + 1e-3).all())


def test_a_row_ends_at_bos(embedded: LanguageModel) -> None:
    tokens = embedded.tokens("It is winter in the valley,")
    out = embedded.generate(tokens, new_tokens=100, temperature=1.0)
    after = out[0, tokens.shape[1] :].tolist()
    assert embedded.bos_id in after  # a description is over before 100 tokens
    assert set(after[after.index(embedded.bos_id) :]) == {embedded.bos_id}


def test_wrong_numbers_are_refused_in_a_line(embedded: LanguageModel) -> None:
    for options, message in (
        ({"new_tokens": 0}, "new_tokens = 0: at least one"),
        ({"temperature": float("nan")}, "temperature = nan: give 0"),
        ({"temperature": -1.0}, "temperature = -1.0: give 0"),
        ({"new_tokens": 200}, "are more than the 128 of model 'embedded'"),
    ):
        with pytest.raises(UserError, match=message):
            embedded.generate("It is winter", **options)
    with pytest.raises(UserError, match="has shape"):
        embedded.generate("It is winter", {"layers.1": lambda x: x[..., :3]})


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656K", "tinystories-neox-6L256"])
def test_real_models_generate_the_same_with_their_cache(real_data: Path, name: str) -> None:
    lm = LanguageModel.load(str(real_data / name))
    site = lm.sites("1@resid")[0]
    x_BTD = lm.capture("Once upon a time there was a little dog", site)
    hooks = {site: push(lm.width(site), 0.5 * float(x_BTD[1:].std()))}
    tokens = lm.tokens("Once upon a time, there was a little girl named").repeat(2, 1)
    assert has_cache(lm)
    cached = lm.generate(tokens, hooks, new_tokens=24)
    lm.cached = False
    assert torch.equal(lm.generate(tokens, hooks, new_tokens=24), cached)
    assert not torch.equal(lm.generate(tokens, new_tokens=24), cached)
