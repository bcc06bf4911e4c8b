"""Suites that were never trained: the files a report reads, with plausible numbers."""

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saeworks.measure.studies.reconstruction import Reconstruction
from saeworks.results.figure import without_defaults

MakeSuite = Callable[..., Path]

STORY = re.split(
    " ",
    'Once upon a time , there was a little girl named Lily . \n She said , " Look at the big red '
    'bowl ! " \n \n Tom and Mia went to the park , and Mia gave the ball to Tom . The war lasted '
    "from the year 17 32 to the year 17 58 . \n The keys to the old cabinet are on the table .",
)


def _tokens(rng: random.Random, length: int) -> list[str]:
    start = rng.randrange(len(STORY))
    words = [STORY[(start + i) % len(STORY)] for i in range(length)]
    return [word if word in "\n.,!" else f" {word}" for word in words]


def _latent(rng: random.Random, index: int, width: int, hostile: str | None) -> dict[str, Any]:
    largest = rng.uniform(1, 12)
    contexts = []
    for rank in range(8):
        tokens = _tokens(rng, 32)
        peak = rng.randrange(4, 28)
        activations = [0.0] * 32
        for offset, share in ((-1, 0.3), (0, 1.0), (1, 0.5)):
            activations[peak + offset] = largest * share * (1 - 0.06 * rank)
        if hostile is not None:
            tokens[peak] = hostile
        contexts.append(
            {
                "kind": "top",
                "tokens": tokens,
                "activations": activations,
                "peak": peak,
                "document": 10 * rank,
            }
        )
    edges = [largest * i / 20 for i in range(21)]
    return {
        "latent": index,
        "frequency": 10 ** rng.uniform(-4, -0.7),
        "mean_activation": largest / 3,
        "max_activation": largest,
        "histogram": {
            "edges": edges,
            "counts": [int(900 * math.exp(-i / 4)) for i in range(20)],
        },
        "neighbours": [{"latent": rng.randrange(width), "cosine": 0.9 - 0.1 * i} for i in range(5)]
        + [{"latent": 0, "cosine": 0.2}],
        "contexts": contexts,
    }


def _values(rng: random.Random, means: dict[str, float]) -> dict[str, dict[str, float]]:
    out = {}
    for name, mean in means.items():
        half = abs(mean) * rng.uniform(0.02, 0.05)
        out[name] = {"value": mean, "low": mean - half, "high": mean + half}
    return out


METRICS = {
    "reconstruction": {
        "fvu": (
            "FVU",
            "",
            "Fraction of variance unexplained, raw activations.",
            "lower",
        ),
        "mse": ("MSE", "", "Mean squared error per token.", "lower"),
        "cosine": ("Cosine", "", "Between activation and reconstruction.", "higher"),
        "l0": ("L0", "latents", "Active latents per token.", "none"),
        "dead_share": ("Dead share", "", "Latents that never fired here.", "lower"),
    },
    "splice": {
        "delta_ce": (
            "ΔCE",
            "nats",
            "Rise of the model's loss with the site replaced.",
            "lower",
        ),
        "delta_ce_percent": (
            "ΔCE",
            "%",
            "The same, relative to the model's loss.",
            "lower",
        ),
        "loss_recovered_zero": (
            "Loss recovered",
            "",
            "Against zero ablation.",
            "higher",
        ),
        "kl": (
            "KL",
            "nats",
            "From the model's predictions to the spliced one's.",
            "lower",
        ),
    },
}


def _result(evaluation: str, sites: dict[str, Any], series: dict[str, Any]) -> dict[str, Any]:
    names = ("title", "unit", "description", "better")
    metrics = METRICS.get(evaluation, {})
    return {
        "schema": 1,
        "evaluation": evaluation,
        "title": evaluation.capitalize(),
        "config": {"bootstrap": 1000},
        "tokens": 200_000,
        "documents": 980,
        "metrics": {k: dict(zip(names, v, strict=True)) for k, v in metrics.items()},
        "sites": sites,
        "series": series,
    }


def _reconstruction(rng: random.Random, sites: Sequence[str], k: int) -> dict[str, Any]:
    numbers, series = {}, {}
    for i, site in enumerate(sites):
        fvu = (0.06 + 0.025 * i) * math.sqrt(32 / k)
        means = {
            "fvu": fvu,
            "mse": 3 * fvu,
            "cosine": 1 - fvu / 2,
            "dead_share": 0.01 * (i + 1),
        }
        numbers[site] = _values(rng, means) | {"l0": {"value": k, "low": k, "high": k}}
        edges = [-6 + 0.2 * j for j in range(31)]
        counts = [int(80 * math.exp(-(((e + 3.2) / 0.8) ** 2))) for e in edges[:-1]]
        series[site] = {"log10_frequency_histogram": {"edges": edges, "counts": counts}}
    figures = without_defaults(Reconstruction.figures)
    return _result("reconstruction", numbers, series) | {"figures": figures}


