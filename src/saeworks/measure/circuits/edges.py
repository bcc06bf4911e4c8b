"""How the latents of a circuit act on one another: the edges of its graph.

A node is a latent of one site at one position, in the prompts of one case. All derivatives are at
the clean prompts. At every site, the model's x is x̂ + e to the bit. Between nodes, a path counts
as direct if it meets no other chosen node: at each site x goes on as

    x′ = x − Σ_c (f_c(x) − sg f_c(x)) W_dec[c]

over the chosen nodes c of that position, with sg the stop-gradient: its value is x, and no
derivative flows through the activation of a chosen node. What flows through latents that were not
chosen, through the error, and around the site is direct. With that,

    A_ud = ∂f_d/∂f_u on direct paths,   b_u = ∂m/∂f_u on direct paths,   g_u = ∂m/∂f_u on all,

where f_u acts on x by W_dec[u], and does nothing to the other latents of its site. With
Δ_u = f_u(patch) − f_u(clean), the weights are, as means over the case's prompts,

    effect_u = Δ_u g_u,   edge_ud = Δ_u A_ud g_d,   direct_u = Δ_u b_u.

By the chain rule g = b + A g, so effect_u = direct_u + Σ_d edge_ud: a node's effect is parted among
the nodes that it acts through, and what reaches m without them. Effects and edges are attribution
patching along those paths (Marks et al. 2024): the first order of what patching does.

Shapes: P prompts, T positions, D model width, M latents, C candidates, N nodes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeworks.errors import UserError
from saeworks.lm.model import Hook, LanguageModel
from saeworks.lm.unembedding import Unembedding
from saeworks.measure import banks as limits
from saeworks.measure.banks import Bank, rows_at_once, sites_of
from saeworks.measure.progress import Tick
from saeworks.measure.studies.pieces import Pieces
from saeworks.measure.tasks.cases import Case, Task
from saeworks.measure.tasks.skill import case_differences
from saeworks.results.series import CircuitGraph, GraphEdge, GraphNode

MOST = 400
"""Nodes of a graph: each takes a backward pass, and more than these nobody can follow."""
MOST_EDGES = 4000
"""Edges that a graph keeps."""
PROMOTED = 5
"""Promoted tokens of a node."""
_GRAPH_TOKENS = 1024
"""Tokens of a pass whose graph is kept for all nodes."""


class Node(NamedTuple):
    """A latent of one site at one position."""

    site: str
    position: int
    latent: int


@dataclass(frozen=True)
class Derivatives:
    """Derivatives at each prompt.

    Attributes:
        direct_PNN: A, from the node of the row to the node of the column.
        to_metric_PN: b.
        total_PN: g.
    """

    direct_PNN: Float[Tensor, "P N N"]
    to_metric_PN: Float[Tensor, "P N"]
    total_PN: Float[Tensor, "P N"]


def circuit_graph(
    lm: LanguageModel,
    bank: Bank,
    task: Task,
    nodes: int,
    candidates: Mapping[str, Int[Tensor, " _"]] | None = None,
    case: str | None = None,
    labels: Mapping[tuple[str, int], str] | None = None,
    tick: Tick | None = None,
) -> CircuitGraph:
    """The graph of a circuit on the prompts of one case.

    Args:
        nodes: for each site, so many of the candidates at positions, by |effect|; those without
            any effect are left out.
        candidates: the circuit's latents by site; all latents where it is None.
        case: the name of one; the one with the most prompts where it is None.
        labels: (site, latent) → what the latent is called. Others are named by the tokens that
            they promote, where the model has direct effects on its logits.

    Raises:
        UserError: if the task has no such case, if there would be more than `MOST` nodes, or if no
            latent has an effect.
    """
    chosen_case = _case(task, case)
    sites = _running_order(lm, sites_of({"": bank}, lm), chosen_case)
    check_size(nodes, len(sites))
    ordered = {site: bank[site] for site in sites}
    chosen = top_nodes(lm, ordered, chosen_case, nodes, candidates or {})
    if not chosen:
        raise UserError(
            f"task {task.name}, case {chosen_case.name}: no latent has an effect, so that there is "
            "no graph; choose a larger circuit"
        )
    return _record(lm, ordered, task.name, chosen_case, chosen, labels or {}, tick)


def graph_tokens(task: Task, nodes: int) -> int:
    """Tokens of the passes of a graph of so many nodes at most, for the progress."""
    return nodes * max(case.clean_PT.numel() for case in task.cases)


def check_size(nodes: int, sites: int) -> None:
    """Refuse a graph that would be too large, before anything is measured.

    Raises:
        UserError: if there would be more than `MOST` nodes, or none.
    """
    if nodes < 1 or nodes * sites > MOST:
        raise UserError(
            f"a graph of {nodes} latents at each of {sites} sites; ask for at least 1, and at most "
            f"{MOST} altogether"
        )


def _record(
    lm: LanguageModel,
    bank: Bank,
    task: str,
    case: Case,
    nodes: Sequence[Node],
    labels: Mapping[tuple[str, int], str],
    tick: Tick | None,
) -> CircuitGraph:
    clean_PN, patch_PN = node_activations(lm, bank, case, nodes)
    derived = derivatives(lm, bank, case, nodes, tick)
    change_PN = patch_PN - clean_PN
    effect_N = (change_PN * derived.total_PN).mean(0)
    direct_N = (change_PN * derived.to_metric_PN).mean(0)
    edge_NN = (change_PN[:, :, None] * derived.direct_PNN * derived.total_PN[:, None]).mean(0)
    edges, count = _largest_edges(edge_NN)
    names = _names(lm, bank, nodes, labels)
    pieces = Pieces(lm.tokenizer)
    return CircuitGraph(
        task=task,
        case=case.name,
        prompts=len(case),
        sites=list(bank),
        tokens=pieces.window(case.clean_PT[0].tolist()),
        varies=(case.clean_PT != case.clean_PT[0]).any(0).tolist(),
        clean_answer=pieces.piece(int(case.clean_answer_P[0])),
        patch_answer=pieces.piece(int(case.patch_answer_P[0])),
        clean=float(case_differences(lm, case).mean()),
        patch=float(case_differences(lm, _patched(case)).mean()),
        nodes=[
            GraphNode(
                *node,
                effect=float(effect_N[at]),
                direct=float(direct_N[at]),
                clean=float(clean_PN[:, at].mean()),
                patch=float(patch_PN[:, at].mean()),
                label=names[at][0],
                promoted=names[at][1],
            )
            for at, node in enumerate(nodes)
        ],
        edges=edges,
        all_edges=count,
    )


def _patched(case: Case) -> Case:
    """The same case with the patched prompts as the ones that the model reads."""
    return replace(case, clean_PT=case.patch_PT)


def _largest_edges(edge_NN: Float[Tensor, "N N"]) -> tuple[list[GraphEdge], int]:
    """The edges by |weight|, the largest first, and how many there are."""
    source_n, target_n = edge_NN.nonzero(as_tuple=True)
    weight_n = edge_NN[source_n, target_n]
    order_n = weight_n.abs().argsort(descending=True, stable=True)[:MOST_EDGES]
    listed = (x[order_n].tolist() for x in (source_n, target_n, weight_n))
    return [GraphEdge(*edge) for edge in zip(*listed, strict=True)], len(weight_n)


def _names(
    lm: LanguageModel, bank: Bank, nodes: Sequence[Node], labels: Mapping[tuple[str, int], str]
) -> list[tuple[str, list[str]]]:
    """What each node's latent is called, and the tokens that it promotes."""
    rows_ND = torch.stack([bank[node.site].w_dec[node.latent].detach() for node in nodes])
    try:
        promoted, _ = Unembedding.of(lm).top(rows_ND, PROMOTED)
        tokens = promoted.token_Mn.tolist()
    except UserError:  # no residual stream's site, or another head: the graph does without
        tokens = [[] for _ in nodes]
    pieces = Pieces(lm.tokenizer)
    return [
        (labels.get((node.site, node.latent), ""), [pieces.piece(token) for token in of_node])
        for node, of_node in zip(nodes, tokens, strict=True)
    ]


