import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeworks.dictionary import cosines
from saeworks.dictionary.archs.switch import Switch
from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import leaders, nearest, unit
from saeworks.dictionary.dedup import clusters, merge, tie
from saeworks.dictionary.experts import experts_of
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.errors import UserError

D = 16


def rows(count: int, seed: int = 0, d: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, d, generator=generator), dim=1)


def greedy(rows_LD: Tensor, order: Tensor, threshold: float) -> list[int]:
    """One row after the other, the plain way."""
    kept: list[int] = []
    leader = [0] * len(rows_LD)
    for at in order.tolist():
        near = (rows_LD[kept] @ rows_LD[at]).tolist() if kept else [-1.0]
        if max(near) > threshold:
            leader[at] = kept[near.index(max(near))]
        else:
            kept.append(at)
            leader[at] = at
    return leader


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("budget", [64, 2**23])
def test_leaders_as_one_by_one(
    threshold: float, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than a tile holds, and more leaders."""
    monkeypatch.setattr(cosines, "_COSINES", budget)
    found = rows(700, d=6)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    assert leaders(found, order, threshold).tolist() == greedy(found, order, threshold)


def test_every_row_is_near_its_leader_and_no_leaders_are_near() -> None:
    found = rows(400, d=4)
    leader_L = leaders(found, torch.arange(400), 0.8)
    cosine_LL = found @ found.T
    own = leader_L == torch.arange(400)
    assert (cosine_LL[torch.arange(400), leader_L] > 0.8).all()
    assert (cosine_LL[own][:, own] - torch.eye(int(own.sum())) <= 0.8).all()


@pytest.mark.parametrize("budget", [7, 100, 2**23])
def test_nearest_in_tiles(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_COSINES", budget)
    one, other = rows(37), rows(23, seed=1)
    assert torch.allclose(nearest(one, other, same=False), (one @ other.T).amax(1))
    expected = (one @ one.T).fill_diagonal_(-1).amax(1)
    assert torch.allclose(nearest(one, one, same=True), expected)
    assert nearest(one, one[:0], same=False).tolist() == [-1] * 37
    assert nearest(one[:1], one[:1], same=True).tolist() == [-1]


def planted(arch: str, twins: dict[int, int], **options: object) -> SAE:
    """An SAE whose latents are each other's copies: twin → original."""
    torch.manual_seed(3)
    sae = build_sae(arch, d=D, **options).requires_grad_(False)
    for name, tensor in sae.state_dict().items():
        if tensor.dim() and len(tensor) == sae.width and not name.startswith("router"):
            if name != "w_enc" and tensor.dim() == 1:
                tensor += 0.1 * torch.randn(sae.width)
            for twin, original in twins.items():
                tensor[twin] = tensor[original]
    return sae


@pytest.mark.parametrize("arch", [name for name in ARCHS if name != "switch"])
def test_merging_copies_leaves_the_originals(arch: str) -> None:
    """The merged SAE is what is left of the state dict without the copies."""
    k = {"k": 4} if "k" in ARCHS[arch].Config.__dataclass_fields__ else {}
    sae = planted(arch, {5: 2, 9: 2, 20: 11}, width=24, **k)
    found = clusters(sae, torch.arange(24, 0, -1).float())
    assert found.leader[[5, 9, 20]].tolist() == [2, 2, 11]
    assert found.distinct == 21
    merged = merge(sae, found)
    kept = [latent for latent in range(24) if latent not in (5, 9, 20)]
    assert merged.width == 21
    for name, tensor in merged.state_dict().items():
        whole = sae.state_dict()[name]
        assert torch.allclose(tensor, whole[kept] if whole.shape[:1] == (24,) else whole), name
    x = torch.randn(50, D)
    assert merged(x).shape == (50, D)
    assert sae.width == 24


def test_the_merged_latent_is_the_mean_by_use() -> None:
    sae = planted("relu", {}, width=8)
    sae.w_dec[3] = sae.w_dec[1] + 0.05 * sae.w_dec[3]
    weight = torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    merged = merge(sae, clusters(sae, weight, 0.9))
    b_enc = sae.get_parameter("b_enc")
    assert torch.allclose(merged.w_enc[1], (3 * sae.w_enc[1] + sae.w_enc[3]) / 4)
    assert torch.allclose(merged.get_parameter("b_enc")[1], (3 * b_enc[1] + b_enc[3]) / 4)
    direction = normalize(3 * sae.w_dec[1] + sae.w_dec[3], dim=0)
    assert torch.allclose(merged.w_dec[1], direction * sae.w_dec[1].norm(), atol=1e-6)
    assert torch.equal(merged.w_dec[-1], sae.w_dec[7])  # dead: as it was


def test_the_dead_are_in_no_cluster() -> None:
    sae = planted("topk", {1: 0, 3: 2}, width=8, k=2)
    weight = torch.tensor([0.0, 1, 1, 0, 1, 1, 1, 1])
    found = clusters(sae, weight)
    assert torch.equal(found.leader, torch.arange(8))
    assert found.distinct == 6


def test_tied_directions_keep_the_code() -> None:
    """Across experts, of an SAE that routes."""
    sae = planted("switch", {}, width=32, k=3, experts=4)
    sae.w_dec[25] = normalize(sae.w_dec[2] + 0.1 * sae.w_dec[25], dim=0)
    found = clusters(sae, torch.ones(32))
    assert found.distinct == 31
    tied = tie(sae, found)
    x = torch.randn(60, D)
    assert torch.equal(tied.encode(x), sae.encode(x))
    assert torch.allclose(tied.w_dec[2], tied.w_dec[25], atol=1e-6)
    assert torch.allclose(tied.w_dec[2], unit(sae.w_dec[[2, 25]].mean(0, keepdim=True))[0])
    others = [latent for latent in range(32) if latent not in (2, 25)]
    assert torch.equal(tied.w_dec[others], sae.w_dec[others])


def test_experts_stay_equally_wide() -> None:
    """The expert that lost more is filled up with latents that never fire."""
    sae = planted("switch", {3: 1, 5: 1, 9: 8}, width=32, k=3, experts=4)
    found = clusters(sae, torch.ones(32), across=False)
    assert found.distinct == 29
    merged = merge(sae, found)
    assert merged.width == 32  # the third expert lost none
    sae = planted("switch", {3: 1, 5: 1, 9: 8, 17: 16, 25: 24}, width=32, k=3, experts=4)
    merged = merge(sae, clusters(sae, torch.ones(32), across=False))
    assert merged.width == 28
    assert experts_of(merged) is not None
    x = torch.randn(500, D)
    assert not (merged.encode(x)[:, 6:7] > 0).any()
    assert (merged.w_enc[6] == 0).all()
    assert isinstance(merged, Switch) and isinstance(sae, Switch)
    assert torch.equal(merged.route(x).expert, sae.route(x).expert)


def test_clusters_of_one_expert_are_found_in_it_alone() -> None:
    sae = planted("switch", {9: 1}, width=32, k=3, experts=4)
    assert clusters(sae, torch.ones(32), across=True).distinct == 31
    assert clusters(sae, torch.ones(32), across=False).distinct == 32


def bad(message: str, call: object) -> None:
    with pytest.raises(UserError, match=message) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_failures() -> None:
    sae = planted("switch", {9: 1}, width=32, k=7, experts=4)
    bad("threshold = 1.5", lambda: clusters(sae, torch.ones(32), 1.5))
    bad("7 weights for 32 latents", lambda: clusters(sae, torch.ones(7)))
    across = clusters(sae, torch.ones(32))
    bad("different experts cannot become one", lambda: merge(sae, across))
    many = {twin: 8 * (twin // 8) for twin in range(32)}
    narrow = planted("switch", many, width=32, k=7, experts=4)
    found = clusters(narrow, torch.ones(32), across=False)
    bad("k = 7 is more than", lambda: merge(narrow, found))


def test_experts_of_an_sae_without_any() -> None:
    assert experts_of(build_sae("topk", d=D, width=8, k=2)) is None


def test_an_expert_encodes_alone_what_it_would_be_sent() -> None:
    """`encode_within` of the chosen expert, times its weight, is the code."""
    sae = planted("switch", {}, width=32, k=3, experts=4)
    x = torch.randn(80, D)
    assert isinstance(sae, Switch)
    routing = sae.route(x)
    f_BM = sae.encode(x)
    for expert in range(4):
        alone_BM = sae.encode_within(x, expert).dense()
        assert not alone_BM[:, : 8 * expert].any()
        assert not alone_BM[:, 8 * (expert + 1) :].any()
        sent = routing.expert[:, 0] == expert
        assert torch.allclose(alone_BM[sent] * routing.weight[sent], f_BM[sent], atol=1e-6)
