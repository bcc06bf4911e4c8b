"""Edges of a circuit's graph: in closed form, against finite differences, and by the chain rule."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import saeworks as sw
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.lm.model import Hook, LanguageModel
from saeworks.measure.circuits.edges import (
    Node,
    circuit_graph,
    derivatives,
    node_activations,
    top_nodes,
)
from saeworks.measure.tasks.cases import Case, Task
from saeworks.measure.tasks.choose import task

D, T, P, V = 5, 4, 3, 7
SITES = ("layers.0", "layers.1", "layers.2")


class Linear(LanguageModel):
    """x₀ is an embedding, x_{l+1} = x_l + J_l x_l over all positions before and at each, logits = U
    x: everything can be written down."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.embedding_VD = torch.randn(V, D, generator=draw, dtype=torch.float64)
        causal_TT = torch.ones(T, T, dtype=torch.float64).triu()[:, None, :, None]
        self.mix = [
            0.3 * torch.randn(T, D, T, D, generator=draw, dtype=torch.float64) * causal_TT
            for _ in range(2)
        ]
        self.unembed_DV = torch.randn(D, V, generator=draw, dtype=torch.float64)
        self.device = torch.device("cpu")

    def run(
        self,
        tokens_BT: Any,
        hooks: Mapping[str, Hook] | None = None,
        *,
        logits: bool = False,
        attention_mask: Any = None,
    ) -> Any:
        x_BTD = self.embedding_VD[tokens_BT]
        for at, site in enumerate(SITES):
            if at:
                x_BTD = x_BTD + torch.einsum("btd,tdse->bse", x_BTD, self.mix[at - 1])
            if hooks and site in hooks:
                put = hooks[site](x_BTD)
                x_BTD = x_BTD if put is None else put
        return x_BTD @ self.unembed_DV if logits else None


def linear_sae(seed: int) -> SAE:
    """All latents are active: f = W_enc (x − b_dec) + b_enc."""
    sae = sw.build_sae("relu", d=D, width=6).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
            if name == "b_enc":
                parameter.fill_(200.0)
    return sae


CASE = Case(
    "a",
    torch.tensor([[0, 1, 2, 3], [4, 1, 5, 3], [6, 2, 1, 0]]),
    torch.tensor([[0, 4, 2, 3], [4, 3, 5, 3], [6, 0, 1, 0]]),
    torch.tensor([1, 2, 3]),
    torch.tensor([2, 3, 1]),
)
NODES = [
    Node("layers.0", 1, 0),
    Node("layers.0", 1, 3),
    Node("layers.1", 1, 2),
    Node("layers.1", 2, 2),
    Node("layers.2", 2, 5),
    Node("layers.2", 3, 1),
]


def sides(bank: Mapping[str, SAE], node: Node) -> tuple[Tensor, Tensor]:
    """What reads a node's site at all positions, and what it writes there: rows over (T, D)."""
    reads, writes = (torch.zeros(T, D, dtype=torch.float64) for _ in range(2))
    reads[node.position] = bank[node.site].w_enc[node.latent]
    writes[node.position] = bank[node.site].w_dec[node.latent]
    return reads.flatten(), writes.flatten()


def test_a_linear_model_has_its_edges_in_closed_form():
    lm, bank = Linear(), {site: linear_sae(at) for at, site in enumerate(SITES)}
    measured = derivatives(lm, bank, CASE, NODES)
    step = [torch.eye(T * D, dtype=torch.float64) + mix.reshape(T * D, T * D) for mix in lm.mix]
    identity = torch.eye(T * D, dtype=torch.float64)
    past = identity.clone()  # what of a change of site 1 no chosen node there takes up
    end = identity.clone()
    with torch.no_grad():
        for node in NODES:
            reads, writes = sides(bank, node)
            if node.site == "layers.1":
                past -= torch.outer(reads, writes)
            if node.site == "layers.2":
                end -= torch.outer(reads, writes)
        ways = {
            ("layers.0", "layers.1"): step[0],
            ("layers.1", "layers.2"): step[1],
            ("layers.0", "layers.2"): step[0] @ past @ step[1],
        }
        out = {
            "layers.0": step[0] @ past @ step[1] @ end,
            "layers.1": step[1] @ end,
            "layers.2": identity,
        }
        answers_PTD = torch.zeros(P, T, D, dtype=torch.float64)
        for p in range(P):
            clean, patch = CASE.clean_answer_P[p], CASE.patch_answer_P[p]
            answers_PTD[p, -1] = lm.unembed_DV[:, clean] - lm.unembed_DV[:, patch]
        for u, source in enumerate(NODES):
            _, writes = sides(bank, source)
            expected = (writes @ out[source.site]) @ answers_PTD.flatten(1).T
            torch.testing.assert_close(measured.to_metric_PN[:, u], expected)
            for d, target in enumerate(NODES):
                way = ways.get((source.site, target.site))
                reads, _ = sides(bank, target)
                weight = 0.0 if way is None else float(writes @ way @ reads)
                torch.testing.assert_close(
                    measured.direct_PNN[:, u, d], torch.full((P,), weight, dtype=torch.float64)
                )


