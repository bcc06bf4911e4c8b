"""What `saeworks explain` measures, against dense codes; its draws, controls and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.numbers import known
from helpers.studies import results
from helpers.toy_suites import SITES, written_suite
from helpers.toys import clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.engine import Subject
from saeworks.measure.explaining.config import ExplainConfig
from saeworks.measure.explaining.metrics import F1, RARE_SHARE, SHUFFLED_F1
from saeworks.measure.explaining.readings import NAMED, draw
from saeworks.measure.explaining.run import explain
from saeworks.measure.explaining.stretches import LENGTH, SHORTEST, Stretches, sample, shown
from saeworks.measure.explaining.study import Explain
from saeworks.measure.held_out import HeldOut
from saeworks.results.result import Result
from saeworks.results.series import DRAWN, EXPLAINED

SITE = "layers.1"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def tokens() -> HeldOut:
    return held_out(sequences=60, documents=90)


@pytest.fixture(scope="module")
def sae() -> SAE:
    torch.manual_seed(0)
    return build_sae("topk", d=16, width=96, k=5).requires_grad_(False)


def explained(lm: LanguageModel, tokens: HeldOut, sae: SAE, config: ExplainConfig) -> Result:
    study = Explain(Subject.of({"a": {SITE: sae}}, lm, tokens), config)
    return results(lm, study)["a"]


def test_the_numbers_of_a_latent_against_its_dense_code(
    lm: LanguageModel, tokens: HeldOut, sae: SAE
) -> None:
    config = ExplainConfig(latents=12, least=5, bootstrap=100)
    study = Explain(Subject.of({"a": {SITE: sae}}, lm, tokens), config)
    result = results(lm, study)["a"]
    f_NM = sae.encode(clean_rows(lm, SITE, tokens)).numpy()
    row_N = tokens.row_NT[tokens.keep_NT].numpy()
    half_N = study.halves.fitting_R[row_N]
    assert not set(row_N[half_N]) & set(row_N[~half_N])
    per_half = np.stack([(f_NM[half_N] > 0).sum(0), (f_NM[~half_N] > 0).sum(0)])
    series = result.series[SITE]
    drawn, enough = series[DRAWN], np.all(per_half >= 5, axis=0)
    assert drawn["dead"] == (per_half.sum(0) == 0).sum()
    assert drawn["rare"] == ((per_half.sum(0) > 0) & ~enough).sum()
    assert len(series[EXPLAINED]) == drawn["explained"] == 12
    scores = []
    for one in series[EXPLAINED]:
        assert enough[one["latent"]]
        assert one["fired"] == per_half[:, one["latent"]].sum()
        (explanation,) = one["explanations"]
        assert explanation["by"] == "program" and explanation["text"]
        (of_f1,) = [score for score in explanation["scores"] if score["metric"] == F1]
        assert of_f1["low"] is None or of_f1["low"] <= of_f1["value"] <= of_f1["high"]
        scores.append(of_f1["value"])
    value = result.sites[SITE][F1]
    assert value.value == pytest.approx(np.mean(scores), abs=1e-4)
    assert known(value.low) < known(value.value) < known(value.high)


def test_the_same_again_and_beside_other_suites(
    lm: LanguageModel, tokens: HeldOut, sae: SAE
) -> None:
    config = ExplainConfig(latents=6, least=5, bootstrap=50)
    torch.manual_seed(1)
    other = build_sae("topk", d=16, width=48, k=3).requires_grad_(False)
    banks = {"b": {SITE: other, "layers.0": sae}, "a": {SITE: sae}}
    together = results(lm, Explain(Subject.of(banks, lm, tokens), config))["a"]
    alone = explained(lm, tokens, sae, config)
    assert together.sites == alone.sites
    assert together.series == alone.series
    assert together.findings == alone.findings


def test_explanations_of_tokens_do_better_than_those_of_others(
    lm: LanguageModel, tokens: HeldOut
) -> None:
    """Before the first block an activation is its token's embedding."""
    torch.manual_seed(0)
    sae = build_sae("topk", d=16, width=48, k=2).requires_grad_(False)
    study = Explain(
        Subject.of({"a": {"layers.0@in": sae}}, lm, tokens), ExplainConfig(latents=20, least=5)
    )
    values = results(lm, study)["a"].sites["layers.0@in"]
    own, other = values[F1], values[SHUFFLED_F1]
    assert own.low is not None and other.high is not None
    assert own.low > 0.7 > other.high


def test_draws_are_uniform_over_the_latents_that_fire_often_enough() -> None:
    counts = torch.zeros(2, 40, dtype=torch.int64)
    counts[:, :30] = 9
    counts[1, 20:30] = 2
    seen: list[int] = []
    for seed in range(200):
        chosen, drawn = draw(counts, ExplainConfig(latents=4, least=5, seed=seed), "a", SITE)
        assert (drawn.dead, drawn.rare, drawn.explained) == (10, 10, 4)
        assert len(set(chosen)) == 4
        seen += chosen
    times = np.bincount(seen, minlength=40)
    assert (times[20:] == 0).all()
    assert (times[:20] > 15).all() and (times[:20] < 75).all()  # 40 expected, 4 deviations


