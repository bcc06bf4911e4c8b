from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.editing import edit
from helpers.numbers import known
from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.config import CompareConfig, EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.bootstrap import interval
from saeworks.measure.comparing.compare import (
    COMPARED,
    compare,
    compared_with,
)
from saeworks.measure.run import evaluate
from saeworks.measure.sums import read_sums, sums_path
from saeworks.results.comparison import Comparison
from saeworks.results.metric import Value
from saeworks.results.result import Result
from saeworks.suite import load_suite

QUICK = EvalConfig(tokens=2000, splice_tokens=500, latents=0, bootstrap=50, device="cpu")
PLAIN = CompareConfig(alignment=False, bootstrap=100, device="cpu")
ALIGNED = CompareConfig(tokens=1000, bootstrap=20, device="cpu")
EVERY = {name for names in COMPARED.values() for name in names}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model and its text; suites `base`, `other`, `shared` (one SAE), evaluated."""
    folder = tmp_path_factory.mktemp("run")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(300))
    suites = [
        written_suite(folder / "base", folder),
        written_suite(folder / "other", folder, seed=5, k=6),
        written_suite(folder / "shared", folder, {"both": SITES}, seed=7),
    ]
    evaluate(suites, QUICK)
    return folder


def test_equals_resampling_by_hand(run: Path) -> None:
    found = compare([run / "other"], [run / "base"], PLAIN)[run / "other"]
    assert Comparison.read(run / "other") == found
    assert list(found.sites) == list(SITES)
    assert all(set(values) == EVERY for values in found.sites.values())
    assert set(found.mean) == set(found.metrics) == EVERY
    assert (found.suite.path, found.baseline.path) == (".", "../base")
    sums = {
        name: read_sums(
            run / name / "results", Result.read(run / name / "results" / "reconstruction.json")
        )
        for name in ("other", "base")
    }
    n_R = sums["base"]["layers.0"]["n"]
    kept = n_R > 0
    documents = int(kept.sum())
    draws = np.random.default_rng(0).multinomial(documents, np.full(documents, 1 / documents), 100)
    without = 1 - np.eye(documents)
    drawn = np.concatenate([np.ones((1, documents)), without, draws])
    fvu = {
        name: np.array(
            [(drawn @ s[site]["error"][kept]) / (drawn @ s[site]["variance"][kept]) for site in s]
        )
        for name, s in sums.items()
    }
    for row, site in [(0, SITES[0]), (1, SITES[1]), (None, "")]:
        own, other = (
            fvu[name].mean(0) if row is None else fvu[name][row] for name in ("other", "base")
        )
        pair = found.mean["fvu"] if row is None else found.sites[site]["fvu"]
        for value, expected in [
            (pair.suite, own),
            (pair.baseline, other),
            (pair.difference, own - other),
            (pair.ratio, own / other),
        ]:
            assert value is not None
            by_hand = interval(expected, documents)
            assert (value.value, value.low, value.high) == pytest.approx(
                (by_hand.value, by_hand.low, by_hand.high)
            )
    reconstruction = Result.read(run / "other" / "results" / "reconstruction.json")
    splice = Result.read(run / "other" / "results" / "splice.json")
    for site in SITES:
        values = reconstruction.sites[site] | splice.sites[site]
        for metric in EVERY:
            assert found.sites[site][metric].suite.value == pytest.approx(values[metric].value)


def test_pairing_narrows_the_interval(run: Path) -> None:
    found = compare([run / "other"], [run / "base"], PLAIN)[run / "other"]

    def width(value: Value) -> float:
        return known(value.high) - known(value.low)

    pair = found.sites["layers.0"]["mse"]
    apart = np.hypot(width(pair.suite), width(pair.baseline))
    assert 0 < width(pair.difference) < 0.7 * apart


def test_a_suite_and_itself_are_equal(run: Path) -> None:
    found = compare([run / "base"], [run / "base"], ALIGNED)[run / "base"]
    for values in (*found.sites.values(), found.mean):
        for metric, pair in values.items():
            difference = pair.difference
            assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0), metric
            if pair.ratio is not None:
                assert (pair.ratio.value, pair.ratio.low, pair.ratio.high) == (1.0, 1.0, 1.0)
    assert found.alignment is not None
    for site in found.alignment.sites.values():
        assert site.suite.mmcs == pytest.approx(1.0)
        assert site.suite.mmco == 1.0
        assert (site.live, site.silent) == (site.suite_live, site.suite_silent)


def test_the_order_of_latents_does_not_matter(run: Path) -> None:
    def permute(sae: SAE) -> None:
        order = torch.randperm(sae.width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            for parameter in sae.parameters():
                if parameter.shape[0] == sae.width:
                    parameter.copy_(parameter[order].clone())

    path = written_suite(run / "permuted", run, change=permute)
    evaluate([path], QUICK)
    found = compare([path], [run / "base"], ALIGNED)[path]
    assert found.alignment is not None
    for site, values in found.sites.items():
        assert values["fvu"].difference.value == pytest.approx(0.0, abs=1e-6)
        own = found.alignment.sites[site].suite
        assert (own.mmcs, own.mmco) == pytest.approx((1.0, 1.0))


def test_dictionaries_beside_those_of_another_seed(run: Path) -> None:
    """One pass of the language model for all; only an SAE that sites share has a spread."""
    seed = written_suite(run / "base-1", run, seed=90)
    suites = [run / "shared", run / "other"]
    found = compare(suites, [run / "base", seed], ALIGNED)
    assert [one.seeds[0].variant for one in found.values()] == ["base-1"] * 2
    shared, other = (found[path].alignment for path in suites)
    assert shared is not None
    assert other is not None
    assert other.spread == {}
    assert shared.spread["both"].sites == list(SITES)
    assert shared.spread["both"].live + shared.spread["both"].silent == 48
    for site in SITES:
        assert shared.sites[site].seeds == other.sites[site].seeds
        assert len(shared.sites[site].seeds) == 1
        assert shared.sites[site].suite != other.sites[site].suite
        assert 0.1 < (shared.sites[site].suite.mmcs or 0) < 0.9
        assert 0.0 < (shared.sites[site].suite.mmco or 0) < 0.9
    assert shared.tokens >= 1000
    assert Comparison.read(run / "shared") == found[run / "shared"]


def test_alone_it_needs_no_language_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LanguageModel, "load")
    assert compare([run / "other"], [run / "base"], PLAIN)[run / "other"].alignment is None


def test_what_was_not_spliced_is_compared_in_reconstruction_alone(run: Path) -> None:
    path = written_suite(run / "unspliced", run, {"layers.2": ["layers.2"]})
    evaluate([path], replace(QUICK, splice=False))
    found = compare([path], [run / "base"], PLAIN)[path]
    assert list(found.sites) == ["layers.2"]
    assert set(found.mean) == set(COMPARED["reconstruction"])


def test_what_differs_besides_the_sae_stands_beside_the_ratio(run: Path) -> None:
    suites = {name: load_suite(run / name) for name in ("base", "other", "shared")}
    found = compared_with(suites["other"], suites["base"], [], PLAIN)
    assert found.notes == ["L0 is 6 and 4"]
    assert compared_with(suites["shared"], suites["base"], [], PLAIN).notes == []
    suites["shared"].meta["tokens"] = 48_000 * 100
    suites["base"].meta["tokens"] = 48 * 999
    suites["shared"].meta["seed"] = 1
    suites["shared"].meta["text"]["context"] = 64
    assert compared_with(suites["shared"], suites["base"], [], PLAIN).notes == [
        "trained on 4,800,000 and 47,952 tokens",
        "trained with seeds 1 and 0, which order the text",
        "trained on other text (context 64 and 32)",
        "999 tokens per latent, fewer than 1,000: a short run, in which wide and Switch SAEs stand "
        "worse beside narrow ones than in a long one",
    ]


def bad(suite: Path, baseline: Path, message: str, config: CompareConfig = PLAIN) -> None:
    with pytest.raises(UserError, match=message) as error:
        compare([suite], [baseline], config)
    assert "\n" not in str(error.value)


def test_no_site_in_common(run: Path) -> None:
    path = written_suite(run / "elsewhere", run, {"layers.1": ["layers.1"]})
    bad(path, run / "base", "no site in common: layers.1 against layers.0, layers.2")


def test_not_evaluated(run: Path) -> None:
    bad(written_suite(run / "raw", run), run / "base", "not evaluated yet: run `saeworks eval`")


def test_evaluated_before_sums_were_kept(run: Path) -> None:
    path = written_suite(run / "old", run)
    evaluate([path], QUICK)
    sums_path(path / "results", "splice").unlink()
    bad(path, run / "base", r"splice\.json has no sums by document.*saeworks eval")
    bad(run / "base", path, r"splice\.json has no sums by document.*saeworks eval")


def test_other_held_out_tokens(run: Path) -> None:
    path = written_suite(run / "fewer", run)
    evaluate([path], replace(QUICK, tokens=1000))
    bad(path, run / "base", "different held-out tokens.*reconstruction.*saeworks eval")
    evaluate([path], replace(QUICK, splice_tokens=300))
    bad(path, run / "base", "different held-out tokens.*splice.*saeworks eval")


def test_another_language_model(run: Path) -> None:
    path = written_suite(run / "strange", run)
    edit(path / "suite.json", lambda meta: meta["model"].update(fingerprint="0" * 64))
    bad(path, run / "base", "different language models .fingerprints 000000000000")
    with pytest.raises(UserError, match="different language models"):
        compare([run / "other"], [run / "base", path], PLAIN)


def test_bad_options(run: Path) -> None:
    with pytest.raises(UserError, match="tokens = 0: it must be at least 1"):
        CompareConfig(tokens=0)
    for suites, baselines in ([], [run / "base"]), ([run / "base"], []):
        with pytest.raises(UserError, match="--baseline"):
            compare(suites, baselines, PLAIN)
    edit(run / "other" / "results" / "comparison.json", lambda data: data.update(schema=2))
    with pytest.raises(UserError, match=r"comparison\.json has schema"):
        Comparison.read(run / "other")