def test_in_a_linear_model_an_effect_is_what_patching_the_node_does():
    lm, bank = Linear(), {site: linear_sae(at) for at, site in enumerate(SITES)}
    clean_PN, patch_PN = node_activations(lm, bank, CASE, NODES)
    total_PN = derivatives(lm, bank, CASE, NODES).total_PN
    clean_P = Task.difference(lm.run(CASE.clean_PT, logits=True)[:, -1], CASE)
    for at, node in enumerate(NODES):
        change_P = patch_PN[:, at] - clean_PN[:, at]

        def put(x_PTD: Tensor, node: Node = node, change_P: Tensor = change_P) -> Tensor:
            x_PTD = x_PTD.clone()
            x_PTD[:, node.position] += change_P[:, None] * bank[node.site].w_dec[node.latent]
            return x_PTD.detach()

        logits = lm.run(CASE.clean_PT, {node.site: put}, logits=True)
        m_P = Task.difference(logits[:, -1], CASE)
        torch.testing.assert_close(change_P * total_PN[:, at], m_P - clean_P)


@cache
def neox() -> LanguageModel:
    config = GPTNeoXConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config).double()
    return LanguageModel.wrap(model, None, name="tiny")


def topk_bank(lm: LanguageModel, sites: Sequence[str] = SITES) -> dict[str, SAE]:
    bank = {}
    for at, site in enumerate(sites):
        sae = sw.build_sae("topk", d=16, width=40, k=8).double()
        draw = torch.Generator().manual_seed(at)
        with torch.no_grad():
            for parameter in sae.parameters():
                noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        bank[site] = sae
    return bank


def active_nodes(lm: LanguageModel, bank: Mapping[str, SAE]) -> list[Node]:
    return top_nodes(lm, bank, CASE, 6, {})


def test_effects_are_parted_among_the_nodes_without_a_rest():
    lm = neox()
    bank = topk_bank(lm)
    nodes = active_nodes(lm, bank)
    assert len(nodes) == 18
    measured = derivatives(lm, bank, CASE, nodes)
    parted_PN = measured.to_metric_PN + torch.einsum(
        "pud,pd->pu", measured.direct_PNN, measured.total_PN
    )
    torch.testing.assert_close(parted_PN, measured.total_PN, rtol=1e-6, atol=1e-9)
    assert (measured.direct_PNN != 0).any()


