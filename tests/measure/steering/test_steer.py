"""`saeworks steer` on small suites of the embedded model and of a real one: numbers, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.toy_suites import written_suite
from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.steering.config import SteeringConfig
from saeworks.measure.steering.run import steer
from saeworks.results.records import parse
from saeworks.results.result import Result
from saeworks.results.series import SteeredConcept, SteeredConcepts

SUITES = Path(__file__).parents[2] / "golden" / "suites" / "main"
SMALL = SteeringConfig(
    concepts=("domain=story", "name_gender=female"),
    sites=("3@resid",),
    strengths=(0.5, 1.0),
    tokens=8000,
    cost_tokens=600,
    prompts=12,
    new_tokens=12,
    candidates=2,
    controls=1,
    bootstrap=50,
    device="cpu",
)


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steer") / "suites"
    shutil.copytree(SUITES, folder)
    return folder


@pytest.fixture(scope="module")
def results(suites: Path) -> dict[str, Result]:
    paths = [suites / "topk-w64-k8", suites / "switch-w64-k8-experts4-g1-user"]
    steered = steer(paths, replace(SMALL, task="agreement"))
    return {path.name: result for path, result in steered.items()}


def concepts_of(result: Result, site: str) -> list[SteeredConcept]:
    return parse(SteeredConcepts, result.series[site]["steered"], "test", "").root


def test_suites_are_steered_together_and_share_what_needs_no_sae(
    results: dict[str, Result], suites: Path
) -> None:
    first, second = (concepts_of(result, "layers.3") for result in results.values())
    assert [concept.concept for concept in first] == ["domain=story", "name_gender=female"]
    for ours, theirs in zip(first, second, strict=True):
        mine, other = ({c.by: c for c in each.curves} for each in (ours, theirs))
        assert list(mine) == ["latents", "mean difference", "random latents", "random directions"]
        for by in ("mean difference", "random directions"):
            assert mine[by] == other[by]
        assert mine["latents"] != other["latents"]
    read = Result.read(suites / "topk-w64-k8" / "results" / "steer.json")
    assert read.values() == results["topk-w64-k8"].values()


def test_an_untouched_model_costs_nothing_and_a_harder_push_more(
    results: dict[str, Result],
) -> None:
    for concept in concepts_of(results["topk-w64-k8"], "layers.3"):
        untouched = {
            point.rate.value for c in concept.curves for point in c.points if not point.strength
        }
        assert len(untouched) == 1
        for curve in concept.curves:
            assert [point.strength for point in curve.points] == [-1.0, -0.5, 0.0, 0.5, 1.0]
            costs = [point.cost.value or 0.0 for point in curve.points]
            assert costs[2] == 0 and costs[0] > costs[1] > 0 and costs[4] > costs[3] > 0
            tasks = [point.task for point in curve.points]
            assert tasks[2] is not None and tasks[2].value == 0
            assert any(task is not None and abs(task.value or 0) > 0.01 for task in tasks)
        assert concept.ablated.cost.value is not None


def test_the_difference_of_means_moves_the_rate_of_its_concept(results: dict[str, Result]) -> None:
    story = concepts_of(results["topk-w64-k8"], "layers.3")[0]
    curve = next(curve for curve in story.curves if curve.by == "mean difference")
    rates = [point.rate.value for point in curve.points]
    assert rates[0] is not None and rates[-1] is not None and rates[-1] > 0.5 + rates[0]
    values = results["topk-w64-k8"].sites["layers.3"]
    latents, means = values["span_latents"].value, values["span_mean_difference"].value
    assert latents is not None and means is not None
    assert values["advantage"].value == pytest.approx(latents - means)


def test_findings_and_texts_say_what_was_pushed(results: dict[str, Result]) -> None:
    result = results["topk-w64-k8"]
    assert result.findings[0].startswith("At layers.3, pushes that cost 0.1 nats")
    assert "which needs no SAE" in result.findings[0]
    assert any(line.startswith("name_gender=female at layers.3 is") for line in result.findings)
    assert "intervals are over prompts" in result.findings[-1]
    texts = concepts_of(result, "layers.3")[0].texts
    assert [text.by for text in texts[:5]] == [
        None,
        "latents",
        "latents",
        "mean difference",
        "mean difference",
    ]
    assert len({text.prompt for text in texts[:5]}) == 1 and texts[0].strength == 0
    assert texts[1].strength > 0 > texts[2].strength
    assert all("<|bos|>" not in text.prompt + text.text for text in texts)


def test_the_same_seed_gives_the_same_numbers(suites: Path) -> None:
    path = suites / "topk-w64-k8"
    config = replace(SMALL, concepts=("domain=story",), strengths=(0.5,), controls=0)
    again, once_more = (steer([path], config)[path] for _ in range(2))
    assert again.values() == once_more.values() and again.series == once_more.series


def test_given_latents_are_pushed_together_and_judge_by_firing(suites: Path) -> None:
    path = suites / "topk-w64-k8"
    config = replace(SMALL, concepts=(), controls=0, candidates=5)
    live = concepts_of(steer([path], config_of_live(config))[path], "layers.3")[0].latents
    result = steer([path], replace(config, latents=(live[0], (live[0] + 1) % 64), edit="clamp"))
    (concept,) = concepts_of(result[path], "layers.3")
    assert concept.concept.startswith("latents ") and len(concept.latents) == 2
    assert concept.correlations == [None, None]
    rates = {point.strength: point.rate.value for point in concept.curves[0].points}
    up, down = rates[1.0], rates[-1.0]
    assert up is not None and down is not None and up > down


def config_of_live(config: SteeringConfig) -> SteeringConfig:
    return replace(config, concepts=("domain=story",), strengths=(0.5,), prompts=8, new_tokens=4)


def test_words_of_ones_own_are_steered_and_counted(suites: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.jsonl"
    file.write_text(
        json.dumps({"concept": "female", "words": ["she", "She", "her"]})
        + "\n\n"
        + json.dumps({"concept": "the", "words": ["the", "The"]})
        + "\n"
    )
    path = suites / "topk-w64-k8"
    result = steer([path], replace(SMALL, concepts=("the",), words=file))[path]
    (concept,) = concepts_of(result, "layers.3")
    assert concept.concept == "the" and concept.judge == "the words given for the concepts"
    untouched = next(point for point in concept.curves[0].points if not point.strength)
    assert untouched.rate.value is not None and 0.02 < untouched.rate.value < 0.4
    with pytest.raises(UserError, match=r"concept 'x' is not in .*words.jsonl, which has female"):
        steer([path], replace(SMALL, concepts=("x",), words=file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"concept": "a"}', r'line 1: give \{"concept": "animal"'),
        ('{"concept": "a", "words": []}', "line 1: give"),
        ('{"concept": "a", "words": ["the"]}\n{"concept": "a", "words": ["a"]}', "stands twice"),
        ("{", "line 1: not valid JSON in UTF-8"),
        ("", "has no concepts"),
        ('{"concept": "a", "words": ["qqq"]}', "the word 'qqq' is none of the tokens of embedded"),
    ],
)
def test_wrong_words_are_refused_in_a_line(
    suites: Path, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "words.jsonl"
    file.write_text(line)
    with pytest.raises(UserError, match=message):
        steer([suites / "topk-w64-k8"], replace(SMALL, concepts=(), words=file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": ("layers.2",)}, r"has no SAE at site 'layers.2', only at layers.1, layers.3"),
        ({"sites": ("layers.77",)}, "matches no module"),
        ({"latents": (64,)}, "latent 64 at layers.3 does not exist: the SAE has latents 0 to 63"),
        ({"concepts": ("mood",)}, "concept 'mood' cannot be steered: give CONCEPT=VALUE"),
        ({"concepts": ("role=head",)}, "concept 'role=head' cannot be steered"),
        ({"concepts": ("mood=green",)}, "has no value 'green'; give one of happy, sad"),
        ({"concepts": ("name=Edith",)}, "concept 'name=Edith' stands on .* at least 50 are needed"),
        ({"concepts": ("units=metric",)}, "documents to begin from, and at least 8 are needed"),
        ({"new_tokens": 125}, "more than the 128 tokens of embedded; lower one of them"),
        ({"task": "nothing"}, "nothing"),
        ({"words": Path("none.jsonl")}, "'none.jsonl': there is no such file"),
        ({"latents": (1,), "sites": ("1@resid", "3@resid")}, "give one suite and one site"),
    ],
)
def test_bad_input_is_one_line(suites: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        steer([suites / "topk-w64-k8"], replace(SMALL, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": (1.0, float("nan"))}, "strengths has nan: each must be a finite number"),
        ({"strengths": (float("inf"),)}, "strengths has inf"),
        ({"strengths": (-1.0,)}, "pushed both ways"),
        ({"strengths": ()}, "strengths is empty"),
        ({"strengths": (1.0, 1.0)}, "one of them stands twice"),
        ({"cost": float("nan")}, "cost = nan"),
        ({"prompts": 7}, "prompts = 7: it must be at least 8"),
        ({"latents": (1, 1)}, "one of them stands twice"),
        ({"latents": (-1,)}, "numbered from 0"),
    ],
)
def test_impossible_options_are_refused_in_a_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SteeringConfig(**change)


def test_a_latent_that_never_fires_is_refused_on_any_text(tmp_path: Path) -> None:
    lm = tmp_path / "lm"
    saved_llama(lm)
    (lm / "text.txt").write_text(random_text(200))

    def kill(sae: SAE) -> None:
        with torch.no_grad():
            sae.w_enc[5] = 0

    path = written_suite(tmp_path / "suite", lm, change=kill)
    config = replace(
        SMALL, concepts=(), sites=(), tokens=2000, prompt_tokens=4, new_tokens=4, controls=0
    )
    with pytest.raises(UserError, match=r"latent 5 at layers.2 never fires on the \d"):
        steer([path], replace(config, latents=(5,)))
    with pytest.raises(UserError, match=r"no concepts are known; give --words, a file of"):
        steer([path], config)
    result = steer([path], replace(config, latents=(7,)))[path]
    assert concepts_of(result, "layers.2")[0].latents == [7]


def test_the_command_prints_findings_and_writes_the_result(
    suites: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = suites / "topk-w32-k8"
    options = ["--concepts", "domain=story", "--sites", "3@resid", "--strengths", "0.5"]
    options += ["--tokens", "8000", "--cost-tokens", "600", "--prompts", "8", "--new-tokens", "6"]
    options += ["--candidates", "1", "--controls", "0", "--bootstrap", "20", "--device", "cpu"]
    assert main(["steer", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert "Latents − mean difference" in out and "- At layers.3, pushes that cost" in out
    assert f"{path / 'results' / 'steer.json'}" in out and "Next: saeworks report" in out
    assert main(["steer", str(path), *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)[str(path)]
    assert printed["steer"]["layers.3"]["advantage"] and printed["findings"]