def _splice(rng: random.Random, sites: Sequence[str], k: int) -> dict[str, Any]:
    numbers = {}
    for i, site in enumerate(sites):
        delta = (0.01 + 0.02 * i) * math.sqrt(32 / k)
        recovered = 1 - delta / 6
        means = {"delta_ce": delta, "delta_ce_percent": 60 * delta, "kl": delta * 1.1}
        numbers[site] = _values(rng, means) | {
            "loss_recovered_zero": {
                "value": recovered,
                "low": recovered - 1e-4,
                "high": recovered + 1e-4,
            }
        }
    return _result("splice", numbers, {})


def _log(rng: random.Random, sites: Sequence[str], k: int, steps: int) -> str:
    lines = []
    for step in range(20, steps + 1, 20):
        for i, site in enumerate(sites):
            fvu = (0.06 + 0.02 * i + math.exp(-step / 200)) * rng.uniform(0.97, 1.03)
            at = {"step": step, "tokens": 4096 * step, "site": site}
            loss = {"reconstruction": fvu, "auxk": fvu / 40}
            warm = min(1.0, step / 100)
            numbers = {
                "fvu": fvu,
                "l0": k,
                "dead": 0.02 * (1 - warm),
                "lr": 4e-4 * warm,
            }
            numbers |= {
                "grad_norm": 0.1,
                "tokens_per_second": 21_000 + step,
                "seconds": step / 9,
            }
            lines.append({"kind": "train", **at, "loss": loss, **numbers, "rss_bytes": 10**9})
            if step % 200 == 0:
                held = {"held_out_fvu": fvu * 1.05, "delta_ce": fvu / 4}
                lines.append({"kind": "held_out", **at, **held})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _meta(sites: Sequence[str], k: int, steps: int) -> dict[str, Any]:
    config = {
        "model": {"name": "tinystories-neox-6L256", "dtype": "float32"},
        "text": {"source": "tinystories_train.txt", "context": 128},
        "sites": list(sites),
        "saes": [{"arch": "topk", "expansion": 8, "k": [16, 32, 64]}],
        "train": {"tokens": 4096 * steps, "batch": 4096},
    }
    return {
        "schema": 1,
        "model": {
            "name": "tinystories-neox-6L256",
            "revision": None,
            "fingerprint": "3f9a0c117b2e44d1",
            "layers": 6,
        },
        "text": {"source": "tinystories_train.txt", "context": 128, "held_out": 0.05},
        "variant": f"topk-x8-k{k}",
        "arch": "topk",
        "sites": {site: {"group": re.sub(r"\W+", "_", site), "d": 256} for site in sites},
        "groups": {re.sub(r"\W+", "_", site): {"sites": [site]} for site in sites},
        "tokens": 4096 * steps,
        "steps": steps,
        "epochs": 2.4,
        "config": config,
        "seed": 0,
        "versions": {"saeworks": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "files": {},
    }


def write_fake_suite(
    root: Path,
    k: int = 32,
    sites: Sequence[str] = ("layers.0", "layers.1", "layers.2", "layers.3"),
    latents: int = 6,
    steps: int = 400,
    parts: Sequence[str] = ("log", "reconstruction", "splice", "latents"),
    hostile: str | None = None,
    arch: str = "topk",
    seed: int = 0,
    width: int = 2048,
) -> Path:
    """Write a suite with the parts named; `hostile` becomes the peak token of every context."""
    rng = random.Random(k + 1000 * seed)
    path = root / f"{arch}-x{width // 256}-k{k}"
    (path / "results").mkdir(parents=True)
    meta = _meta(sites, k, steps) | {"variant": path.name, "arch": arch, "seed": seed}
    (path / "suite.json").write_text(json.dumps(meta), encoding="utf-8")
    config = {"arch": arch, "d": 256, "options": {"width": width, "k": k}}
    for site in sites[:1]:
        group = path / "groups" / re.sub(r"\W+", "_", site)
        group.mkdir(parents=True)
        (group / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if "log" in parts:
        (path / "metrics.jsonl").write_text(_log(rng, sites, k, steps), encoding="utf-8")
    results = {
        "reconstruction": lambda: _reconstruction(rng, sites, k),
        "splice": lambda: _splice(rng, sites, k),
        "latents": lambda: _result(
            "latents",
            {},
            {
                s: {
                    "choice": {"width": width, "live": 3 * latents, "how": "one in three"},
                    "latents": [_latent(rng, 3 * i, 3 * latents, hostile) for i in range(latents)],
                }
                for s in sites
            },
        ),
    }
    for name, build in results.items():
        if name in parts:
            text = json.dumps(build(), ensure_ascii=False)
            (path / "results" / f"{name}.json").write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def make_suite(tmp_path: Path) -> MakeSuite:
    """`make_suite(k=32, sites=…, latents=6, …) -> Path` of a suite below tmp_path."""
    return partial(write_fake_suite, tmp_path / "run")


@pytest.fixture(scope="module")
def fake_suite() -> MakeSuite:
    """The same below a folder of one's own, for what a module builds once."""
    return write_fake_suite
