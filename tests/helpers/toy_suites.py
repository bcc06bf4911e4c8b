"""Suites of small random TopK SAEs of a saved tiny Llama, on disk, with a text beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from saeworks.config import ModelConfig, RunConfig, TextConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import build_sae
from saeworks.lm.model import LanguageModel
from saeworks.suite import write_suite

SITES = ("layers.0", "layers.2")


def random_sae(seed: int, width: int = 48, k: int = 4) -> SAE:
    """A TopK SAE for the tiny Llama's width, 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_sae("topk", d=16, width=width, k=k)


def written_suite(
    path: Path,
    lm_folder: Path,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    seed: int = 0,
    run_seed: int = 0,
    k: int = 4,
    width: int = 48,
    text: str = "text.txt",
    tokens: int = 0,
    norm_limits: Mapping[str, float] | None = None,
    change: Callable[[SAE], object] = lambda sae: None,
) -> Path:
    """One SAE per group (by default per site), of that seed; `lm_folder` also holds the text."""
    groups = groups or {site: [site] for site in SITES}
    lm = LanguageModel.load(ModelConfig(str(lm_folder)))
    run = RunConfig(
        model=ModelConfig(str(lm_folder)),
        text=TextConfig(str(lm_folder / text), context=32, held_out=0.3),
        sites=tuple(site for sites in groups.values() for site in sites),
        seed=run_seed,
    )
    saes = {group: random_sae(seed + 10 * at, width, k) for at, group in enumerate(groups)}
    for sae in saes.values():
        change(sae)
    write_suite(
        path,
        variant=path.name,
        groups={group: (saes[group], list(sites)) for group, sites in groups.items()},
        normalisers={
            site: Normaliser(torch.full((16,), 0.1 * at), torch.tensor(1.0 + at))
            for at, site in enumerate(run.sites)
        },
        model={"name": lm.name, "revision": None, "fingerprint": lm.fingerprint, "layers": 3},
        text=asdict(run.text),
        config=json.loads(json.dumps(asdict(run))),
        seed=run_seed,
        tokens=tokens,
        steps=0,
        norm_limits=norm_limits,
    )
    return path
