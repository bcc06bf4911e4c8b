"""How the latents of two dictionaries correspond, and over which sites shared latents spread.

Shapes: N tokens, D model width, M latents of one SAE, L of the baseline's, S sites of a group.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import check_fingerprint, works
from saeworks.measure.banks import (
    Bank,
    firing,
    for_each_site,
    row_chunks,
    sites_of,
)
from saeworks.measure.comparing.spread import spread
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick, tracker
from saeworks.measure.suites import held_out_tokens
from saeworks.results.comparison import Alignment, Matched, SiteAlignment, Spread
from saeworks.results.headlines import MMCO, MMCS
from saeworks.results.metric import Metric
from saeworks.suite import Suite

METRICS = {
    MMCS: Metric(
        "MMCS",
        "Mean max cosine similarity: over the baseline's latents that fire, the mean of the "
        "largest cosine of the latent's decoder row with any of the other SAE's.",
        better="higher",
    ),
    MMCO: Metric(
        "MMCO",
        "Mean max co-occurrence: over the baseline's latents that fire, the mean of the largest "
        "Jaccard index of the tokens on which the latent fires with those of any of the other "
        "SAE's.",
        better="higher",
    ),
}
_COUNTS = 2**23
"""Cosines, or counts of tokens on which two latents fire together, in memory at once."""
_PAIRS = 2**22
"""(token, latent) pairs of one SAE in memory at once."""


class Firings:
    """The tokens on which each latent of an SAE fires at a site, in a file.

    One pass of the language model feeds all sites, and their pairs (4 bytes each) together may not
    fit into memory.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self.fired_M = np.zeros(width, np.int64)
        self.ends = array("q", [0])
        path.touch()

    def add(self, code: SparseCode, rows: int) -> None:
        """Count the next tokens in."""
        owner, latents, _ = firing(code)
        fired_latents = latents.to("cpu", torch.int32).numpy()
        per_token = torch.bincount(owner, minlength=rows).cumsum(0).cpu().numpy()
        with self.path.open("ab") as file:
            fired_latents.tofile(file)
        self.ends.extend((self.ends[-1] + per_token).tolist())
        self.fired_M += np.bincount(fired_latents, minlength=self.width)

    @property
    def tokens(self) -> int:
        return len(self.ends) - 1

    def chunk(self, start: int, stop: int) -> csr_matrix:
        """A 0/1 matrix [tokens, M] of the tokens from start to stop."""
        ends = np.asarray(self.ends[start : stop + 1])
        count = int(ends[-1] - ends[0])
        indices = np.fromfile(self.path, np.int32, count, offset=4 * int(ends[0]))
        shape = (stop - start, self.width)
        return csr_matrix((np.ones(count, np.int32), indices, ends - ends[0]), shape=shape)


