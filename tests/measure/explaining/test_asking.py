"""Suites explained by a server on localhost, from the command's function to the result."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.numbers import known
from helpers.openai_server import KEY, Reply, Server, serving
from helpers.toy_suites import SITES, written_suite
from helpers.toys import random_text, saved_llama
from saeworks.cli.main import main
from saeworks.measure.explaining import endpoint as endpoint_module
from saeworks.measure.explaining.asking import BATCH
from saeworks.measure.explaining.config import AskConfig, ExplainConfig
from saeworks.measure.explaining.metrics import (
    CORRELATION,
    DIFFERENCE,
    MODEL_DETECTION,
    MODEL_FUZZING,
    MODEL_LATENTS,
    PROGRAM_DETECTION,
    UNREADABLE,
)
from saeworks.measure.explaining.run import Outcome, explain
from saeworks.results.result import Result
from saeworks.results.series import EXPLAINED

CONFIG = ExplainConfig(
    tokens=1500, latents=4, least=3, contexts=6, bootstrap=20, site=(SITES[0],), concepts=False
)
TEXT = re.compile(r"^Text \d+: (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(200))
    return written_suite(folder / "suite", folder)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint_module, "_FIRST_WAIT", 0.01)
    with serving() as running:
        yield running


def asked(server: Server, folder: Path, **options: Any) -> AskConfig:
    answers = folder / "answers.jsonl"
    given: dict[str, Any] = {"shown": 6, "answers": answers, "concurrency": 3, "timeout": 10.0}
    return AskConfig(server.url, "m", **(given | options))


def run(suite: Path, ask: AskConfig, lines: list[str] | None = None) -> tuple[Outcome, Result]:
    outcome = explain([suite], CONFIG, ask, say=lines.append if lines is not None else None)
    return outcome, outcome.results[suite]


def texts(request: dict[str, Any]) -> list[str]:
    """The contexts in a request, without marks."""
    return [re.sub("[«»]", "", text) for text in TEXT.findall(request["messages"][-1]["content"])]


def test_both_kinds_stand_side_by_side_and_nothing_shown_is_scored(
    suite: Path, server: Server, tmp_path: Path
) -> None:
    server.always = Reply(delay=0.03)
    lines: list[str] = []
    outcome, result = run(suite, asked(server, tmp_path), lines)
    assert outcome.ended == ""
    values = result.sites[SITES[0]]
    assert values[MODEL_LATENTS].value == 4 and values[UNREADABLE].value == 0
    difference = known(values[MODEL_DETECTION].value) - known(values[PROGRAM_DETECTION].value)
    assert known(values[DIFFERENCE].value) == pytest.approx(difference)
    assert -1 <= known(values[CORRELATION].value) <= 1
    for latent in result.series[SITES[0]][EXPLAINED]:
        program, model = latent["explanations"]
        assert (program["by"], model["by"]) == ("program", "model")
        assert model["text"].startswith("the word ")
        assert {score["metric"] for score in model["scores"]} == {MODEL_DETECTION, MODEL_FUZZING}
    explaining = [r for r in server.requests if "researcher" in r["messages"][0]["content"]]
    scoring = [r for r in server.requests if r not in explaining]
    assert len(explaining) == 4
    seen = {text for request in explaining for text in texts(request)}
    scored = {text for request in scoring for text in texts(request)}
    assert seen and scored and not seen & scored
    assert max(len(texts(request)) for request in scoring) == BATCH
    assert 1 < server.at_once <= 3
    stored = Result.read(suite / "results" / "explanations.json")
    assert stored.config["model_asked"]["explainer"] == "m"
    assert KEY not in (suite / "results" / "explanations.json").read_text()
    assert any(line.startswith("To explain 4 latents: about ") for line in lines)
    assert f"Spent: {len(server.requests)} requests" in "".join(lines)
    assert any("language model" in finding for finding in stored.findings)


def test_whoever_always_says_yes_is_right_in_half_of_the_contexts(
    suite: Path, server: Server, tmp_path: Path
) -> None:
    _, first = run(suite, asked(server, tmp_path))
    lines = filter(None, (tmp_path / "answers.jsonl").read_text().split("\n"))
    answers = [json.loads(line) for line in lines]
    for of_request in answers:
        said = of_request["answer"]
        said["text"] = re.sub("[01](?=[],])", "1", said["text"])
    yes = tmp_path / "yes.jsonl"
    yes.write_text("".join(json.dumps(of_request) + "\n" for of_request in answers))
    before = len(server.requests)
    _, second = run(suite, asked(server, tmp_path, answers=yes))
    assert len(server.requests) == before, "everything was kept"
    values = second.sites[SITES[0]]
    assert values[MODEL_DETECTION].value == values[MODEL_FUZZING].value == 0.5
    assert first.sites[SITES[0]] != values


def test_a_second_run_asks_nothing_and_finds_the_same(
    suite: Path, server: Server, tmp_path: Path
) -> None:
    _, first = run(suite, asked(server, tmp_path))
    before = len(server.requests)
    lines: list[str] = []
    _, second = run(suite, asked(server, tmp_path), lines)
    assert len(server.requests) == before
    assert second.sites == first.sites and second.series == first.series
    assert "To explain 4 latents: about 0 requests, 0 tokens in and 0 out" in lines


def test_an_estimate_asks_nothing(suite: Path, server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    ask = asked(server, tmp_path, estimate=True, price_in=2.0, price_out=8.0)
    _, result = run(suite, ask, lines)
    assert server.requests == []
    assert any("at the given prices" in line for line in lines)
    assert MODEL_DETECTION not in result.metrics


def test_a_budget_ends_it_and_the_next_run_goes_on(
    suite: Path, server: Server, tmp_path: Path
) -> None:
    prices = {"price_in": 1.0, "price_out": 1.0}
    _, whole = run(suite, asked(server, tmp_path, answers=tmp_path / "whole", **prices))
    cost = server.tokens / 1e6
    server.requests.clear()
    server.tokens = 0
    runs = 0
    while True:
        before = server.tokens
        ask = asked(server, tmp_path, budget=cost * 0.8, concurrency=1, **prices)
        outcome, result = run(suite, ask)
        runs += 1
        assert (server.tokens - before) / 1e6 <= cost * 0.8
        if not outcome.ended:
            break
        done = int(known(result.sites[SITES[0]][MODEL_LATENTS].value))
        assert f"the budget is reached: the language model has explained {done} of 4" in (
            outcome.ended
        )
        assert runs < 20 and server.tokens > before
    assert runs > 1
    assert server.tokens / 1e6 == pytest.approx(cost), "nothing was paid for twice"
    assert result.sites == whole.sites


def test_answers_that_cannot_be_read_are_left_out_and_counted(
    suite: Path, server: Server, tmp_path: Path
) -> None:
    server.replies = [Reply(finish="length")]
    _, result = run(suite, asked(server, tmp_path, concurrency=1))
    assert result.sites[SITES[0]][MODEL_LATENTS].value == 3  # the first explanation was cut off
    server.replies = [Reply(usage=False), Reply(text="I cannot say."), Reply(finish="length")]
    ask = asked(server, tmp_path, concurrency=1, answers=tmp_path / "others")
    lines: list[str] = []
    _, result = run(suite, ask, lines)
    assert any("did not count the tokens of 1 answers" in line for line in lines)
    values = result.sites[SITES[0]]
    assert values[MODEL_LATENTS].value == 4
    assert 0 < known(values[UNREADABLE].value) < 0.5


def test_the_command_says_what_is_wrong_on_one_line(
    suite: Path,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    words = ["explain", str(suite), "--endpoint", server.url, "--explainer", "m"]
    assert main([*words, "--answers", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("saeworks: ") and error.count("\n") == 1
    assert "a key is refused" in error and "sk-another" not in error
    assert main(["explain", str(suite), "--budget", "3"]) == 2
    assert "budget = 3.0 without --endpoint" in capsys.readouterr().err
    assert main(["explain", str(suite), "--tokens", "600", "--latent", "4000"]) == 2
    assert "has no latent 4000: its latents are 0 to 47" in capsys.readouterr().err


KILLED = [signal.SIGKILL, signal.SIGINT]


@pytest.mark.slow
@pytest.mark.parametrize("number", KILLED, ids=["killed", "interrupted"])
def test_what_is_killed_pays_for_nothing_twice(
    number: signal.Signals, suite: Path, server: Server, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "saeworks", "explain", str(suite), "--endpoint", server.url]
    words += ["--explainer", "m", "--answers", str(tmp_path / "kept"), "--concurrency", "2"]
    words += ["--tokens", "1500", "--latents", "4", "--least", "3", "--contexts", "6"]
    words += ["--bootstrap", "20", "--site", SITES[0], "--no-concepts", "--shown", "6"]
    server.always = Reply(delay=0.1)
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    until = time.monotonic() + 120
    while len(server.requests) < 8 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    on_its_way = 2 if number == signal.SIGKILL else 0
    if number == signal.SIGINT:
        assert process.returncode == 130, error
        assert "the same command goes on" in out + error
    kept = [line for line in (tmp_path / "kept").read_text().split("\n") if line.endswith("}}")]
    before = len(server.requests)
    assert before - on_its_way <= len(kept) <= before
    server.always = None
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked_for = [json.dumps(request["messages"]) for request in server.requests]
    assert len(asked_for) - len(set(asked_for)) <= on_its_way