@pytest.mark.parametrize(
    ("latent", "counts", "message"),
    [
        (7, (3, 3), "has no latent 7: its latents are 0 to 3"),
        (1, (0, 0), "latent 1 never fires on these tokens"),
        (1, (20, 3), "latent 1 fires on 20 and 3 tokens of the two halves, and 10 of each"),
    ],
)
def test_a_latent_that_cannot_be_explained_is_refused(
    latent: int, counts: tuple[int, int], message: str
) -> None:
    counts_2M = torch.tensor([[20, counts[0], 20, 20], [20, counts[1], 20, 20]])
    with pytest.raises(UserError, match=message):
        draw(counts_2M, ExplainConfig(latent=(latent,)), "a", SITE)


def test_named_latents_are_explained_and_called_so(
    lm: LanguageModel, tokens: HeldOut, sae: SAE
) -> None:
    two = explained(lm, tokens, sae, ExplainConfig(latents=2, least=5)).series[SITE][EXPLAINED]
    numbers = tuple(one["latent"] for one in two)
    series = explained(lm, tokens, sae, ExplainConfig(latent=numbers, least=5)).series[SITE]
    assert [one["latent"] for one in series[EXPLAINED]] == list(numbers)
    assert series[DRAWN]["how"] == NAMED


def test_where_all_are_too_rare_nothing_is_explained_and_that_is_said(
    lm: LanguageModel, tokens: HeldOut, sae: SAE
) -> None:
    result = explained(lm, tokens, sae, ExplainConfig(least=10**6))
    assert result.series[SITE][EXPLAINED] == []
    assert result.sites[SITE][F1].value is None
    assert result.sites[SITE][RARE_SHARE].value == 1
    (finding,) = result.findings
    assert finding.startswith("Explained: 0 of 96 latents")


def test_one_document_cannot_judge_itself(lm: LanguageModel, sae: SAE) -> None:
    tokens = held_out(sequences=2, documents=1)
    with pytest.raises(UserError, match="of one document"):
        Explain(Subject.of({"a": {SITE: sae}}, lm, tokens), ExplainConfig())


@pytest.fixture(scope="module")
def stretches(tokens: HeldOut) -> Stretches:
    fitting_R = np.arange(tokens.rows) % 2 == 0
    return Stretches.of(tokens, fitting_R)


def test_stretches_are_cut_within_documents(tokens: HeldOut, stretches: Stretches) -> None:
    place_N = tokens.keep_NT.flatten().nonzero()[:, 0].numpy()
    row_N = tokens.row_NT[tokens.keep_NT].numpy()
    taken = np.zeros(len(place_N), int)
    for start, end, fitting in zip(
        stretches.start_S, stretches.end_S, stretches.fitting_S, strict=True
    ):
        assert SHORTEST <= end - start <= LENGTH
        assert (np.diff(place_N[start:end]) == 1).all()
        assert len(set(row_N[start:end])) == 1
        assert fitting == (row_N[start] % 2 == 0)
        taken[start:end] += 1
    assert taken.max() == 1 and taken.mean() > 0.5


def test_contexts_shown_are_never_scored_and_marks_are_right_or_wrong(
    stretches: Stretches,
) -> None:
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(rng.random(len(stretches.token_N)) < 0.05)
    values = rng.random(len(rows))
    of_latent = sample(stretches, rows, 10, (0, 1))
    given = shown(stretches, rows, values, 8, (0, 1))
    scored = [s for s, _ in of_latent.detection] + [one.stretch for one in of_latent.fuzzing]
    assert stretches.fitting_S[given].all() and not stretches.fitting_S[scored].any()
    assert len(set(given)) == 8

    def within(stretch: int) -> set[int]:
        return set(range(stretches.start_S[stretch], stretches.end_S[stretch]))

    for stretch, fires in of_latent.detection:
        assert fires == bool(set(rows.tolist()) & within(stretch))
    assert sum(fires for _, fires in of_latent.detection) == 10
    for one in of_latent.fuzzing:
        really, marks = set(rows.tolist()) & within(one.stretch), set(one.rows.tolist())
        assert len(marks) == len(really) and marks <= within(one.stretch)
        assert marks == really if one.right else not marks & really
    at = stretches.containing(rows)
    seen = (at >= 0) & stretches.fitting_S[at]
    assert given[0] == at[seen][values[seen].argmax()]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(200))
    return written_suite(folder / "suite", folder)


def test_a_suite_gets_its_result_at_the_sites_asked_for(suite: Path) -> None:
    config = ExplainConfig(tokens=1500, latents=5, least=3, bootstrap=20, site=(SITES[1],))
    lines: list[str] = []
    explain([suite], config, say=lines.append)
    result = Result.read(suite / "results" / "explanations.json")
    assert list(result.sites) == [SITES[1]]
    assert len(result.series[SITES[1]][EXPLAINED]) == 5
    assert any(line.startswith("programs: done") for line in lines)
    assert any("latents" in finding for finding in result.findings)


def test_a_site_without_sae_is_refused(suite: Path) -> None:
    with pytest.raises(UserError, match=r"--site 'layers.7': no suite has an SAE there, but at"):
        explain([suite], ExplainConfig(tokens=500, site=("layers.7",)))
