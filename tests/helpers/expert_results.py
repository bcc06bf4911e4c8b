"""Results on experts as `saeworks eval` leaves them, with plausible numbers, for reports."""

import json
import math
import random
from pathlib import Path
from typing import Any

from saeworks.measure.studies.consistency import Consistency
from saeworks.measure.studies.experts import Experts
from saeworks.measure.studies.geometry import Geometry
from saeworks.results.figure import without_defaults
from saeworks.results.result import PLACEHOLDER

THRESHOLDS = [0.7, 0.8, 0.9]

STUDIES = {study.name: study for study in (Experts, Geometry, Consistency)}


def _metric(title: str, unit: str = "") -> dict[str, Any]:
    return {"title": title, "unit": unit, "description": f"{title} said.", "better": "none"}


def _value(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}


def _matrix(rng: random.Random, n: int, diagonal: float) -> list[list[float | None]]:
    return [[diagonal if i == j else rng.uniform(0.2, 0.4) for j in range(n)] for i in range(n)]


def _write(path: Path, evaluation: str, metrics: Any, values: Any, series: Any) -> None:
    sites = list(json.loads((path / "suite.json").read_text())["sites"])
    study = STUDIES[evaluation]
    result = {
        "schema": 1,
        "evaluation": evaluation,
        "title": study.title,
        "config": {},
        "tokens": 9000,
        "documents": 90,
        "metrics": metrics,
        "sites": {site: {k: _value(v) for k, v in values.items()} for site in sites},
        "series": dict.fromkeys(sites, series),
        "figures": without_defaults(study.figures),
        "sentences": {
            key: sentence
            for key, sentence in study.sentences.items()
            if all(place[1] in metrics for place in PLACEHOLDER.finditer(sentence))
        },
    }
    (path / "results" / f"{evaluation}.json").write_text(json.dumps(result), encoding="utf-8")


def write_geometry(path: Path, blocks: int, kind: str = "experts", share: float = 0.1) -> None:
    """Of an SAE with so many experts, or cut into blocks."""
    rng = random.Random(blocks)
    latents = list(range(3 * blocks))
    places = [[math.cos(i), math.sin(i)] for i in latents]
    metrics = {
        "live": _metric("Live", "latents"),
        "duplicate_share": _metric("Duplicates"),
        "between_similarity": _metric("Similarity between"),
    }
    values = {"live": float(len(latents)), "duplicate_share": share, "between_similarity": 0.3}
    series = {
        "duplicates": {
            "thresholds": THRESHOLDS,
            "shares": [3 * share, 2 * share, share],
            "random": [0.0, 0.0, 0.0],
        },
        "nearest": {"edges": [0, 0.5, 1], "counts": [5, 7], "random": [9, 0], "random_rows": 9},
        "similarity": {
            "kind": kind,
            "blocks": blocks,
            "live": [3] * blocks,
            "matrix": _matrix(rng, blocks, 0.5),
            "control": _matrix(rng, blocks, 0.3),
        },
        "tsne": {
            "perplexity": 30.0,
            "latents": latents,
            "expert": [i // 3 for i in latents],
            "decoder": places,
            "encoder": places,
        },
    }
    _write(path, "geometry", metrics, values, series)


def write_experts(path: Path, n: int, domain: str = "story") -> None:
    """Of an SAE with so many experts."""
    metrics = {
        "load_entropy": _metric("Load entropy"),
        "busiest_load": _metric("Busiest expert"),
        "domain_information": _metric("Expert × domain", "bits"),
    }
    values = {"load_entropy": 0.9, "busiest_load": 1.5, "domain_information": 0.4}
    rows = [[1 / n] * n, [1.0] + [0.0] * (n - 1)]
    series = {
        "load": {"share": [1 / n] * n, "confidence": [0.5] * (n - 1) + [None], "live": [3] * n},
        "confidence": {"edges": [0, 0.5, 1], "counts": [4, 6]},
        "overlap": {"matrix": [[None if i == j else 0.1 for j in range(n)] for i in range(n)]},
        "domains": {"labels": [domain, "log"], "share": rows, "documents": [4, 5]},
    }
    _write(path, "experts", metrics, values, series)


def write_consistency(path: Path, concept: str = "tense") -> None:
    """With one concept that two experts code."""
    coded = [{"expert": e, "latent": 7 * e, "phi": 0.6} for e in (0, 1)]
    one = {"concept": concept, "value": "past", "places": 2, "coded": coded, "cosine": 0.2}
    series = {
        "queen": {"thresholds": [0.3, 0.5], "queen": [0.5, None], "coded": [4.0, 0.0]},
        "cells": {"kind": "experts", "blocks": 4},
        "concepts": [one],
    }
    _write(path, "consistency", {"queen": _metric("Different latents")}, {"queen": 0.5}, series)


def as_switch(path: Path, experts: int, flops: float) -> None:
    """Make a suite one of Switch SAEs, which cost so many operations per token."""
    for file in path.glob("groups/*/config.json"):
        config = json.loads(file.read_text())
        config["arch"], config["options"]["experts"] = "switch", experts
        file.write_text(json.dumps(config))
    meta = json.loads((path / "suite.json").read_text())
    meta |= {"arch": "switch", "variant": f"{path.name}-n{experts}"}
    (path / "suite.json").write_text(json.dumps(meta))
    cost(path, flops)


def cost(path: Path, flops: float) -> None:
    """Operations per token of every SAE."""
    meta = json.loads((path / "suite.json").read_text())
    meta["cost"] = {"flops_saes": flops * meta["tokens"] * len(meta["groups"])}
    (path / "suite.json").write_text(json.dumps(meta))
