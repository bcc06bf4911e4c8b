"""What many latents cost: to follow them in `eval`, to write their report, to open and search it.

    .venv/bin/python benchmarks/latents.py         # opens it where Chromium and selenium are

`eval`: N latents of a random TopK SAE of width M at one site of the embedded model, its own memory
above what was there before. `report`: a suite whose latents have 14 contexts of 33 tokens each, all
of a process. Each is a fresh process.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

ROOT = Path(__file__).parents[1]
SITE = "layers.1"
LONGEST = 600
"""Seconds that a page may take."""
WORDS = [f" word{i}" for i in range(5000)]


def evaluate(latents: int, width: int, tokens: int) -> dict[str, Any]:
    import torch

    from saeworks.config import EvalConfig, ModelConfig, TextConfig
    from saeworks.cost.machine import peak_bytes
    from saeworks.dictionary.registry import build_sae
    from saeworks.lm.model import LanguageModel
    from saeworks.measure.engine import Subject, sweep
    from saeworks.measure.studies.latents import Latents
    from saeworks.measure.studies.reconstruction import Reconstruction
    from saeworks.measure.suites import held_out_tokens

    torch.manual_seed(0)
    lm = LanguageModel.load(ModelConfig("embedded"))
    held_out = held_out_tokens(lm, TextConfig("embedded"), 0, tokens)
    sae = build_sae("topk", lm.width(SITE), width=width, k=64).requires_grad_(False)
    subject, config = Subject.of({"a": {SITE: sae}}, lm, held_out), EvalConfig(latents=latents)
    tally = Reconstruction(subject, config).tally
    sweep(lm, [tally])
    before, began = peak_bytes(), perf_counter()
    study = Latents(subject, config, tally)
    study.followed.needs = ()
    sweep(lm, study.readings)
    result = {name: one.result for name, one in study.results().items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latents.json"
        result["a"].write(file)
        size = file.stat().st_size
    return {
        "latents": len(result["a"].series[SITE]["latents"]),
        "width": width,
        "tokens": held_out.kept,
        "bytes_above_before": peak_bytes() - before,
        "seconds": perf_counter() - began,
        "result_bytes": size,
    }


def describe(at: int) -> dict[str, Any]:
    """A latent as `eval` tells it."""
    rng = random.Random(at)
    largest = rng.uniform(1, 12)
    contexts = []
    for rank in range(14):
        activations = [0.0] * 33
        for place, share in ((19, 0.3), (20, 1.0), (21, 0.5)):
            activations[place] = float(f"{largest * share * (1 - 0.06 * rank):.4g}")
        contexts.append(
            {
                "kind": "top" if rank < 10 else "quantile",
                "tokens": rng.choices(WORDS, k=33),
                "activations": activations,
                "peak": 20,
                "document": rng.randrange(10**6),
            }
        )
    return {
        "latent": at,
        "frequency": 10 ** rng.uniform(-5, -0.7),
        "mean_activation": largest / 3,
        "max_activation": largest,
        "histogram": {
            "edges": [largest * i / 20 for i in range(21)],
            "counts": [900 // (i + 1) for i in range(20)],
        },
        "neighbours": [{"latent": at ^ bit, "cosine": 0.5 / bit} for bit in (1, 2, 4, 8, 16)],
        "contexts": contexts,
        "promoted": [{"token": word, "effect": 2.5} for word in rng.choices(WORDS, k=10)],
        "suppressed": [{"token": word, "effect": -2.5} for word in rng.choices(WORDS, k=10)],
        "partners": [{"latent": at ^ bit, "phi": 0.4, "share": 0.5} for bit in (3, 5, 7, 9, 11)],
        "expert": at % 16,
    }


def synthetic(path: Path, latents: int) -> None:
    import torch

    from saeworks.config import ModelConfig, RunConfig, TextConfig
    from saeworks.dictionary.normaliser import Normaliser
    from saeworks.dictionary.registry import build_sae
    from saeworks.files.access import LazyList
    from saeworks.results.result import Result
    from saeworks.suite import write_suite

    run = RunConfig(ModelConfig("embedded"), TextConfig("embedded"), sites=(SITE,))
    write_suite(
        path,
        variant=path.name,
        groups={"one": (build_sae("topk", 8, width=16, k=2), [SITE])},
        normalisers={SITE: Normaliser(torch.zeros(8), torch.tensor(1.0))},
        model={"name": "embedded", "revision": None, "fingerprint": "0", "layers": 1},
        text=asdict(run.text),
        config=json.loads(json.dumps(asdict(run))),
        seed=0,
        tokens=0,
        steps=0,
    )
    choice = {"width": 2 * latents, "live": latents, "how": "all"}
    series = {SITE: {"choice": choice, "latents": LazyList(latents, describe)}}
    result = Result("latents", "Latents", {}, 10**6, 10**4, series=series)
    result.write(path / "results" / "latents.json")


def report(suite: str, out: str) -> dict[str, Any]:
    from saeworks.cost.machine import peak_bytes
    from saeworks.report.build import write_report

    began = perf_counter()
    page = write_report([Path(suite)], Path(out))
    took = perf_counter() - began
    files = [file for file in page.parent.rglob("*") if file.is_file()]
    return {
        "peak_bytes": peak_bytes(),
        "seconds": took,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }


WATCH = """
window.tasks = [];
new PerformanceObserver((seen) => seen.getEntries().forEach((task) => window.tasks.push(
  task.duration / 1000))).observe({ entryTypes: ["longtask"] });
