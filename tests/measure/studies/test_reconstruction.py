import math

import pytest
import torch

from helpers.numbers import known
from helpers.studies import reconstruction
from helpers.toys import Toy, clean_rows, held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.measure import banks as banks_module
from saeworks.measure.held_out import HeldOut
from saeworks.results.result import Result

SITE = "layers.1"
CONFIG = EvalConfig(bootstrap=200)


def values(result: Result, site: str = SITE) -> dict[str, float]:
    found = {name: value.value for name, value in result.sites[site].items()}
    assert all(value is not None for value in found.values())
    return found  # type: ignore[return-value]


def topk(d: int = 16, width: int = 40, k: int = 4) -> SAE:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_sae("topk", d=d, width=width, k=k).requires_grad_(False)


def test_closed_forms() -> None:
    lm, sample = tiny_llama(), held_out()
    x_ND = clean_rows(lm, SITE, sample).double()
    mean_D = x_ND.mean(0)
    suites = {
        "perfect": {SITE: Toy(16)},
        "scaled": {SITE: Toy(16, gain=0.7)},
        "zero": {SITE: Toy(16, gain=0.0)},
        "mean": {SITE: Toy(16, gain=0.0, offset_D=mean_D.float())},
    }
    zero_bank = suites.pop("zero")
    results = reconstruction(suites, lm, sample, CONFIG)
    found = {name: values(result) for name, result in results.items()}
    perfect = found["perfect"]
    assert perfect["fvu"] == 0.0
    assert perfect["mse"] == 0.0
    assert perfect["cosine"] == pytest.approx(1.0)
    assert perfect["l2_ratio"] == pytest.approx(1.0)
    assert perfect["relative_bias"] == pytest.approx(1.0)
    assert perfect["l0"] == pytest.approx(16.0)
    assert perfect["l1"] == pytest.approx(float(x_ND.abs().sum(1).mean()), rel=1e-9)
    assert perfect["dead_share"] == 0.0
    scaled = found["scaled"]
    gain = float(torch.tensor(0.7))
    assert scaled["l2_ratio"] == pytest.approx(gain, rel=1e-6)
    assert scaled["relative_bias"] == pytest.approx(gain, rel=1e-6)  # g²‖x‖² / g‖x‖²
    total = float((x_ND - mean_D).square().sum())
    error = (1 - gain) ** 2 * float(x_ND.square().sum())
    assert scaled["fvu"] == pytest.approx(error / total, rel=1e-5)
    assert scaled["mse"] == pytest.approx(error / x_ND.numel(), rel=1e-5)
    assert found["mean"]["fvu"] == pytest.approx(1.0, rel=1e-5)
    zero = reconstruction({"zero": zero_bank}, lm, sample, CONFIG)["zero"].sites[SITE]
    assert zero["relative_bias"].value is None  # 0/0
    assert zero["cosine"].value == 0.0
    assert zero["fvu"].value == pytest.approx(float(x_ND.square().sum()) / total)


def test_equals_brute_force_per_site_and_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks_module, "LM_TOKENS", 5 * 24)
    monkeypatch.setattr(banks_module, "_ROWS", 7)
    monkeypatch.setattr(banks_module, "_ACTIVATIONS", 40)
    lm, sample = tiny_llama(), held_out()
    sites = ["layers.0", "layers.2"]
    banks = {
        "four": {site: topk(k=4) for site in sites},
        "two": {site: topk(k=2, width=24) for site in sites},
    }
    results = reconstruction(banks, lm, sample, CONFIG)
    for name, bank in banks.items():
        for site in sites:
            sae, x_ND = bank[site], clean_rows(lm, site, sample)
            f_NM, x_hat = sae.encode(x_ND), sae(x_ND).double()
            x, found = x_ND.double(), values(results[name], site)
            error = (x - x_hat).square().sum()
            expected = {
                "fvu": error / (x - x.mean(0)).square().sum(),
                "mse": error / x.numel(),
                "cosine": torch.cosine_similarity(x, x_hat).mean(),
                "l0": (f_NM > 0).sum(1).double().mean(),
                "l1": f_NM.double().sum(1).mean(),
                "l2_ratio": (x_hat.norm(dim=1) / x.norm(dim=1)).mean(),
                "relative_bias": x_hat.square().sum() / (x * x_hat).sum(),
                "dead_share": (f_NM.amax(0) <= 0).double().mean(),
            }
            assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-5)
            histogram = results[name].series[site]["log10_frequency_histogram"]
            live = int((f_NM.amax(0) > 0).sum())
            assert sum(histogram["counts"]) == live
            assert histogram["dead"] == sae.width - live
            assert len(histogram["edges"]) == len(histogram["counts"]) + 1


