"""The activations and codes of labelled tokens, site by site, and what is measured of them.

Shapes: N tokens, D model width, M latents, P experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from saeworks.dictionary.base import SAE
from saeworks.dictionary.cosines import unit
from saeworks.dictionary.experts import experts_of
from saeworks.measure.banks import Bank, firing, row_chunks, widest
from saeworks.measure.concepts.absorbing import Carried, carried
from saeworks.measure.concepts.by_expert import InExperts, in_experts
from saeworks.measure.concepts.choosing import Units
from saeworks.measure.concepts.config import ConceptsConfig
from saeworks.measure.concepts.measuring import (
    Asked,
    Dense,
    MeasuredConcept,
    measure_dense,
    measure_units,
)
from saeworks.measure.concepts.sites import neuron_site, positive, principal_units
from saeworks.measure.controls import random_directions
from saeworks.measure.engine import Chunk, Reading, Subject
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick, Tracker
from saeworks.measure.studies.overlap import visitors

_MEMORY = 2**31
"""Bytes of activations and codes that are in memory at once; more sites are read in more sweeps."""
_PAIR, _ACTIVE = 8, 128
"""Bytes of an active latent on a token, and how many of these a token is reckoned with."""


@dataclass(frozen=True)
class AtSite:
    """A site's baselines, on the same tokens as its SAEs.

    Attributes:
        dense: logistic probes on the whole activation.
        neurons: None where the layer has no MLP neurons, or baselines are not asked for.
        directions: of PCA; None likewise.
        random: (width, active latents) → an SAE with random directions.
    """

    dense: Dense
    neurons: list[MeasuredConcept] | None
    directions: list[MeasuredConcept] | None
    random: dict[tuple[int, int], list[MeasuredConcept]]


@dataclass(frozen=True)
class OfSae:
    """What is measured of one SAE.

    Attributes:
        measured: every concept against its latents.
        carried: what carries each concept.
        control: the key of its random control in `AtSite.random`.
        experts: every concept in its experts; None where it has none.
    """

    measured: list[MeasuredConcept]
    carried: list[Carried]
    control: tuple[int, int]
    experts: list[InExperts] | None


@dataclass
class CodeWatch:
    """The code of one SAE, and which experts encode each token."""

    sae: SAE
    codes: list[csr_matrix] = field(default_factory=list)
    visits: list[csr_matrix] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        rows = len(chunk.x_ND)
        self.codes.append(_matrix(*firing(chunk.code(self.sae)), (rows, self.sae.width)))
        if (experts := experts_of(self.sae)) is not None:
            routing = experts.route(chunk.x_ND)
            expert = routing.expert.flatten()
            ones = torch.ones_like(expert)
            shape = (rows, experts.experts)
            self.visits.append(_matrix(visitors(routing, rows), expert, ones, shape))


def _matrix(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> csr_matrix:
    of = (value.float().cpu().numpy(), (row.cpu().numpy(), column.cpu().numpy().astype(np.int32)))
    return csr_matrix(of, shape=shape)


@final
class SiteRows(Reading):
    """Activations and codes of some sites, and, once all are there, what is measured of them.

    Attributes:
        at_sites: site → its baselines.
        of_saes: (bank, site) → what is measured of the SAE.
    """

    title = "known concepts"

    def __init__(
        self,
        subject: Subject,
        sites: Sequence[str],
        held_out: HeldOut,
        asked: Asked,
        config: ConceptsConfig,
        after: Sequence[Reading] = (),
    ) -> None:
        self.held_out, self.asked, self.config, self.needs = held_out, asked, config, after
        self.banks: dict[str, Bank] = {
            name: {site: sae for site, sae in bank.items() if site in sites}
            for name, bank in subject.banks.items()
        }
        self.width = widest(self.banks)
        self.measured_sites = list(sites)
        self.neurons_of = {
            site: where
            for site in sites
            if config.baselines and (where := neuron_site(subject.lm, site)) is not None
        }
        self.sites = {*sites, *self.neurons_of.values()}
        self.at_sites: dict[str, AtSite] = {}
        self.of_saes: dict[tuple[str, str], OfSae] = {}

    def begin(self) -> None:
        self._x: dict[str, list[Tensor]] = {site: [] for site in self.measured_sites}
        self._neurons: dict[str, list[csr_matrix]] = {s: [] for s in self.neurons_of.values()}
        self._watches = {
            (name, site): CodeWatch(sae)
            for name, bank in self.banks.items()
            for site, sae in bank.items()
        }

    def rows(self, site: str, chunk: Chunk) -> None:
        if site in self._neurons:
            self._neurons[site].append(positive(chunk.x_ND.cpu().numpy()))
        if site in self._x:
            self._x[site].append(chunk.x_ND.cpu())
        for (_, at), watch in self._watches.items():
            if at == site:
                watch.add(chunk)

    def finish(self, progress: Tracker) -> None:
        neurons = {
            site: Units(vstack(blocks, format="csr")) for site, blocks in self._neurons.items()
        }
        with progress(f"{self.title}, probes", len(self._watches), "SAEs") as tick:
            for site in self.measured_sites:
                x_ND = torch.cat(self._x.pop(site)).numpy()
                self._measure(site, x_ND, neurons.get(self.neurons_of.get(site, "")), tick)

    def _measure(self, site: str, x_ND: np.ndarray, neurons: Units | None, tick: Tick) -> None:
        asked, ks = self.asked, self.config.k
        watches = [(name, w) for (name, at), w in self._watches.items() if at == site]
        at_site = AtSite(
            measure_dense(x_ND, asked, self.config.seed),
            None if neurons is None else measure_units(neurons, asked, ks, split=False),
            self._directions(x_ND, max(w.sae.width for _, w in watches)),
            {},
        )
        self.at_sites[site] = at_site
        for name, watch in watches:
            units = Units(vstack(watch.codes, format="csr"))
            control = (watch.sae.width, max(1, round(units.a_NM.nnz / len(x_ND))))
            if self.config.baselines and control not in at_site.random:
                of = self._random(x_ND, *control, watch.sae)
                at_site.random[control] = measure_units(of, asked, ks, split=False)
            measured = measure_units(units, asked, ks)
            w_dec_MD = watch.sae.w_dec.detach().float().cpu().numpy()
            carries = carried(units, w_dec_MD, asked, at_site.dense, measured)
            experts = None
            if watch.visits:
                visits_NP = vstack(watch.visits, format="csr")
                rows_MD = unit(watch.sae.w_dec.detach()).float().cpu().numpy()
                experts = in_experts(units, visits_NP, rows_MD, asked)
            self.of_saes[name, site] = OfSae(measured, carries, control, experts)
            del self._watches[name, site]
            tick(1)

    def _directions(self, x_ND: np.ndarray, most: int) -> list[MeasuredConcept] | None:
        if not self.config.baselines:
            return None
        fit_N = np.unique(np.concatenate([p.fit.token_N for p in self.asked.populations]))
        units = principal_units(x_ND, fit_N, most)
        return measure_units(units, self.asked, self.config.k, split=False)

    def _random(self, x_ND: np.ndarray, width: int, k: int, like: SAE) -> Units:
        """The code of an SAE with random directions, as wide and as sparse."""
        x = torch.from_numpy(x_ND)
        mean_D = x.mean(0, dtype=torch.float64).to(like.dtype)
        sae = random_directions(mean_D, width, k, self.config.seed)
        codes = [
            _matrix(*firing(sae.encode_sparse(x[part])), (len(x[part]), width))
            for part in row_chunks(len(x), width)
        ]
        return Units(vstack(codes, format="csr"))


def readings(
    subject: Subject, held_out: HeldOut, asked: Asked, config: ConceptsConfig
) -> list[SiteRows]:
    """One reading for each sweep, of as many sites as memory holds."""
    made: list[SiteRows] = []
    now: list[str] = []
    size = 0
    for site in subject.sites:
        needed = held_out.kept * _bytes(subject.banks, subject, site)
        if now and size + needed > _MEMORY:
            made.append(SiteRows(subject, now, held_out, asked, config, made[-1:]))
            now, size = [], 0
        now.append(site)
        size += needed
    return [*made, SiteRows(subject, now, held_out, asked, config, made[-1:])]


def _bytes(banks: Mapping[str, Bank], subject: Subject, site: str) -> int:
    """Of a token."""
    d = subject.lm.width(site)
    return (
        4 * d + 4 * d * _PAIR // 2 + _PAIR * _ACTIVE * sum(site in bank for bank in banks.values())
    )
