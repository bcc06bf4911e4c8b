"""Results of what latents mean and do, made by hand, for suites that were never trained."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "concepts": "Known concepts",
    "explanations": "Explanations of latents",
    "study": "What people say of latents",
    "circuits_ioi": "Circuits of the task ioi",
    "steer": "Steering",
}

KEYS = {"explanations": "explained", "steer": "steered"}
"""Of lists that the browser of latents shows; of the others `of_latents`."""


def _point(strength: float, rate: float) -> dict[str, Any]:
    """What a push does to a concept's rate."""
    cost = {"value": 0.1 * abs(strength)}
    return {"strength": strength, "cost": cost, "rate": {"value": rate}, "nats": 1, "task": None}


OF_LATENTS: dict[str, Any] = {
    "concepts": [
        {"latent": 0, "concept": "noun_class: animal", "f1": 0.91},
        {"latent": 3, "concept": "number: plural", "f1": 0.62},
        {"latent": 0, "concept": "number: singular", "f1": 0.4},
    ],
    "explanations": [
        {
            "latent": 0,
            "fired": 90,
            "explanations": [
                {
                    "by": "program",
                    "text": "fires on dog, cat or horse",
                    "scores": [{"metric": "explanations_share", "value": 0.88, "low": 0.8}],
                },
                {"by": "model", "text": "animals", "scores": [{"metric": "fvu", "value": 0.7}]},
            ],
        },
        {
            "latent": 6,
            "fired": 12,
            "explanations": [
                {
                    "by": "model",
                    "text": "names after and",
                    "scores": [{"metric": "explanations_share", "value": 0.51}],
                }
            ],
        },
    ],
    "study": [
        {"latent": 0, "verdict": "interpretable", "note": "animals", "rater": "A"},
        {"latent": 3, "verdict": "not interpretable"},
    ],
    "steer": [
        {
            "concept": "animal",
            "judge": "the grammar",
            "latents": [0],
            "correlations": [0.7],
            "prompts": 8,
            "norm": 2.5,
            "cost": 0.1,
            "advantage": {"value": 0.1},
            "at_cost": [],
            "curves": [
                {"by": "latents", "points": [_point(-1, 0.0), _point(0, 0.1), _point(1, 0.52)]}
            ],
            "ablated": _point(0, 0.05),
            "texts": [
                {"prompt": "The", "by": None, "strength": 0, "text": " girl went to the park"},
                {"prompt": "A", "by": "latents", "strength": 1, "text": " cat"},
                {"prompt": "The", "by": "mean difference", "strength": 1, "text": " horse"},
                {"prompt": "The", "by": "latents", "strength": 1, "text": " dog saw the cat"},
                {"prompt": "The", "by": "latents", "strength": -1, "text": " war lasted"},
                {"prompt": "The", "by": "latents", "strength": 0.5, "text": " dog went"},
            ],
        }
    ],
}

HOSTILE = "<img src=x onerror=alert(1)>"


def _node(site: str, position: int, latent: int, effect: float, direct: float) -> dict[str, Any]:
    return {
        "site": site,
        "position": position,
        "latent": latent,
        "effect": effect,
        "direct": direct,
        "clean": 2.0,
        "patch": 0.5,
        "label": HOSTILE if latent == 0 else "",
        "promoted": [" are", HOSTILE],
    }


GRAPH: dict[str, Any] = {
    "task": "agreement",
    "case": "plural-1",
    "prompts": 12,
    "sites": ["layers.0", "layers.1"],
    "tokens": ["<|bos|>", "The", " horses", HOSTILE],
    "varies": [False, False, True, True],
    "clean_answer": " are",
    "patch_answer": " is",
    "clean": 6.5,
    "patch": -6.0,
    "nodes": [
        _node("layers.0", 2, 0, -2.0, -0.5),
        _node("layers.0", 2, 1, 0.4, 0.4),
        _node("layers.1", 2, 0, -1.0, -1.0),
        _node("layers.1", 3, 2, -0.6, -0.6),
        _node("layers.1", 3, 3, -0.1, 0.0),
    ],
    "edges": [
        {"source": 0, "target": 2, "weight": -1.0},
        {"source": 0, "target": 3, "weight": -0.5},
        {"source": 1, "target": 4, "weight": 0.001},
    ],
    "all_edges": 3,
}


def study_result(
    evaluation: str,
    sites: Sequence[str],
    findings: Sequence[str] = ("At most sites it does.",),
    series: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A result with two metrics at every site, a line, a histogram and a table of lists."""
    rng = random.Random(evaluation)
    metrics = {
        f"{evaluation}_share": {
            "title": "Share",
            "description": "Of what was asked, how much is there.",
            "unit": "",
            "better": "higher",
        },
        "fvu": {"title": "Not FVU", "description": "A key that reconstruction has, too."},
    }
    numbers, lists = {}, {}
    for at, site in enumerate(sites):
        share = 0.4 + 0.1 * at + 0.05 * rng.random()
        numbers[site] = {
            f"{evaluation}_share": {"value": share, "low": share - 0.03, "high": share + 0.03},
            "fvu": {"value": 7.0 + at},
        }
        lists[site] = {
            "n": [1, 2, 4, 8, 16],
            "curve": [0.1, 0.3, 0.6, 0.8, 0.9],
            "edges": [0, 0.25, 0.5, 0.75, 1],
            "counts": [1, 5, 9, 2],
            **(series or {}),
        }
        if evaluation in OF_LATENTS:
            key = KEYS.get(evaluation, "of_latents")
            lists[site].setdefault(key, OF_LATENTS[evaluation])
    figures = [
        {"id": "share", "kind": "line", "lines": "suites"}
        | {"traces": [{"metric": f"{evaluation}_share"}]},
        {"id": "curve", "kind": "line", "lines": "suites", "title": "Kept by the circuit"}
        | {"traces": [{"x": "n", "y": "curve"}], "x": {"title": "latents", "log": True}}
        | {"caption": "Of the model's answer, by the number of latents."},
        {"id": "spread", "kind": "histogram", "lines": "suites", "title": "Scores"}
        | {"traces": [{"x": "edges", "y": "counts"}], "x": {"title": "score"}, "small": True},
    ]
    return {
        "schema": 1,
        "evaluation": evaluation,
        "title": TITLES.get(evaluation, evaluation),
        "config": {"seed": 0},
        "tokens": 0 if evaluation.startswith("circuits") else 20_000,
        "documents": 0 if evaluation.startswith("circuits") else 90,
        "metrics": metrics,
        "sites": numbers,
        "series": lists,
        "figures": figures,
        "findings": list(findings),
    } | more


def add_study(suite: Path, evaluation: str, sites: Sequence[str], **more: Any) -> Path:
    """Write such a result into a suite; returns its file."""
    file = suite / "results" / f"{evaluation}.json"
    result = study_result(evaluation, sites, **more)
    file.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return file


def add_studies(suite: Path, sites: Sequence[str]) -> None:
    """All of them."""
    for evaluation in TITLES:
        add_study(suite, evaluation, sites)
