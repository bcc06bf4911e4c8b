import os
import subprocess
import sys

import pytest
import torch

from helpers.studies import latents
from helpers.toys import clean_rows, held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.lm.model import LanguageModel
from saeworks.lm.unembedding import Unembedding
from saeworks.measure import banks as banks_module
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies import cofiring, contexts
from saeworks.measure.studies import latents as latents_module
from saeworks.measure.studies.contexts import AFTER, BEFORE
from saeworks.measure.studies.latents import choose

SITE = "layers.1"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def sample() -> HeldOut:
    return held_out(sequences=40, documents=90)


@pytest.fixture(scope="module")
def sae() -> SAE:
    torch.manual_seed(0)
    return build_sae("topk", d=16, width=96, k=5).requires_grad_(False)


def document_peaks(f_N: torch.Tensor, sample: HeldOut) -> dict[int, float]:
    """Document → largest activation, the plain way."""
    peaks: dict[int, float] = {}
    for value, document in zip(
        f_N.tolist(), sample.document_NT[sample.keep_NT].tolist(), strict=True
    ):
        peaks[document] = max(peaks.get(document, 0.0), value)
    return {document: value for document, value in peaks.items() if value > 0}


def test_every_number_against_the_dense_codes(
    lm: LanguageModel, sample: HeldOut, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks_module, "LM_TOKENS", 7 * 24)  # documents span batches
    result = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=12))["a"]
    f_NM = sae.encode(clean_rows(lm, SITE, sample))
    found = result.series[SITE]["latents"]
    assert len({entry["latent"] for entry in found}) == 12
    for entry in found:
        f_N = f_NM[:, entry["latent"]]
        assert entry["frequency"] == pytest.approx(float((f_N > 0).double().mean()))
        assert entry["mean_activation"] == pytest.approx(float(f_N[f_N > 0].mean()), rel=1e-5)
        assert entry["max_activation"] == pytest.approx(float(f_N.max()), rel=1e-5)
        assert sum(entry["histogram"]["counts"]) == int((f_N > 0).sum())
        assert len(entry["histogram"]["edges"]) == len(entry["histogram"]["counts"]) + 1
        peaks = document_peaks(f_N, sample)
        top = [c for c in entry["contexts"] if c["kind"] == "top"]
        rest = [c for c in entry["contexts"] if c["kind"] == "quantile"]
        best = sorted(peaks.values(), reverse=True)[:10]
        shown = [c["activations"][c["peak"]] for c in top]
        assert shown == pytest.approx(best, rel=1e-3)
        assert len(rest) == min(4, max(0, len(peaks) - 10))
        documents = [c["document"] for c in entry["contexts"]]
        assert len(set(documents)) == len(documents)
        for context in entry["contexts"]:
            peak = context["activations"][context["peak"]]
            assert peak == pytest.approx(peaks[context["document"]], rel=1e-3)
            assert peak == max(peak, 0.0)


def test_windows_stay_in_their_document_and_line_up(
    lm: LanguageModel, sample: HeldOut, sae: SAE
) -> None:
    result = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=6))["a"]
    f_NM = sae.encode(clean_rows(lm, SITE, sample))
    f_BTM = torch.zeros(*sample.tokens_NT.shape, sae.width)
    f_BTM[sample.keep_NT] = f_NM
    for entry in result.series[SITE]["latents"]:
        for context in entry["contexts"]:
            ids = [int(token.strip()[1:]) for token in context["tokens"]]
            assert len(ids) == len(context["activations"]) <= BEFORE + 1 + AFTER
            matches = [
                (b, t)
                for b in range(sample.tokens_NT.shape[0])
                for t in range(sample.tokens_NT.shape[1] - len(ids) + 1)
                if sample.tokens_NT[b, t : t + len(ids)].tolist() == ids
                and set(sample.document_NT[b, t : t + len(ids)].tolist()) == {context["document"]}
            ]
            expected = [f_BTM[b, t : t + len(ids), entry["latent"]].tolist() for b, t in matches]
            assert any(context["activations"] == pytest.approx(e, rel=1e-3) for e in expected)


def test_neighbours_are_the_nearest_decoder_rows(
    lm: LanguageModel, sample: HeldOut, sae: SAE
) -> None:
    result = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=4))["a"]
    w_dec_MD = torch.nn.functional.normalize(sae.w_dec, dim=1)
    for entry in result.series[SITE]["latents"]:
        cosine_M = w_dec_MD @ w_dec_MD[entry["latent"]]
        order = [int(i) for i in cosine_M.argsort(descending=True) if i != entry["latent"]][:5]
        assert [n["latent"] for n in entry["neighbours"]] == order
        for neighbour in entry["neighbours"]:
            expected = float(cosine_M[neighbour["latent"]])
            assert neighbour["cosine"] == pytest.approx(expected, abs=1e-3)


