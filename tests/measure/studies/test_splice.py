import pytest
import torch

from helpers.studies import reconstruction, splice
from helpers.toys import Toy, clean_rows, held_out, tiny_llama, token_batch
from saeworks.config import EvalConfig
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.measure import banks as banks_module
from saeworks.measure.probe import HeldOutProbe
from saeworks.measure.studies import splice as splice_module
from saeworks.measure.studies.splice import counted

SITE = "layers.1"
CONFIG = EvalConfig(bootstrap=100)


def by_hand(lm, sample, replacement_ND):
    """CE per counted prediction, and KL from the clean model, with whole logits in float64."""

    def put(x_BTD: torch.Tensor) -> torch.Tensor:
        out = x_BTD.clone()
        out[sample.keep_NT] = replacement_ND
        return out

    clean = lm.run(sample.tokens_NT, {}, logits=True).double().log_softmax(-1)
    spliced = lm.run(sample.tokens_NT, {SITE: put}, logits=True).double().log_softmax(-1)
    ce, kl, ce_clean = [], [], []
    for b in range(sample.tokens_NT.shape[0]):
        for t in range(sample.tokens_NT.shape[1] - 1):
            same = sample.document_NT[b, t] == sample.document_NT[b, t + 1]
            if sample.keep_NT[b, t] and same:
                target = sample.tokens_NT[b, t + 1]
                ce.append(-spliced[b, t, target])
                ce_clean.append(-clean[b, t, target])
                kl.append((clean[b, t].exp() * (clean[b, t] - spliced[b, t])).sum())
    return tuple(float(torch.stack(values).mean()) for values in (ce_clean, ce, kl))


def test_closed_forms() -> None:
    lm, sample = tiny_llama(), held_out()
    mean_D = clean_rows(lm, SITE, sample).double().mean(0).float()
    banks = {
        "perfect": {SITE: Toy(16)},
        "zero": {SITE: Toy(16, gain=0.0)},
        "mean": {SITE: Toy(16, gain=0.0, offset_D=mean_D)},
    }
    results = splice(banks, lm, sample, CONFIG)
    perfect = results["perfect"].sites[SITE]
    for name in ("delta_ce", "delta_ce_percent", "kl"):
        assert (perfect[name].value, perfect[name].low, perfect[name].high) == (0.0, 0.0, 0.0)
    assert perfect["loss_recovered_zero"].value == perfect["loss_recovered_mean"].value == 1.0
    zero, mean = results["zero"].sites[SITE], results["mean"].sites[SITE]
    assert zero["loss_recovered_zero"].value == 0.0  # exactly the zero ablation
    assert mean["loss_recovered_mean"].value == pytest.approx(0.0, abs=1e-6)
    ablation = results["perfect"].series[SITE]["ablation"]
    assert zero["ce_spliced"].value == ablation["ce_zero"]
    assert mean["ce_spliced"].value == pytest.approx(ablation["ce_mean"], rel=1e-6)
    assert abs(zero["delta_ce"].value or 0) > 0.01  # the site matters, so the test means something


def test_equals_by_hand_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks_module, "_LOGITS", 5 * 24 * 64)
    monkeypatch.setattr(splice_module, "_LOGIT_ROWS", 7 * 64)
    lm, sample = tiny_llama(), held_out()
    torch.manual_seed(0)
    sae = build_sae("topk", d=16, width=40, k=3).requires_grad_(False)
    result = splice({"a": {SITE: sae}}, lm, sample, CONFIG)["a"]
    clean, spliced, kl = by_hand(lm, sample, sae(clean_rows(lm, SITE, sample)))
    found = {name: value.value for name, value in result.sites[SITE].items()}
    assert found["ce_clean"] == pytest.approx(clean, rel=1e-5)
    assert found["ce_spliced"] == pytest.approx(spliced, rel=1e-5)
    assert found["delta_ce"] == pytest.approx(spliced - clean, rel=1e-4)
    assert found["delta_ce_percent"] == pytest.approx(100 * (spliced - clean) / clean, rel=1e-4)
    assert found["kl"] == pytest.approx(kl, rel=1e-4)
    zero = by_hand(lm, sample, 0.0)[1]
    assert found["loss_recovered_zero"] == pytest.approx(
        (zero - spliced) / (zero - clean), rel=1e-3
    )
    assert result.tokens == int(counted(sample).sum())


def test_passes_are_shared_between_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sample = tiny_llama(), held_out()
    monkeypatch.setattr(lm, "skippable", {0: True, 2: True})  # else tried once, in two passes
    runs = 0
    plain = lm.run

    def counting(*args, **kwargs):
        nonlocal runs
        runs += bool(kwargs.get("logits"))
        return plain(*args, **kwargs)

    monkeypatch.setattr(lm, "run", counting)
    two = {"layers.0": Toy(16), "layers.2": Toy(16)}
    splice({"a": two, "b": two, "c": {"layers.0": Toy(16)}}, lm, sample, CONFIG)
    assert runs == 1 + 2 * 2 + 5  # clean, two ablations of two sites, five SAEs


def test_excluded_positions_keep_their_x() -> None:
    lm, sample = tiny_llama(), held_out()
    hook = splice_module.splice_hook(torch.zeros_like, sample, SITE, 0)
    clean = lm.capture(sample.tokens_NT, [SITE])[SITE]
    replaced = hook(clean)
    assert torch.equal(replaced[~sample.keep_NT], clean[~sample.keep_NT])
    assert not replaced[sample.keep_NT].any()


def test_bad_activations_are_named() -> None:
    lm, sample = tiny_llama(), held_out()
    handle = lm.base.get_submodule("layers.1.mlp").register_forward_hook(
        lambda module, args, output: output / 0
    )
    with pytest.raises(UserError, match=r"site layers\.1: NaN or infinity"):
        splice({"a": {SITE: Toy(16)}}, lm, sample, CONFIG)
    handle.remove()


def test_probe_agrees_with_the_evaluations_and_disturbs_nothing() -> None:
    lm, sample = tiny_llama(), held_out()
    torch.manual_seed(0)
    bank = {site: build_sae("topk", d=16, width=40, k=3) for site in ("layers.0", "layers.2")}
    before = torch.get_rng_state()
    probe = HeldOutProbe(lm, iter([token_batch()]), 10**9)
    found = probe(bank)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert probe(bank) == found
    fvu = reconstruction({"a": bank}, lm, sample, CONFIG)["a"]
    loss = splice({"a": bank}, lm, sample, CONFIG)["a"]
    for site in bank:
        assert found[site]["held_out_fvu"] == pytest.approx(fvu.sites[site]["fvu"].value)
        assert found[site]["delta_ce"] == pytest.approx(loss.sites[site]["delta_ce"].value)
