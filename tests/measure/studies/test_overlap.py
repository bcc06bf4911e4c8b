import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeworks.dictionary.base import SAE
from saeworks.dictionary.experts import HasExperts
from saeworks.dictionary.registry import build_sae
from saeworks.measure.studies import overlap
from saeworks.measure.studies.overlap import STATISTICS, Overlap, chosen

D = 12


def switch(**options: object) -> SAE:
    torch.manual_seed(0)
    return build_sae("switch", d=D, **({"width": 32, "k": 3, "experts": 4} | options)).eval()


def measured(sae: SAE, x: Tensor) -> tuple[dict[str, float], Tensor]:
    assert isinstance(sae, HasExperts)
    with torch.no_grad():
        found = Overlap.empty(5, sae.experts, x.device)
        found.add(sae, sae, x, torch.arange(len(x)) % 5)
    sums = {name: column.sum() for name, column in found.per_document().items()}
    with np.errstate(invalid="ignore"):
        return {name: float(of(sums)) for name, of in STATISTICS.items()}, found.matrix


def direct(sae: SAE, x: Tensor) -> dict[str, float]:
    """Token by token, expert by expert, latent by latent."""
    assert isinstance(sae, HasExperts)
    unit = normalize(sae.w_dec, dim=1)
    run = sae.width // sae.experts
    totals: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for row in x:
        z_M = ((row - sae.b_dec) @ sae.w_enc.T).relu()
        own = sae.encode(row[None])[0].nonzero().squeeze(1).tolist()
        mine = sae.route(row[None]).expert.flatten().tolist()
        active: dict[int, list[int]] = {}
        for expert in range(sae.experts):
            of = z_M[expert * run : (expert + 1) * run]
            best = of.topk(sae.config.k).indices.tolist()
            active[expert] = [expert * run + at for at in best if of[at] > 0]
        every = sorted((latent for a in active.values() for latent in a), key=lambda m: -z_M[m])
        top = every[: sae.config.k]
        totals["l0_all_experts"].append(len(every))
        totals["global_top_share"].append(
            sum(latent // run in mine for latent in top) / len(top) if top else 0
        )
        others = [expert for expert in range(sae.experts) if expert not in mine]
        if own and others:
            near = {
                e: [any(unit[a] @ unit[b] > 0.9 for b in active[e]) for a in own] for e in others
            }
            totals["support_overlap"].append(sum(map(sum, near.values())) / len(own) / len(others))
            anywhere = [any(column) for column in zip(*near.values(), strict=True)]
            totals["support_overlap_any"].append(sum(anywhere) / len(own))
    return {name: sum(values) / len(values) for name, values in totals.items()}


@pytest.mark.parametrize("router", ["switch", "shared", "top-n", "expert-choice"])
@pytest.mark.parametrize("elements", [1, 2**23])
def test_against_token_by_token(
    router: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With duplicates in several experts, in chunks of one token and in one."""
    monkeypatch.setattr(overlap, "_ELEMENTS", elements)
    active = {"active": 2} if router in ("top-n", "expert-choice") else {}
    sae = switch(router=router, **active).requires_grad_(False)
    if router == "expert-choice":
        sae.get_buffer("router.threshold").fill_(0.3)
    for twin, original in {9: 1, 17: 1, 18: 2, 30: 22, 25: 3}.items():
        sae.w_dec[twin] = sae.w_dec[original] + 0.01 * sae.w_dec[twin]
        sae.w_enc[twin] = sae.w_enc[original] + 0.3 * sae.w_enc[twin]
    x = torch.randn(40, D)
    found, _ = measured(sae, x)
    assert found == pytest.approx(direct(sae, x), abs=1e-6)
    assert 0 < found["support_overlap"] < found["support_overlap_any"]


def test_identical_experts_have_one_support() -> None:
    sae = switch().requires_grad_(False)
    for weight in (sae.w_dec, sae.w_enc):
        weight.copy_(weight[:8].repeat(4, 1))
    found, matrix = measured(sae, torch.randn(60, D))
    assert found["support_overlap"] == found["support_overlap_any"] == 1
    off = ~torch.eye(4, dtype=torch.bool)
    assert (matrix[off] == 1).all()
    assert matrix.diagonal().isnan().all()


def test_orthogonal_experts_share_nothing() -> None:
    sae = switch(width=12, k=2).requires_grad_(False)
    sae.w_dec.copy_(torch.eye(12))
    found, _ = measured(sae, torch.randn(60, D))
    assert found["support_overlap"] == found["support_overlap_any"] == 0


def test_every_expert_chosen_leaves_nothing_to_compare() -> None:
    sae = switch(router="top-n", active=4).requires_grad_(False)
    found, _ = measured(sae, torch.randn(20, D))
    assert found["global_top_share"] == 1
    assert found["support_overlap"] != found["support_overlap"]  # 0/0


def test_chosen_of_any_routing() -> None:
    sae = switch(router="expert-choice", active=2)
    assert isinstance(sae, HasExperts)
    sae.router.threshold.fill_(0.26)  # type: ignore[union-attr, operator]
    x = torch.randn(30, D)
    with torch.no_grad():
        routing = sae.route(x)
    mask = chosen(routing, 30, 4)
    assert routing.offsets is not None
    for token in range(30):
        own = routing.expert[routing.offsets[token] : routing.offsets[token + 1]]
        assert mask[token].nonzero().squeeze(1).tolist() == sorted(own.tolist())