def _case(task: Task, name: str | None) -> Case:
    if name is None:
        return max(task.cases, key=len)
    for case in task.cases:
        if case.name == name:
            return case
    names = ", ".join(case.name for case in task.cases)
    raise UserError(f"task {task.name} has no case {name!r}; choose one of {names}")


@torch.no_grad()
def _running_order(lm: LanguageModel, sites: Sequence[str], case: Case) -> list[str]:
    """The sites as the model computes them, which is not the order of their names: a block's output
    comes after what is in the block."""
    seen: list[str] = []

    def noting(site: str) -> Hook:
        return lambda _x_PTD: seen.append(site)

    lm.run(case.clean_PT[:1], {site: noting(site) for site in sites})
    return seen


def top_nodes(
    lm: LanguageModel,
    bank: Bank,
    case: Case,
    count: int,
    candidates: Mapping[str, Int[Tensor, " _"]],
) -> list[Node]:
    """For each site, the latents at positions with the largest |effect|, the largest first."""
    effect_TC = {
        site: torch.zeros(case.clean_PT.shape[1], len(_candidates(bank, site, candidates)))
        for site in bank
    }
    for block in _blocks(case):
        gradients = _total_gradients(lm, bank, block)
        patch = _activations(lm, bank, block.patch_PT)
        for site, (x_PTD, gradient_PTD) in gradients.items():
            latents_C = _candidates(bank, site, candidates)
            rows_CD = bank[site].w_dec[latents_C].detach()
            change_PTC = _codes(bank, site, patch[site], latents_C)
            change_PTC -= _codes(bank, site, x_PTD, latents_C)
            slope_PTC = gradient_PTD.to(rows_CD) @ rows_CD.T
            effect_TC[site] += (change_PTC * slope_PTC).sum(0).cpu() / len(case)
    return [node for site in bank for node in _largest(site, effect_TC[site], count, candidates)]


