import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.studies import experts
from helpers.toys import clean_rows, held_out, tiny_llama
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.experts import HasExperts
from saeworks.dictionary.registry import build_sae
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Labels
from saeworks.results.result import Result

SITE = "layers.1"


def switch(**options: object) -> SAE:
    torch.manual_seed(1)
    return build_sae("switch", d=16, **({"width": 48, "k": 4, "experts": 6} | options)).eval()


@pytest.fixture(scope="module")
def sample() -> HeldOut:
    return held_out(sequences=40, documents=60)


def measured(
    sae: SAE, sample: HeldOut, labels: Labels | None = None, **options: object
) -> dict[str, Result]:
    lm, banks = tiny_llama(), {"a": {SITE: sae}}
    config = EvalConfig(**({"bootstrap": 30, "overlap_tokens": 50} | options))  # type: ignore[arg-type]
    return experts(banks, lm, sample, config, labels)


def routed(sae: SAE, sample: HeldOut) -> tuple[Tensor, Tensor]:
    assert isinstance(sae, HasExperts)
    with torch.no_grad():
        routing = sae.route(clean_rows(tiny_llama(), SITE, sample))
    return routing.expert, routing.p


def test_load_and_confidence_against_the_router(sample: HeldOut) -> None:
    sae = switch()
    result = measured(sae, sample)["a"]
    found, series = result.sites[SITE], result.series[SITE]
    expert, p = routed(sae, sample)
    load = torch.bincount(expert.flatten(), minlength=6) / len(expert)
    assert series["load"]["share"] == pytest.approx(load.tolist(), abs=1e-6)
    assert found["load_entropy"].value == pytest.approx(
        float(torch.special.entr(load).sum() / np.log(6)), rel=1e-5
    )
    assert found["busiest_load"].value == pytest.approx(float(load.max() * 6))
    assert found["unused_share"].value == pytest.approx(float((load == 0).float().mean()))
    chosen = p.gather(1, expert).squeeze(1)
    assert found["confidence"].value == pytest.approx(float(chosen.mean()), rel=1e-5)
    assert found["confidence_q50"].value == pytest.approx(float(chosen.quantile(0.5)), abs=2e-3)
    assert found["confidence_q05"].value == pytest.approx(float(chosen.quantile(0.05)), abs=0.02)
    entropy = torch.special.entr(p).sum(1).mean() / np.log(6)
    assert found["router_entropy"].value == pytest.approx(float(entropy), rel=1e-5)
    assert found["experts"].value == 6 and found["visits"].value == 1
    for at, share in enumerate(load.tolist()):
        mean = series["load"]["confidence"][at]
        if share:
            own = float(chosen[expert[:, 0] == at].mean())
            assert mean == pytest.approx(own, abs=1e-4)
        else:
            assert mean is None
    assert sum(series["confidence"]["counts"]) == len(expert)
    assert found["support_overlap"].value is not None
    for name in ("load_entropy", "confidence", "busiest_load"):
        value = found[name]
        assert value.low is not None and value.high is not None
        assert value.low <= value.high


@pytest.mark.parametrize(
    ("options", "visits"),
    [({"router": "shared"}, 2.0), ({"router": "top-n", "active": 3}, 3.0)],
)
def test_several_experts_of_a_token(
    options: dict[str, object], visits: float, sample: HeldOut
) -> None:
    sae = switch(**options)
    found = measured(sae, sample)["a"].sites[SITE]
    expert, p = routed(sae, sample)
    assert found["visits"].value == visits
    first = 6 - p.shape[1]
    mass = torch.where(expert >= first, p.gather(1, (expert - first).clamp_min(0)), 0).sum(1)
    assert found["confidence"].value == pytest.approx(float(mass.mean()), rel=1e-5)


def test_all_tokens_at_one_expert(sample: HeldOut) -> None:
    sae = switch().requires_grad_(False)
    sae.w_router.zero_()  # type: ignore[operator]
    result = measured(sae, sample)["a"]
    found = result.sites[SITE]
    assert found["load_entropy"].value == 0
    assert found["busiest_load"].value == 6
    assert found["unused_share"].value == pytest.approx(5 / 6)
    assert found["confidence"].value == pytest.approx(1 / 6)
    assert found["router_entropy"].value == pytest.approx(1)
    assert result.series[SITE]["load"]["confidence"][1:] == [None] * 5


def test_one_expert_alone(sample: HeldOut) -> None:
    found = measured(switch(experts=1), sample)["a"].sites[SITE]
    assert found["load_entropy"].value is None
    assert found["confidence"].value == 1
    assert "support_overlap" not in found


def test_saes_without_experts_are_left_out(sample: HeldOut) -> None:
    assert measured(build_sae("topk", d=16, width=32, k=2), sample) == {}


def test_the_overlap_is_of_a_spread_sample(sample: HeldOut) -> None:
    found = measured(switch(), sample, overlap_tokens=0)["a"]
    assert "support_overlap" not in found.metrics
    assert "overlap" not in found.series[SITE]
    result = measured(switch(), sample, overlap_tokens=10**9)["a"]
    assert result.sites[SITE]["l0_all_experts"].value is not None


def test_domains_of_the_documents(sample: HeldOut) -> None:
    """Labels by what the router does to each document are told better than chance."""
    sae = switch()
    expert, _ = routed(sae, sample)
    row_N = sample.row_NT[sample.keep_NT]
    label_R = np.array(
        [int(expert[row_N == row].float().mean() > 2.5) for row in range(sample.rows)]
    )
    labels = Labels(("low", "high"), label_R)
    result = measured(sae, sample, labels)["a"]
    found = result.sites[SITE]
    chance, value = found["domain_information_chance"], found["domain_information"].value
    assert value is not None and chance.high is not None and value > chance.high
    series = result.series[SITE]["domains"]
    assert series["labels"] == ["low", "high"]
    assert [sum(row) for row in series["share"]] == pytest.approx([1, 1], abs=1e-3)
    assert sum(series["documents"]) == sample.rows
    without = measured(sae, sample)["a"]
    assert "domain_information" not in without.metrics
    assert "domains" not in without.series[SITE]
