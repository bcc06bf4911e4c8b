"""Suites that were trained, evaluated, audited and compared, if only on paper."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.toy_audits import audit
from helpers.toy_comparisons import comparison
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.measure.sums import KEY, write_sums
from saeworks.results.metric import Metric, Value
from saeworks.results.result import Result
from saeworks.suite import write_suite

D, SITES, ROWS = 8, ("layers.0", "layers.1", "layers.2"), 6


def trained(
    path: Path, sites: Sequence[str], width: int, k: int, seed: int = 0, **record: Any
) -> None:
    """A suite of random TopK SAEs, one per site, as if they had been trained."""
    random_ = torch.Generator().manual_seed(seed)
    groups, normalisers = {}, {}
    for site in sites:
        sae = build_sae("topk", D, width=width, k=k)
        sae.initialise(torch.randn(64, D, generator=random_), random_)
        groups[site] = (sae, (site,))
        normalisers[site] = Normaliser(torch.randn(D, generator=random_), torch.tensor(2.5))
    write_suite(
        path,
        variant=f"topk-w{width}-k{k}",
        groups=groups,
        normalisers=normalisers,
        model={"name": "fake", "revision": None, "fingerprint": "f", "layers": len(sites)},
        text={"source": "embedded"},
        config={"seed": seed},
        seed=seed,
        tokens=100,
        steps=10,
        **record,
    )


def write(path: Path, seed: int = 0) -> Path:
    """A suite that was trained, evaluated, audited and compared, if only on paper."""
    path.mkdir(parents=True)
    line = {"kind": "train", "step": 10, "tokens": 100, "site": SITES[0], "fvu": 0.25 + seed}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    trained(path, SITES, width=16, k=2 + seed, seed=seed)
    evaluated(path, 0.25 + seed / 100)
    audit(SITES, seed=seed).write(path / "results" / "audit.json")
    comparison("base", 0.1 + seed, {}).write(path)
    return path


def evaluated(path: Path, fvu: float) -> Result:
    n_R = np.arange(2.0, 2.0 + ROWS)
    own = {"n": n_R, "err": fvu * n_R, "tot": n_R, "l0": 2 * n_R, "cos": n_R}
    sums = dict.fromkeys(SITES, own)
    digest = write_sums(path / "results", "reconstruction", sums)
    result = Result(
        "reconstruction",
        "Reconstruction",
        {KEY: digest, "held_out": "h", "own": True},
        int(n_R.sum()),
        ROWS,
        {"fvu": Metric("FVU", "")},
        {site: {"fvu": Value(fvu)} for site in SITES},
    )
    result.write(path / "results" / "reconstruction.json")
    return result