def test_direct_derivatives_are_finite_differences_with_the_other_nodes_held():
    lm = neox()
    bank = topk_bank(lm)
    nodes = active_nodes(lm, bank)
    measured = derivatives(lm, bank, CASE, nodes)
    clean_PN, _ = node_activations(lm, bank, CASE, nodes)
    eps = 1e-6

    def activations(source: Node, size: float) -> tuple[Tensor, Tensor]:
        """The nodes' activations and m, when the source is changed and all chosen nodes are kept
        from going on."""
        seen = torch.zeros(P, len(nodes), dtype=torch.float64)

        def holding(site: str) -> Hook:
            def hook(x_PTD: Tensor) -> Tensor:
                f_PTM = bank[site].encode(x_PTD)
                x_PTD = x_PTD.clone()
                for at, node in enumerate(nodes):
                    if node.site == site:
                        seen[:, at] = f_PTM[:, node.position, node.latent]
                        change_P = seen[:, at] - clean_PN[:, at]
                        row_D = bank[site].w_dec[node.latent]
                        x_PTD[:, node.position] -= change_P[:, None] * row_D
                if site == source.site:
                    x_PTD[:, source.position] += size * bank[site].w_dec[source.latent]
                return x_PTD

            return hook

        with torch.no_grad():
            logits = lm.run(CASE.clean_PT, {site: holding(site) for site in bank}, logits=True)
        assert logits is not None
        return seen, Task.difference(logits[:, -1], CASE)

    for u in (0, 3, 7):
        up, m_up = activations(nodes[u], eps)
        down, m_down = activations(nodes[u], -eps)
        torch.testing.assert_close(
            measured.direct_PNN[:, u], (up - down) / (2 * eps), rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(
            measured.to_metric_PN[:, u], (m_up - m_down) / (2 * eps), rtol=1e-4, atol=1e-6
        )


def test_blocks_of_prompts_change_nothing(monkeypatch):
    lm = neox()
    bank = topk_bank(lm)
    nodes = active_nodes(lm, bank)
    whole = derivatives(lm, bank, CASE, nodes)
    monkeypatch.setattr("saeworks.measure.circuits.edges._GRAPH_TOKENS", T)
    assert active_nodes(lm, bank) == nodes
    parts = derivatives(lm, bank, CASE, nodes)
    torch.testing.assert_close(parts.direct_PNN, whole.direct_PNN)
    torch.testing.assert_close(parts.total_PN, whole.total_PN)


@pytest.fixture(scope="module")
def embedded() -> tuple[LanguageModel, dict[str, SAE], Task]:
    lm = LanguageModel.load("embedded")
    bank = {}
    for at, site in enumerate(("layers.3", "layers.3.mlp", "layers.1")):
        sae = sw.build_sae("topk", d=lm.width(site), width=64, k=16)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(at)
            sae.w_enc.copy_(torch.randn(sae.w_enc.shape, generator=draw))
            sae.w_dec.copy_(torch.nn.functional.normalize(sae.w_enc, dim=1))
        bank[site] = sae
    return lm, bank, task("ioi", lm, 40, 0)


def test_a_graph_says_what_a_person_must_know(embedded):
    lm, bank, ioi = embedded
    labels = {("layers.1", latent): f"latent {latent}" for latent in range(64)}
    graph = circuit_graph(lm, bank, ioi, 4, labels=labels)
    case = max(ioi.cases, key=len)
    assert (graph.task, graph.case, graph.prompts) == ("ioi", case.name, len(case))
    assert graph.sites == ["layers.1", "layers.3.mlp", "layers.3"]  # as they are computed
    assert graph.tokens[0] == "<|bos|>" and len(graph.tokens) == case.clean_PT.shape[1]
    assert not graph.varies[0] and any(graph.varies)
    assert graph.clean > 0 > graph.patch
    assert len(graph.nodes) == 12 and graph.all_edges == len(graph.edges)
    for number, node in enumerate(graph.nodes):
        assert len(node.promoted) == 5
        assert node.label == (f"latent {node.latent}" if node.site == "layers.1" else "")
        weights = [edge.weight for edge in graph.edges if edge.source == number]
        assert node.effect == pytest.approx(node.direct + sum(weights), abs=2e-5)
    for edge in graph.edges:
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        assert source.position <= target.position
        assert graph.sites.index(source.site) < graph.sites.index(target.site)


def test_candidates_are_the_only_latents_of_a_graph(embedded):
    lm, bank, ioi = embedded
    candidates = {site: torch.tensor([3, 17, 40]) for site in bank}
    graph = circuit_graph(lm, bank, ioi, 8, candidates, ioi.cases[1].name)
    assert graph.case == ioi.cases[1].name
    assert {node.latent for node in graph.nodes} <= {3, 17, 40}


def test_graphs_that_cannot_be_drawn_are_refused(embedded):
    lm, bank, ioi = embedded
    with pytest.raises(UserError, match="a graph of 0 latents at each of 3 sites"):
        circuit_graph(lm, bank, ioi, 0)
    with pytest.raises(UserError, match="at most 400 altogether"):
        circuit_graph(lm, bank, ioi, 200)
    with pytest.raises(UserError, match="task ioi has no case 'x'; choose one of ABA-1"):
        circuit_graph(lm, bank, ioi, 2, case="x")
    nothing = {site: torch.zeros(0, dtype=torch.int64) for site in bank}
    with pytest.raises(UserError, match="no latent has an effect"):
        circuit_graph(lm, bank, ioi, 2, nothing)