def test_choice_is_live_spread_and_seeded() -> None:
    fired_M = torch.cat([torch.zeros(50, dtype=torch.long), torch.arange(1, 101)])
    chosen = choose(fired_M, 10, (0, 1))
    assert chosen == choose(fired_M, 10, (0, 1))
    assert chosen != choose(fired_M, 10, (1, 1))
    counts = [int(fired_M[i]) for i in chosen]
    assert [(100 - c) // 10 for c in counts] == list(range(10))  # one from each tenth
    assert sorted(choose(fired_M, 1000, (0,))) == list(range(50, 150))
    assert choose(torch.zeros(8, dtype=torch.long), 3, (0,)) == []


def test_an_sae_that_never_fires(lm: LanguageModel, sample: HeldOut) -> None:
    dead = build_sae("topk", d=16, width=32, k=2).requires_grad_(False)
    dead.get_parameter("b_enc").fill_(-1e6)
    result = latents({"a": {SITE: dead}}, lm, sample, EvalConfig(latents=5))["a"]
    assert result.series[SITE]["latents"] == []


def test_same_result_whatever_the_global_generator(
    lm: LanguageModel, sample: HeldOut, sae: SAE
) -> None:
    config = EvalConfig(latents=5)
    first = latents({"a": {SITE: sae}}, lm, sample, config)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert latents({"a": {SITE: sae}}, lm, sample, config) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_does_not_grow_with_the_tokens(
    lm: LanguageModel, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    plain = contexts.Watcher.see

    def measured(self, chunk):
        plain(self, chunk)
        held = [tensor for pool in (self.top, self.sampled) for tensor in vars(pool).values()]
        sizes.append(sum(tensor.numel() for tensor in held if isinstance(tensor, torch.Tensor)))

    monkeypatch.setattr(contexts.Watcher, "see", measured)
    monkeypatch.setattr(banks_module, "LM_TOKENS", 24)
    latents({"a": {SITE: sae}}, lm, held_out(sequences=20), EvalConfig(latents=3))
    assert len(sizes) == 20
    assert len(set(sizes)) == 1


def test_the_contexts_hang_neither_on_batches_nor_on_tiles(
    lm: LanguageModel, sample: HeldOut, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvalConfig(latents=40)
    whole = latents({"a": {SITE: sae}}, lm, sample, config)
    monkeypatch.setattr(banks_module, "LM_TOKENS", 5 * 24)
    monkeypatch.setattr(banks_module, "_ROWS", 30)
    monkeypatch.setattr(banks_module, "_ACTIVATIONS", 1)
    monkeypatch.setattr(contexts, "_PAIRS", 100)
    monkeypatch.setattr(contexts, "_TILE", 3)
    monkeypatch.setattr(latents_module, "_COSINES", 7**2)
    cut = latents({"a": {SITE: sae}}, lm, sample, config)
    for one, other in zip(
        whole["a"].series[SITE]["latents"], cut["a"].series[SITE]["latents"], strict=True
    ):
        assert one["contexts"] == other["contexts"]
        assert one["histogram"] == other["histogram"]
        assert [n["latent"] for n in one["neighbours"]] == [
            n["latent"] for n in other["neighbours"]
        ]


def test_what_is_sampled_is_fair(lm: LanguageModel, sample: HeldOut, sae: SAE) -> None:
    peaks = contexts.Peaks(
        torch.arange(2000).repeat_interleave(5),
        torch.arange(5).repeat(2000),
        torch.zeros(10_000, dtype=torch.int64),
        torch.ones(10_000),
    )
    keys = contexts._lottery(3)(peaks).view(2000, 5)
    assert 0 <= float(keys.min()) < float(keys.max()) < 1
    first = torch.bincount(keys.argmax(1), minlength=5) / 2000
    assert first.tolist() == pytest.approx([0.2] * 5, abs=0.04)
    other = contexts._lottery(4)(peaks).view(2000, 5)
    assert float(torch.corrcoef(torch.stack([keys.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_the_choice_is_told(lm: LanguageModel, sample: HeldOut, sae: SAE) -> None:
    series = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=4))["a"].series[SITE]
    f_NM = sae.encode(clean_rows(lm, SITE, sample))
    assert series["choice"]["width"] == 96
    assert series["choice"]["live"] == int((f_NM > 0).any(0).sum())
    assert "equal parts" in series["choice"]["how"]


MEMORY = """
import resource, sys, tempfile
from pathlib import Path
import torch
from helpers.toys import held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary.registry import build_sae
from saeworks.measure.engine import Subject, sweep
from saeworks.measure.studies.latents import Latents
from saeworks.measure.studies.reconstruction import Reconstruction

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

torch.set_num_threads(1)
lm, sample = tiny_llama(), held_out(sequences=150, documents=300)
torch.manual_seed(0)
banks = {"a": {"layers.1": build_sae("topk", d=16, width=2**16, k=16).requires_grad_(False)}}
subject, config = Subject.of(banks, lm, sample), EvalConfig(latents=3000)
tally = Reconstruction(subject, config).tally
sweep(lm, [tally])
before = peak()
study = Latents(subject, config, tally)
study.followed.needs = ()
sweep(lm, study.readings)
result = study.results()["a"].result
assert len(result.series["layers.1"]["latents"]) == 3000
result.write(Path(tempfile.mkdtemp()) / "latents.json")
print(peak() - before)
"""


def test_memory_does_not_grow_with_latents_times_width() -> None:
    """3,000 latents by 2^16 would be 0.7 GiB of cosines."""
    command = [sys.executable, "-c", MEMORY]
    here = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | here, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.25 * 2**30


def test_partners_are_those_with_the_largest_phi(
    lm: LanguageModel, sample: HeldOut, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cofiring, "_TILE", 7 * 96)  # tiles of seven latents
    result = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=20))["a"]
    fires_NM = sae.encode(clean_rows(lm, SITE, sample)) > 0
    phi_MM = torch.corrcoef(fires_NM.T.double()).nan_to_num(0).fill_diagonal_(0)
    for entry in result.series[SITE]["latents"]:
        own = entry["latent"]
        best = phi_MM[own].sort(descending=True).values[:5]
        partners = entry["partners"]
        assert [p["phi"] for p in partners] == pytest.approx(best[best > 0].tolist(), rel=1e-3)
        for partner in partners:
            other = partner["latent"]
            assert partner["phi"] == pytest.approx(float(phi_MM[own, other]), rel=1e-3)
            both = (fires_NM[:, own] & fires_NM[:, other]).sum() / fires_NM[:, own].sum()
            assert partner["share"] == pytest.approx(float(both), rel=1e-3)


def test_partners_are_counted_in_bounded_memory(sae: SAE) -> None:
    x_ND = torch.randn(100, 16)
    firings = cofiring.CoFirings(sae.width, 300)  # of 5 a token
    for part_ND in x_ND.split(25):
        firings.add(sae.encode_sparse(part_ND))
    assert (firings.tokens, firings.whole) == (50, False)
    first = cofiring.CoFirings(sae.width)
    first.add(sae.encode_sparse(x_ND[:50]))
    for some, same in zip(*(f.partners(torch.arange(96)) for f in (firings, first)), strict=True):
        assert (some == same).all()
    nothing = cofiring.CoFirings(sae.width).partners(torch.arange(3))
    assert nothing.of(0) == []


def test_promoted_and_suppressed_tokens_are_the_ends_of_the_effect(
    lm: LanguageModel, sample: HeldOut, sae: SAE
) -> None:
    series = latents({"a": {SITE: sae}}, lm, sample, EvalConfig(latents=4))["a"].series[SITE]
    assert series["choice"]["effects"] == str(Unembedding.of(lm))
    for entry in series["latents"]:
        (effect_V,) = Unembedding.of(lm).effect(sae.w_dec[[entry["latent"]]])
        order = effect_V.argsort(descending=True).tolist()
        for kind, tokens in (("promoted", order[:10]), ("suppressed", order[::-1][:10])):
            assert [told["token"] for told in entry[kind]] == [f" w{token}" for token in tokens]
            expected = effect_V[tokens].tolist()
            assert [told["effect"] for told in entry[kind]] == pytest.approx(expected, rel=1e-3)


def test_where_nothing_is_added_there_are_no_effects(lm: LanguageModel, sample: HeldOut) -> None:
    site = "layers.1.input_layernorm"
    sae = build_sae("topk", d=16, width=32, k=2).requires_grad_(False)
    series = latents({"a": {site: sae}}, lm, sample, EvalConfig(latents=2))["a"].series[site]
    assert "neither a block's input or output" in series["choice"]["effects"]
    assert all(entry["promoted"] == entry["suppressed"] == [] for entry in series["latents"])


def test_a_latent_names_its_expert(lm: LanguageModel, sample: HeldOut) -> None:
    switch = build_sae("switch", d=16, width=64, k=4, experts=4).requires_grad_(False)
    series = latents({"a": {SITE: switch}}, lm, sample, EvalConfig(latents=64))["a"].series[SITE]
    assert all(entry["expert"] == entry["latent"] // 16 for entry in series["latents"])
    assert len({entry["expert"] for entry in series["latents"]}) > 1


def test_by_default_all_latents_of_a_small_suite_and_some_of_a_large_one(
    lm: LanguageModel, sample: HeldOut, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks = {"a": {"layers.0": sae, SITE: sae}}

    def shown() -> list[tuple[int, int]]:
        series = latents(banks, lm, sample, EvalConfig())["a"].series.values()
        return [(len(site["latents"]), site["choice"]["live"]) for site in series]

    monkeypatch.setattr(latents_module, "OF_A_SUITE", 2 * 96)
    assert all(count == live for count, live in shown())
    monkeypatch.setattr(latents_module, "OF_A_SUITE", 9)
    assert [count for count, _ in shown()] == [4, 4]