def test_interval_is_over_documents() -> None:
    lm, sample = tiny_llama(), held_out()
    result = reconstruction({"a": {SITE: topk()}}, lm, sample, EvalConfig(bootstrap=300))["a"]
    assert result.tokens == sample.kept == int(sample.keep_NT.sum())
    assert result.documents == sample.documents <= 30
    fvu = result.sites[SITE]["fvu"]
    assert fvu.low is not None
    assert fvu.high is not None
    assert fvu.low < known(fvu.value) < fvu.high
    assert result.sites[SITE]["dead_share"].low is None
    again = reconstruction({"a": {SITE: topk()}}, lm, sample, EvalConfig(bootstrap=300))["a"]
    assert again == result

    one = held_out(documents=1)
    result = reconstruction({"a": {SITE: topk()}}, lm, one, CONFIG)["a"]
    assert result.sites[SITE]["fvu"].low is None
    assert "too few documents (1;" in result.config["intervals"]


def test_excluded_positions_do_not_count() -> None:
    lm, sample = tiny_llama(), held_out()
    positions = torch.arange(24).expand(12, 24)
    late = HeldOut._of(sample.tokens_NT, sample.document_NT, sample.keep_NT & (positions > 9))
    few = values(reconstruction({"a": {SITE: topk()}}, lm, late, CONFIG)["a"])
    x_ND = lm.capture(sample.tokens_NT, [SITE])[SITE][late.keep_NT].double()
    error = (x_ND - topk()(x_ND.float()).double()).square().sum()
    assert few["fvu"] == pytest.approx(float(error / (x_ND - x_ND.mean(0)).square().sum()))


def test_bad_input_is_one_clear_line() -> None:
    lm, sample = tiny_llama(), held_out()
    cases: list[tuple[dict[str, dict[str, SAE]], str]] = [
        ({"runs/x": {}}, "runs/x has no SAE"),
        ({}, "no suite"),
        ({"runs/x": {SITE: Toy(12)}}, f"site {SITE} is for activations of width 12.*has 16"),
        ({"runs/x": {"layers.7": Toy(16)}}, "layers.7"),
        ({"runs/x": {"layers.*": Toy(16)}}, "layers"),
    ]
    for banks, message in cases:
        with pytest.raises(UserError, match=message) as error:
            reconstruction(banks, lm, sample, CONFIG)
        assert "\n" not in str(error.value)


def test_nan_names_site_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks_module, "LM_TOKENS", 5 * 24)
    lm, sample = tiny_llama(), held_out()
    calls = 0

    def poison(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * math.nan if calls == 3 else output  # the third batch of 5 sequences

    lm.sites([SITE])
    lm.width(SITE)
    block = lm.base.get_submodule("layers.1.mlp")
    handle = block.register_forward_hook(poison)
    with pytest.raises(UserError, match=r"site layers\.1: NaN .* batch 2"):
        reconstruction({"a": {SITE: topk()}}, lm, sample, CONFIG)
    handle.remove()


def test_no_held_out_documents() -> None:
    with pytest.raises(UserError, match="no held-out tokens"):
        HeldOut.take(iter([]), 100)


def test_takes_as_many_sequences_as_asked_for() -> None:
    sample = held_out()
    part = sample.first(50)
    assert 50 <= part.kept < 50 + 24
    assert part.rows == len(part.document_NT.unique())
    assert sample.first(10**9) is sample


def test_padding_is_no_document() -> None:
    tokens = torch.ones(1, 4, dtype=torch.long)
    document = torch.tensor([[5, 5, 6, -1]])
    sample = HeldOut._of(tokens, document, torch.ones(1, 4, dtype=torch.bool))
    assert sample.rows == sample.documents == 2
    assert sample.kept == 3
    assert sample.row_NT.tolist() == [[0, 0, 1, -1]]