def mmcs(
    baseline_LD: Float[Tensor, "L D"], other_MD: Float[Tensor, "M D"], live_L: NDArray[np.bool_]
) -> float | None:
    """Mean over the live rows l of max over m of cos(baseline_l, other_m); None without any.

    Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders".
    """
    index = torch.from_numpy(np.flatnonzero(live_L)).to(baseline_LD.device)
    if not len(index):
        return None
    unit_LD = torch.nn.functional.normalize(baseline_LD[index].float(), dim=1)
    unit_MD = torch.nn.functional.normalize(other_MD.float(), dim=1)
    step = max(1, _COUNTS // len(unit_MD))
    best = [
        (unit_LD[start : start + step] @ unit_MD.T).amax(dim=1).double()
        for start in range(0, len(unit_LD), step)
    ]
    return float(torch.cat(best).clamp(-1.0, 1.0).mean())


def mmco(baseline: Firings, other: Firings) -> float | None:
    """Mean over the baseline's live latents l of max over m of |F_l ∩ F_m| / |F_l ∪ F_m|.

    F_l are the tokens on which latent l fires; None where no latent is live. Exact: the counts
    |F_l ∩ F_m| are products of 0/1 matrices, for so many l at a time that they take 32 MiB;
    with the pairs they are made from it needs less than 512 MiB, whatever M and N.
    """
    live = np.flatnonzero(baseline.fired_M)
    if not len(live):
        return None
    best = np.zeros(baseline.width)
    step = max(1, _COUNTS // other.width)
    for start in range(0, baseline.width, step):
        stop = min(start + step, baseline.width)
        both_LM = _together(baseline, other, start, stop)
        for latent, both_M in zip(range(start, stop), both_LM, strict=True):
            if baseline.fired_M[latent]:
                either_M = baseline.fired_M[latent] + other.fired_M - both_M
                best[latent] = (both_M / either_M).max()
    return float(best[live].mean())


def _together(baseline: Firings, other: Firings, start: int, stop: int) -> NDArray[np.int32]:
    """Tokens on which each baseline latent from start to stop and each other latent both fire."""
    both_LM = np.zeros((stop - start, other.width), np.int32)
    per_token = max(baseline.ends[-1], other.ends[-1]) // max(1, baseline.tokens) + 1
    step = max(1, _PAIRS // per_token)
    for low, high in pairwise([*range(0, baseline.tokens, step), baseline.tokens]):
        fires_LN = baseline.chunk(low, high)[:, start:stop].T.tocsr()
        pairs = (fires_LN @ other.chunk(low, high)).tocoo()
        both_LM[pairs.row, pairs.col] += pairs.data
    return both_LM


AllFirings = Mapping[tuple[str, str], Firings]
"""(bank, site) → its firings."""


@torch.no_grad()
def fire(
    banks: Mapping[str, Bank], lm: LanguageModel, held_out: HeldOut, folder: Path, tick: Tick
) -> AllFirings:
    """Which latents fire on which token, of every SAE, from one pass of the language model."""
    firings = {
        (name, site): Firings(folder / str(number), sae.width)
        for number, (name, site, sae) in enumerate(
            (name, site, sae) for name, bank in banks.items() for site, sae in bank.items()
        )
    }

    def visit(site: str, rows_ND: Tensor, batch: HeldOut) -> None:
        for name, bank in banks.items():
            if site in bank:
                for part in row_chunks(len(rows_ND), bank[site].width):
                    rows = rows_ND[part]
                    firings[name, site].add(bank[site].encode_sparse(rows), len(rows))

    filled = {name: bank for name, bank in banks.items() if bank}
    for_each_site(lm, sites_of(filled, lm), held_out, visit, tick)
    return firings


def match(
    baseline: str, other: str, site: str, banks: Mapping[str, Bank], firings: AllFirings
) -> Matched:
    """How well the latents of bank `baseline` are matched by those of bank `other` at a site."""
    live_L = firings[baseline, site].fired_M > 0
    return Matched(
        mmcs(_directions(banks[baseline][site]), _directions(banks[other][site]), live_L),
        mmco(firings[baseline, site], firings[other, site]),
    )


def _directions(sae: SAE) -> Float[Tensor, "M D"]:
    w_dec_MD = sae.w_dec
    assert isinstance(w_dec_MD, Tensor)
    return w_dec_MD.detach()


def align(
    suites: Sequence[Suite],
    baseline: Suite,
    seeds: Sequence[Suite],
    tokens: int,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
    model: str | None = None,
) -> dict[Path, Alignment]:
    """Match the baseline's latents with each suite's, and with those of its other seeds.

    One pass of the language model over the baseline's held-out tokens feeds all of them. The
    firing pairs go to a temporary folder: 4 bytes × L0 × tokens for each site and suite.

    Args:
        model: where the suites' language model is, if it has moved.

    Raises:
        UserError: if the language model has changed, an SAE does not fit its site, or an
            activation is NaN or infinite.
    """
    run = baseline.run
    (work,) = works([baseline], model, None)
    lm = work.language_model(choose_device(device), own=model is None)
    wanted = {site for suite in suites for site in suite.sites}
    banks: dict[str, Bank] = {}
    for suite in (baseline, *seeds, *suites):
        check_fingerprint(suite, lm)
        sites = [site for site in suite.sites if site in wanted]
        banks[str(suite.path)] = {site: suite.at(site).to(lm.device) for site in sites}
    held_out = held_out_tokens(lm, run.text, run.seed, tokens, baseline.norm_limits)
    with TemporaryDirectory(prefix="saeworks-") as folder:
        with tracker(say)("alignment", held_out.tokens_NT.numel()) as tick:
            firings = fire(banks, lm, held_out, Path(folder), tick)
        base = str(baseline.path)
        others = [str(seed.path) for seed in seeds]
        between_seeds = {
            site: [match(base, o, site, banks, firings) for o in others if site in banks[o]]
            for site in banks[base]
        }
        return {
            suite.path: Alignment(
                held_out.kept,
                held_out.documents,
                held_out.digest,
                METRICS,
                {
                    site: SiteAlignment(
                        match(base, str(suite.path), site, banks, firings),
                        between_seeds[site],
                        *_live(firings[base, site]),
                        *_live(firings[str(suite.path), site]),
                    )
                    for site in suite.sites
                    if site in baseline.sites
                },
                _spreads(suite, firings),
            )
            for suite in suites
        }


def _live(firings: Firings) -> tuple[int, int]:
    """How many latents fire, and how many never do."""
    live = int((firings.fired_M > 0).sum())
    return live, firings.width - live


def _spreads(suite: Suite, firings: AllFirings) -> dict[str, Spread]:
    """The spread of every SAE that several sites share."""
    sites_of_group: dict[str, list[str]] = {}
    for site in suite.sites:
        sites_of_group.setdefault(str(suite.meta["sites"][site]["group"]), []).append(site)
    out = {}
    for group, sites in sites_of_group.items():
        if len(sites) > 1:
            fired = [firings[str(suite.path), site] for site in sites]
            frequency_SM = np.stack([f.fired_M / max(1, f.tokens) for f in fired])
            out[group] = spread(frequency_SM, sites)
    return out
