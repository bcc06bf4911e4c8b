import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from helpers.numbers import known
from helpers.studies import geometry, reconstruction
from helpers.toys import held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary import cosines
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies.geometry import blocks_of, distinct_share, similarity
from saeworks.results.result import Result

SITE = "layers.1"


def rows(count: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, d, generator=generator), dim=1)


def direct(unit_LD: Tensor, block_L: Tensor, blocks: int) -> list[list[float]]:
    """S_ij, pair by pair."""
    cosine_LL = (unit_LD @ unit_LD.T).fill_diagonal_(-torch.inf)
    out = []
    for i in range(blocks):
        mine = cosine_LL[block_L == i]
        row = []
        for j in range(blocks):
            theirs = mine[:, block_L == j]
            best = theirs.amax(1) if theirs.numel() else torch.tensor([math.nan])
            row.append(float(best.mean()) if torch.isfinite(best).all() else math.nan)
        out.append(row)
    return out


@pytest.mark.parametrize("budget", [10, 200, 2**23])
def test_similarity_in_tiles_is_the_direct_one(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 0, 1 and several rows, in any order."""
    monkeypatch.setattr(cosines, "_COSINES", budget)
    found = rows(60, 8)
    block_L = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1)) * 2
    block_L[block_L == 4] = 2
    block_L[7] = 5
    got = similarity(found, block_L, 7)
    expected = torch.tensor(direct(found, block_L, 7))
    assert torch.allclose(got.matrix.float(), expected, atol=1e-5, equal_nan=True)
    nearest = (found @ found.T).fill_diagonal_(-1).amax(1)
    assert torch.allclose(got.nearest, nearest, atol=1e-6)


def test_a_sample_is_compared_with_all_rows() -> None:
    """Of all rows, in any order, it is the whole; of some, theirs."""
    found, block_L = rows(60, 4), torch.arange(60) % 5
    whole = similarity(found, block_L, 5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(similarity(found, block_L, 5, order).matrix, whole.matrix)
    part = similarity(found, block_L, 5, order[:30])
    assert torch.equal(part.nearest, whole.nearest[order[:30]])
    first = order[:30][block_L[order[:30]] == 0]
    best = (found @ found.T).fill_diagonal_(-1)[first][:, block_L == 3].amax(1)
    assert part.matrix[0, 3] == pytest.approx(float(best.mean()), abs=1e-6)


def test_distinct_rows_of_a_sample() -> None:
    """Pairs of copies: the one of each that fires less is left out."""
    found, fired = rows(40, 16).repeat(2, 1), torch.arange(80, 0, -1)
    assert distinct_share(found, fired) == distinct_share(found, fired, torch.arange(80)) == 0.5
    assert distinct_share(found, fired, torch.arange(40)) == 1
    assert distinct_share(found, fired, torch.tensor([70, 3, 50, 60])) == 0.25


def test_above_so_many_live_latents_a_sample_is_said(
    sample: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = topk()
    whole = measured(sae, sample)
    monkeypatch.setattr("saeworks.measure.studies.geometry.SAMPLED", 48)
    part = measured(sae, sample)
    assert whole.findings == () and "random sample of 48" in part.findings[0]
    found, exact = part.sites[SITE], whole.sites[SITE]
    assert found["distinct"].value == exact["distinct"].value == 64
    assert found["nearest_cosine"].value == pytest.approx(exact["nearest_cosine"].value, abs=0.05)
    assert sum(part.series[SITE]["nearest"]["counts"]) == 48


def test_identical_experts() -> None:
    """Every row has its copy in every other block, and the same cosines within each."""
    one = rows(20, 8)
    got = similarity(one.repeat(3, 1), torch.arange(3).repeat_interleave(20), 3).matrix
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.allclose(got[off], torch.ones(6, dtype=torch.float64), atol=1e-6)
    within = (one @ one.T).fill_diagonal_(-1).amax(1).mean()
    assert torch.allclose(got.diagonal().float(), within.expand(3), atol=1e-5)


def measured(sae: SAE, sample: HeldOut, **options: object) -> Result:
    lm, banks = tiny_llama(), {"a": {SITE: sae}}
    config = EvalConfig(bootstrap=20, **options)  # type: ignore[arg-type]
    return geometry(banks, lm, sample, config)["a"]


def topk(width: int = 64, k: int = 16) -> SAE:
    torch.manual_seed(0)
    return build_sae("topk", d=16, width=width, k=k).requires_grad_(False)


@pytest.fixture(scope="module")
def sample() -> HeldOut:
    return held_out(sequences=40, documents=60)


def test_planted_duplicates_are_found_once_each(sample: HeldOut) -> None:
    sae = topk()
    before = measured(sae, sample).sites[SITE]
    assert before["live"].value == before["distinct"].value == 64
    assert before["duplicate_share"].value == 0
    sae.w_dec[5] = sae.w_dec[9]
    sae.w_dec[6] = normalize(sae.w_dec[9] + 0.02 * sae.w_dec[20], dim=0)
    sae.w_dec[30] = 3 * sae.w_dec[31]  # length does not matter
    sae.w_dec[40] = -sae.w_dec[41]  # the sign does
    result = measured(sae, sample)
    found = result.sites[SITE]
    assert found["duplicate_share"].value == pytest.approx(5 / 64)
    assert found["distinct"].value == 61
    assert found["distinct_share"].value == pytest.approx(61 / 64)
    shares = result.series[SITE]["duplicates"]["shares"]
    assert shares == sorted(shares, reverse=True)
    assert result.series[SITE]["duplicates"]["thresholds"][4] == 0.9
    assert sum(result.series[SITE]["nearest"]["counts"]) == 64


def test_the_dead_do_not_count(sample: HeldOut) -> None:
    sae = topk()
    sae.w_dec[5] = sae.w_dec[9]
    sae.get_parameter("b_enc")[[5, 6, 7]] = -1e6
    result = measured(sae, sample)
    assert result.sites[SITE]["live"].value == 61
    assert result.sites[SITE]["duplicate_share"].value == 0
    assert sum(result.series[SITE]["similarity"]["live"]) == 61


def test_blocks_and_their_control(sample: HeldOut) -> None:
    """Blocks of likes: shuffling them makes the blocks alike."""
    sae = topk()
    for block in range(4):
        sae.w_dec[16 * block : 16 * block + 16] += 3 * sae.w_dec[16 * block]
    result = measured(sae, sample, blocks=4)
    found, series = result.sites[SITE], result.series[SITE]["similarity"]
    assert series["kind"] == "cut" and series["blocks"] == 4
    between, control = (
        found[name].value for name in ("between_similarity", "between_similarity_control")
    )
    within = found["within_similarity"].value
    assert between is not None and control is not None and within is not None
    assert between + 0.1 < control < within
    assert len(series["matrix"]) == len(series["control"]) == 4
    assert result == measured(sae, sample, blocks=4)


def test_nothing_lives_or_one_latent_does(sample: HeldOut) -> None:
    sae = topk()
    sae.get_parameter("b_enc").fill_(-1e6)
    empty = measured(sae, sample, tsne=10)
    assert empty.sites[SITE]["live"].value == 0
    for name in ("duplicate_share", "nearest_cosine", "between_similarity", "distinct_share"):
        assert empty.sites[SITE][name].value is None
    sae.get_parameter("b_enc")[3] = 1e3
    one = measured(sae, sample)
    assert one.sites[SITE]["distinct"].value == 1
    assert one.sites[SITE]["duplicate_share"].value == 0


def test_explained_per_distinct_latent(sample: HeldOut) -> None:
    sae = topk()
    lm, banks = tiny_llama(), {"a": {SITE: sae}}
    fvu = reconstruction(banks, lm, sample, EvalConfig(bootstrap=0))["a"].sites[SITE]["fvu"].value
    assert fvu is not None
    found = measured(sae, sample).sites[SITE]["explained_per_thousand"]
    assert found.value == pytest.approx(1000 * (1 - fvu) / 64)
    assert found.low is not None and found.high is not None
    assert found.low < known(found.value) < found.high


def test_maps_of_a_sample(sample: HeldOut) -> None:
    series = measured(topk(), sample, tsne=40).series[SITE]["tsne"]
    assert len(series["latents"]) == len(set(series["latents"])) == 40
    assert all(len(row) == 2 for row in series["decoder"] + series["encoder"])
    assert series["expert"] == [latent // 4 for latent in series["latents"]]
    assert "tsne" not in measured(topk(), sample).series[SITE]


def test_blocks_are_experts_where_there_are_some() -> None:
    torch.manual_seed(0)
    switch = build_sae("switch", d=16, width=24, k=2, experts=3)
    kind, block_M, count = blocks_of(switch, 16)
    assert (kind, count) == ("experts", 3)
    assert block_M.tolist() == [latent // 8 for latent in range(24)]
    kind, block_M, count = blocks_of(topk(10, 2), 4)
    assert (kind, count) == ("cut", 4)
    assert block_M.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