"""
"""Notes each task of more than 50 ms."""


def browse(page: Path, latents: int) -> dict[str, float | str]:
    """Seconds until a latent is shown, all are listed, another is opened, they are sorted, a token
    and a text are found; the longest task after the first latent; bytes of the page's objects."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.browsing import CHROMIUM, DRIVER, chromium

    if not (CHROMIUM and DRIVER):
        return {"left_out": "no chromium and chromedriver here"}

    def timed(act: Callable[[], object], condition: str) -> float:
        began = perf_counter()
        act()
        while not browser.execute_script(f"return Boolean({condition})"):
            if perf_counter() - began > LONGEST:
                raise TimeoutError(condition)
            sleep(0.02)
        return perf_counter() - began

    def choose(where: str, text: str) -> None:
        code = "const e = document.querySelector('#latents [name=' + arguments[0] + ']');"
        code += "e.value = arguments[1]; for (const t of ['input', 'change'])"
        code += "e.dispatchEvent(new Event(t, {bubbles: true}))"
        browser.execute_script(code, where, text)

    found = {}
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        ready = "document.querySelector('.latent h3')"
        listed = "document.querySelector('.listed').textContent"
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        found["open"] = timed(lambda: browser.get(page.as_uri()), ready)
        browser.execute_script("window.tasks.length = 0")
        found["all_listed"] = timed(lambda: None, f"{listed} === '{latents:,} latents'")
        found["sorted"] = timed(lambda: choose("sort", "rare"), "document.querySelector('.list a')")
        go = "location.hash = '#0/0/7'"
        found["another_latent"] = timed(
            lambda: browser.execute_script(go), f"{ready}.textContent.startsWith('Latent 7 ')"
        )
        found["token"] = timed(lambda: choose("find", "word7"), f"/^[0-9,]+ of /.test({listed})")
        found["longest_task"] = browser.execute_script("return Math.max(0, ...window.tasks)")
        browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found["heap_bytes"] = browser.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
        choose("find", "")
        choose("in", "contexts")
        found["whole_contexts"] = timed(
            lambda: choose("find", "word7 word"), f"/^[0-9,]+ of [0-9,]+ latents$/.test({listed})"
        )
    return found


def alone(part: str, *arguments: object) -> dict[str, Any]:
    """A part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=50_000, help="of the report")
    parser.add_argument("--followed", type=int, default=20_000, help="by eval")
    parser.add_argument("--width", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=20_000)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "latents.json")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *rest = args.part
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "eval": lambda: evaluate(*map(int, rest)),
            "report": lambda: report(*rest),
        }
        print(json.dumps(parts[name]()))
        return
    from saeworks.cost.machine import processor
    from saeworks.files.access import write_json

    folder = Path(tempfile.mkdtemp())
    try:
        suite = folder / "suite"
        synthetic(suite, args.latents)
        size = (suite / "results" / "latents.json").stat().st_size
        found = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "report": {"latents": args.latents, "result_bytes": size}
            | alone("report", suite, folder / "out"),
            "browser_seconds": browse(folder / "out" / "latents.html", args.latents),
            "eval": alone("eval", args.followed, args.width, args.tokens),
        }
    finally:
        shutil.rmtree(folder)
    write_json(args.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