def _largest(
    site: str,
    effect_TC: Float[Tensor, "T C"],
    count: int,
    candidates: Mapping[str, Int[Tensor, " _"]],
) -> list[Node]:
    size = effect_TC.abs().flatten()
    order = size.argsort(descending=True, stable=True)[:count]
    known = candidates.get(site)
    width = effect_TC.shape[1]
    return [
        Node(site, place // width, int(place % width if known is None else known[place % width]))
        for place in order.tolist()
        if size[place] > 0
    ]


def _candidates(
    bank: Bank, site: str, candidates: Mapping[str, Int[Tensor, " _"]]
) -> Int[Tensor, " C"]:
    known = candidates.get(site)
    return torch.arange(bank[site].width) if known is None else known.cpu()


@torch.no_grad()
def node_activations(
    lm: LanguageModel, bank: Bank, case: Case, nodes: Sequence[Node]
) -> tuple[Float[Tensor, "P N"], Float[Tensor, "P N"]]:
    """Each node's activation on the clean and on the patched prompts; float64."""
    clean: list[Tensor] = []
    patch: list[Tensor] = []
    for block in _blocks(case):
        for side, tokens_PT in ((clean, block.clean_PT), (patch, block.patch_PT)):
            f_PN = _nodes_of(bank, nodes, _activations(lm, bank, tokens_PT))
            side.append(f_PN.double().cpu())
    return torch.cat(clean), torch.cat(patch)


def derivatives(
    lm: LanguageModel, bank: Bank, case: Case, nodes: Sequence[Node], tick: Tick | None = None
) -> Derivatives:
    """A, b and g at every clean prompt. The nodes of a site follow one another, sites in the bank's
    order."""
    direct, to_metric, total = [], [], []
    for block in _blocks(case):
        gradients = {site: g for site, (_, g) in _total_gradients(lm, bank, block).items()}
        total.append(_along(bank, nodes, gradients))
        columns = []
        with torch.enable_grad():
            leaves, activations_PN, m_P = _held_pass(lm, bank, block, nodes)
            to_metric.append(_along(bank, nodes, _gradient(m_P.sum(), leaves)))
            for at in range(len(nodes)):
                gradient = _gradient(activations_PN[:, at].sum(), leaves)
                columns.append(_along(bank, nodes, gradient))
                if tick is not None:
                    tick(block.clean_PT.numel())
        direct.append(torch.stack(columns, dim=2))
    return Derivatives(torch.cat(direct), torch.cat(to_metric), torch.cat(total))


def _held_pass(
    lm: LanguageModel, bank: Bank, case: Case, nodes: Sequence[Node]
) -> tuple[dict[str, Tensor], Float[Tensor, "P N"], Float[Tensor, " P"]]:
    """A clean pass in which no derivative flows through a chosen node. Zeros that are added at each
    site, the nodes' activations before they are held, and m."""
    leaves: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}

    def holding(site: str) -> Hook:
        at = [node for node in nodes if node.site == site]

        def hook(x_PTD: Tensor) -> Tensor:
            leaves[site] = torch.zeros_like(x_PTD, requires_grad=True)
            if not at:
                return x_PTD + leaves[site]
            f_Pn = _nodes_of(bank, at, {site: x_PTD})
            activations[site] = f_Pn
            rows_nD = bank[site].w_dec[[node.latent for node in at]].detach()
            change_PnD = ((f_Pn - f_Pn.detach())[:, :, None] * rows_nD).to(x_PTD.dtype)
            position_n = torch.tensor([node.position for node in at], device=x_PTD.device)
            held_PTD = x_PTD.index_add(1, position_n, change_PnD, alpha=-1)
            return held_PTD + leaves[site]

        return hook

    logits_PTV = lm.run(case.clean_PT, {site: holding(site) for site in bank}, logits=True)
    assert logits_PTV is not None
    m_P = Task.difference(logits_PTV[:, -1].double(), case)
    return leaves, torch.cat([activations[site] for site in bank if site in activations], 1), m_P


