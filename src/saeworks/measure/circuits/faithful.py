"""m of circuits: at one site, and at all sites of a bank at once.

Shapes: P pairs of prompts, T positions, R rows, D model width, V variants of a pass.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary.base import SparseCode
from saeworks.lm.model import Hook, LanguageModel
from saeworks.lm.prefix import shared_prefix
from saeworks.measure.circuits.ablation import ERROR, EVERY, Circuit, RankedNodes, rows_of
from saeworks.measure.circuits.passes import Passes, chunks
from saeworks.measure.circuits.prompts import CodedSite, Prompts
from saeworks.measure.progress import Tick

Differences = dict[Circuit, Float[Tensor, " P"]]
"""Circuit → m of every prompt, float64."""


def circuits_of(nodes: Sequence[int]) -> list[Circuit]:
    """Every circuit of a curve, and its complement, with and without the error as a node."""
    sizes = (0, *nodes, EVERY)
    return [
        ERROR,
        *(
            Circuit(n, error, rest)
            for error in (False, True)
            for rest in (False, True)
            for n in sizes
        ),
    ]


@torch.no_grad()
def at_one_site(
    passes: Passes, coded: CodedSite, ranked: RankedNodes, circuits: Sequence[Circuit], tick: Tick
) -> Differences:
    """m with circuits at one site; the others are the model's own."""
    alike = _alike([(circuit.at(ranked.error_place),) for circuit in circuits])
    firsts = [circuits[places[0]] for places in alike]
    m_PV = _empty(passes.prompts, len(firsts))
    length = coded.x.clean_PTD.shape[1]
    for block in passes.prompts.blocks():
        x_PTD = coded.x.clean_PTD[block]
        code = rows_of(coded.clean, block.start * length, block.stop * length)
        cell_R = passes.prompts.cell_PT[block].flatten()
        for number in passes.chunks(block, len(firsts)):
            rows_RD = x_PTD.flatten(0, 1)
            x_VPTD = torch.stack(
                [ranked.put(rows_RD, code, cell_R, firsts[n]).view_as(x_PTD) for n in number]
            )
            m_VP = passes.differences(block, x_VPTD)
            m_PV[block, number.start : number.stop] = m_VP.T.double()
            tick(m_VP.numel() * length)
    tick((len(circuits) - len(firsts)) * passes.prompts.pairs.clean_PT.numel())
    return _by_circuit(circuits, alike, m_PV)


@torch.no_grad()
def at_all_sites(
    lm: LanguageModel,
    prompts: Prompts,
    ranked: Mapping[str, RankedNodes],
    circuits: Sequence[Circuit],
    tick: Tick,
) -> Differences:
    """m with circuits at all sites in one pass: a site's SAE codes what the sites before leave."""
    alike = _alike(
        [tuple(circuit.at(r.error_place) for r in ranked.values()) for circuit in circuits]
    )
    firsts = [circuits[places[0]] for places in alike]
    m_PV, first_site = _empty(prompts, len(firsts)), next(iter(ranked))
    for block in prompts.blocks():
        known = {}
        for number in chunks(prompts, block, len(firsts)):
            if len(number) not in known:
                many = prompts.at(block).repeated(len(number))
                prefix = shared_prefix(lm, many.pairs.clean_PT, first_site)
                known[len(number)] = (many, prefix)
            many, prefix = known[len(number)]
            chosen = [firsts[n] for n in number]
            cell_R = prompts.cell_PT[block].flatten()
            hooks = {site: _putting(r, chosen, cell_R) for site, r in ranked.items()}
            with prefix():
                m_N = many.difference(lm, hooks)
            m_PV[block, number.start : number.stop] = m_N.view(len(number), -1).T.double()
            tick(many.pairs.clean_PT.numel())
    tick((len(circuits) - len(firsts)) * prompts.pairs.clean_PT.numel())
    return _by_circuit(circuits, alike, m_PV)


def _putting(ranked: RankedNodes, circuits: Sequence[Circuit], cell_R: Tensor) -> Hook:
    """A hook that puts one circuit after the other into equal runs of the batch."""

    def hook(x_NTD: Tensor) -> Tensor:
        rows_ND, rows = x_NTD.float().flatten(0, 1), len(cell_R)
        code: SparseCode = ranked.sae.encode_sparse(rows_ND)
        parts = [
            ranked.put(
                rows_ND[at * rows : (at + 1) * rows],
                rows_of(code, at * rows, (at + 1) * rows),
                cell_R,
                circuit,
            )
            for at, circuit in enumerate(circuits)
        ]
        return torch.cat(parts).view_as(x_NTD)

    return hook


def _alike(keys: Sequence[tuple[object, ...]]) -> list[list[int]]:
    """Places of equal keys, put together."""
    places: dict[tuple[object, ...], list[int]] = {}
    for at, key in enumerate(keys):
        places.setdefault(key, []).append(at)
    return list(places.values())


def _by_circuit(
    circuits: Sequence[Circuit], alike: Sequence[Sequence[int]], m_PV: Tensor
) -> Differences:
    of_circuit = {}
    for column, places in enumerate(alike):
        for place in places:
            of_circuit[circuits[place]] = m_PV[:, column]
    return of_circuit


def _empty(prompts: Prompts, variants: int) -> Tensor:
    device = prompts.last_P.device
    return torch.empty(prompts.shape[0], variants, dtype=torch.float64, device=device)
