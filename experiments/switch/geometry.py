"""Loads of experts and near-equal latents, on held-out tokens.

Shapes: N tokens, D model width, M latents, L live latents.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeworks.dictionary.archs.switch import Switch
from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import firing, for_each_site, row_chunks
from saeworks.measure.suites import held_out_tokens
from saeworks.suite import Suite, load_suite

TOKENS = 50_000
THRESHOLDS = (0.7, 0.8, 0.9, 0.95, 0.99)
ROWS = 2048


@torch.no_grad()
def measure(paths: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each suite with its values by site; the suites are of one run."""
    suites = [load_suite(path) for path in paths]
    if not suites:
        return
    rows, tokens = activations(suites[0])
    for suite in suites:
        values = {site: site_values(suite.at(site), rows[site]) for site in suite.sites}
        yield suite.path, {"tokens": tokens, "sites": values}


def activations(suite: Suite) -> tuple[dict[str, Tensor], int]:
    """Held-out rows [N, D] at every site of the suite's run."""
    run = suite.run
    lm = LanguageModel.load(run.model)
    held_out = held_out_tokens(lm, run.text, run.seed, TOKENS)
    parts: dict[str, list[Tensor]] = {site: [] for site in suite.sites}
    for_each_site(
        lm, suite.sites, held_out, lambda site, x_ND, _: parts[site].append(x_ND), lambda _: None
    )
    return {site: torch.cat(found) for site, found in parts.items()}, held_out.kept


def site_values(sae: SAE, x_ND: Tensor) -> dict[str, Any]:
    """Live latents, duplicates among them and, of a Switch, how tokens are shared out."""
    fired_M = torch.zeros(sae.width, dtype=torch.int64)
    for part in row_chunks(len(x_ND), sae.width):
        _, latents, _ = firing(sae.encode_sparse(x_ND[part]))
        fired_M += torch.bincount(latents, minlength=sae.width)
    live = fired_M.nonzero().squeeze(1)
    nearest_L = nearest(sae.w_dec.detach()[live])
    values: dict[str, Any] = {
        "live": len(live),
        "width": sae.width,
        "duplicates": {str(t): float((nearest_L > t).float().mean()) for t in THRESHOLDS},
        "nearest_cosine": float(nearest_L.mean()),
    }
    return values | (loads(sae, x_ND) if isinstance(sae, Switch) else {})


def nearest(w_LD: Tensor) -> Tensor:
    """Each row's largest cosine with another row [L]."""
    unit_LD = torch.nn.functional.normalize(w_LD, dim=1)
    found = torch.empty(len(unit_LD))
    for start in range(0, len(unit_LD), ROWS):
        cosine_RL = unit_LD[start : start + ROWS] @ unit_LD.T
        own = torch.arange(len(cosine_RL))
        cosine_RL[own, own + start] = -1
        found[start : start + ROWS] = cosine_RL.max(1).values
    return found


def loads(sae: Switch, x_ND: Tensor) -> dict[str, float]:
    """Experts per token; the busiest expert's share of the visits; the entropy of the shares, over
    ln N; the largest probability, on average. Of the routed experts, where one is always on."""
    routing = sae.router.route(sae.logits(x_ND))
    experts = sae.config.experts
    first = experts - routing.p.shape[1]
    count_N = torch.bincount(routing.expert.flatten(), minlength=experts)[first:].double()
    share_N = count_N / count_N.sum()
    entropy = -(share_N * share_N.clamp_min(1e-12).log()).sum()
    return {
        "experts_per_token": routing.expert.numel() / len(x_ND),
        "busiest": float(share_N.max()),
        "unused": int((count_N == 0).sum()),
        "load_entropy": float(entropy / torch.tensor(float(len(share_N))).log()),
        "confidence": float(routing.p.max(1).values.mean()),
    }