def _total_gradients(
    lm: LanguageModel, bank: Bank, case: Case
) -> dict[str, tuple[Float[Tensor, "P T D"], Float[Tensor, "P T D"]]]:
    """x and ∂m/∂x at each site, on all paths."""
    seen: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def watching(site: str) -> Hook:
        def hook(x_PTD: Tensor) -> Tensor:
            seen[site] = x_PTD.detach()
            leaves[site] = torch.zeros_like(x_PTD, requires_grad=True)
            return x_PTD + leaves[site]

        return hook

    with torch.enable_grad():
        logits_PTV = lm.run(case.clean_PT, {site: watching(site) for site in bank}, logits=True)
        assert logits_PTV is not None
        m_P = Task.difference(logits_PTV[:, -1].double(), case)
        gradients = _gradient(m_P.sum(), leaves, keep=False)
    return {site: (seen[site], gradients[site]) for site in bank}


def _gradient(
    value: Float[Tensor, ""], leaves: Mapping[str, Tensor], keep: bool = True
) -> dict[str, Tensor]:
    """The gradient at each site; 0 where nothing leads from it to the value."""
    if not value.requires_grad:
        return {site: torch.zeros_like(leaf) for site, leaf in leaves.items()}
    gradients = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=keep, allow_unused=True
    )
    return {
        site: torch.zeros_like(leaf) if gradient is None else gradient
        for (site, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


@torch.no_grad()
def _along(
    bank: Bank, nodes: Sequence[Node], gradients: Mapping[str, Float[Tensor, "P T D"]]
) -> Float[Tensor, "P N"]:
    """The derivative along each node's decoder row at its position; float64."""
    columns = [
        gradients[node.site][:, node.position].double()
        @ bank[node.site].w_dec[node.latent].double()
        for node in nodes
    ]
    return torch.stack(columns, dim=1).cpu()


def _nodes_of(
    bank: Bank, nodes: Sequence[Node], x: Mapping[str, Float[Tensor, "P T D"]]
) -> Float[Tensor, "P N"]:
    """The nodes' activations at given activations of their sites."""
    columns: list[Tensor] = []
    for site, x_PTD in x.items():
        at = [node for node in nodes if node.site == site]
        positions = sorted({node.position for node in at})
        if not positions:
            continue
        f_PtM = bank[site].encode(x_PTD[:, positions])
        place = [positions.index(node.position) for node in at]
        columns.append(f_PtM[:, place, [node.latent for node in at]])
    return torch.cat(columns, dim=1)


@torch.no_grad()
def _codes(
    bank: Bank, site: str, x_PTD: Float[Tensor, "P T D"], latents_C: Int[Tensor, " C"]
) -> Float[Tensor, "P T C"]:
    """The candidates' activations, in bounded memory."""
    sae, rows_RD = bank[site], x_PTD.flatten(0, 1)
    parts = [
        sae.encode(part)[:, latents_C] for part in torch.split(rows_RD, rows_at_once(sae.width))
    ]
    return torch.cat(parts).view(*x_PTD.shape[:2], -1)


@torch.no_grad()
def _activations(
    lm: LanguageModel, bank: Bank, tokens_PT: Int[Tensor, "P T"]
) -> dict[str, Float[Tensor, "P T D"]]:
    seen: dict[str, Tensor] = {}

    def keeping(site: str) -> Hook:
        return lambda x_PTD: seen.update({site: x_PTD.clone()})

    lm.run(tokens_PT, {site: keeping(site) for site in bank})
    return {site: seen[site] for site in bank}


def _blocks(case: Case) -> Iterator[Case]:
    """The prompts, as many at once as a pass takes."""
    step = max(1, min(_GRAPH_TOKENS, limits.LM_TOKENS) // case.clean_PT.shape[1])
    for start in range(0, len(case), step):
        at = slice(start, start + step)
        yield Case(
            case.name,
            case.clean_PT[at],
            case.patch_PT[at],
            case.clean_answer_P[at],
            case.patch_answer_P[at],
        )
