import numpy as np
import pytest
import torch

from helpers.circuits import (
    SITES,
    LinearPasses,
    toy_activations,
    toy_coded,
    toy_prompts,
)
from helpers.tiny_saes import TINY
from saeworks.lm.last_logits import last_logits
from saeworks.measure.circuits.ablation import (
    ERROR,
    EVERY,
    NOTHING,
    SPLICED,
    WHOLE,
    Circuit,
    Kept,
    Means,
    RankedNodes,
)
from saeworks.measure.circuits.attribution import effects, mean_gradient, points
from saeworks.measure.circuits.curves import Curves, area, first_reaching
from saeworks.measure.circuits.faithful import at_all_sites, at_one_site, circuits_of
from saeworks.measure.circuits.passes import Passes
from saeworks.measure.circuits.prompts import CodedSite
from saeworks.measure.controls import zero_sae

NODES = (1, 4, 16)
SITE = "layers.1"


def quiet(done: int) -> None:
    pass


def ranked_of(coded, prompts, passes):
    gradient_PTD = mean_gradient(passes, coded.x, points("plain", 1), quiet)
    nodes = effects(coded, prompts, gradient_PTD)
    return nodes, RankedNodes(Means(coded, prompts), nodes.ranked_n, nodes.error_place)


def test_the_nodes_of_a_circuit() -> None:
    assert Circuit(4, error=False).at(2) == Kept(0, 4, False)
    assert Circuit(4, error=False, rest=True).at(2) == Kept(4, EVERY, False)
    assert Circuit(4, error=True).at(2) == Kept(0, 3, True)  # two latents, the error, one latent
    assert Circuit(4, error=True, rest=True).at(2) == Kept(3, EVERY, False)
    assert Circuit(4, error=True).at(4) == Kept(0, 4, False)
    assert Circuit(4, error=True, rest=True).at(4) == Kept(4, EVERY, True)
    assert WHOLE.at(7) == Circuit(0, error=True, rest=True).at(7) == Kept(0, EVERY, True)
    assert NOTHING.at(7) == Circuit(EVERY, error=True, rest=True).at(7) == Kept(0, 0, False)
    assert SPLICED.at(7) == Circuit(0, error=False, rest=True).at(7) == Kept(0, EVERY, False)
    assert ERROR.at(7) == Circuit(1, error=True).at(0) == Kept(0, 0, True)


@pytest.mark.parametrize("arch", TINY)
def test_all_nodes_are_the_activation_and_none_are_its_mean(arch: str) -> None:
    """To the bit, whatever the SAE; in between, by hand."""
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    coded = toy_coded(arch, x)
    passes = Passes(lm, prompts, SITE, prompts.difference(lm, {}))
    nodes, ranked = ranked_of(coded, prompts, passes)
    x_RD, cell_R = x.clean_PTD.flatten(0, 1), prompts.cell_PT.flatten()

    def put(circuit: Circuit) -> torch.Tensor:
        return ranked.put(x_RD, coded.clean, cell_R, circuit)

    assert torch.equal(put(WHOLE), x_RD)
    assert torch.equal(put(NOTHING), x.mean_GD[cell_R])
    f_RM, patch_RM = coded.clean.dense(), coded.patch.dense()
    same_RR = (cell_R[:, None] == cell_R).float()
    mean_RM = same_RR @ (f_RM + patch_RM) / (2 * same_RR.sum(1, keepdim=True))
    mean_RD = same_RR @ (x_RD + x.patch_PTD.flatten(0, 1)) / (2 * same_RR.sum(1, keepdim=True))
    error_RD = x_RD - coded.sae.decode(f_RM)
    mean_error_RD = mean_RD - coded.sae.decode(mean_RM)
    place = nodes.error_place
    for n in (1, 3, 10):
        for error in (False, True):
            keeps_error = error and place < n
            kept_M = torch.zeros(coded.sae.width, dtype=torch.bool)
            kept_M[nodes.ranked_n[: n - keeps_error]] = True
            by_hand_RD = coded.sae.decode(torch.where(kept_M, f_RM, mean_RM))
            by_hand_RD += error_RD if keeps_error else mean_error_RD
            assert torch.allclose(put(Circuit(n, error)), by_hand_RD, atol=1e-4)
            rest_RD = coded.sae.decode(torch.where(kept_M, mean_RM, f_RM))
            rest_RD += error_RD if error and not keeps_error else mean_error_RD
            assert torch.allclose(put(Circuit(n, error, rest=True)), rest_RD, atol=1e-4)


@pytest.mark.parametrize("arch", ["topk", "jumprelu", "switch"])
def test_faithfulness_is_1_with_all_nodes_and_0_with_none(arch: str) -> None:
    lm, prompts = toy_prompts()
    every_x = toy_activations(lm, prompts)
    clean_P = prompts.difference(lm, {})
    ranked = {}
    for site in SITES:
        coded, passes = toy_coded(arch, every_x[site]), Passes(lm, prompts, site, clean_P)
        _, ranked[site] = ranked_of(coded, prompts, passes)
        m = at_one_site(passes, coded, ranked[site], circuits_of(NODES), quiet)
        check_ends(m, clean_P)
    check_ends(at_all_sites(lm, prompts, ranked, circuits_of(NODES), quiet), clean_P)


def check_ends(m, clean_P) -> None:
    assert torch.allclose(m[WHOLE], clean_P.double(), atol=1e-5)
    assert torch.equal(m[WHOLE], m[Circuit(0, error=True, rest=True)])
    assert torch.equal(m[NOTHING], m[Circuit(EVERY, error=True, rest=True)])
    below = float((clean_P.double() - m[NOTHING]).mean())
    assert abs(below) > 0.01
    assert float((m[WHOLE] - m[NOTHING]).mean()) / below == pytest.approx(1.0, abs=1e-4)


def test_all_sites_at_once_by_hand() -> None:
    """Each SAE codes what the circuit at the site before it has left."""
    lm, prompts = toy_prompts()
    every_x = toy_activations(lm, prompts)
    clean_P = prompts.difference(lm, {})
    coded = {site: toy_coded("topk", x) for site, x in every_x.items()}
    ranked = {
        site: ranked_of(coded[site], prompts, Passes(lm, prompts, site, clean_P))[1]
        for site in SITES
    }
    circuit, cell_R = Circuit(4, error=False), prompts.cell_PT.flatten()

    def hook(site):
        def put(x_PTD):
            x_RD = x_PTD.flatten(0, 1)
            code = coded[site].sae.encode_sparse(x_RD)
            return ranked[site].put(x_RD, code, cell_R, circuit).view_as(x_PTD)

        return put

    by_hand_P = prompts.difference(lm, {site: hook(site) for site in SITES})
    m = at_all_sites(lm, prompts, ranked, circuits_of(NODES), quiet)
    assert torch.allclose(m[circuit].float(), by_hand_P, atol=1e-5)
    alone = {SITE: ranked[SITE]}
    at_once = at_all_sites(lm, prompts, alone, circuits_of(NODES), quiet)
    passes = Passes(lm, prompts, SITE, clean_P)
    one = at_one_site(passes, coded[SITE], ranked[SITE], circuits_of(NODES), quiet)
    for each in circuits_of(NODES):
        assert torch.allclose(at_once[each], one[each], atol=1e-5)


def test_the_zero_sae_is_its_error() -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    passes = Passes(lm, prompts, SITE, prompts.difference(lm, {}))
    coded = CodedSite.of(zero_sae(x.read(prompts).mean(0)), x)
    _, ranked = ranked_of(coded, prompts, passes)
    m = at_one_site(passes, coded, ranked, circuits_of(NODES), quiet)
    for n in NODES:
        assert torch.equal(m[Circuit(n, error=False)], m[NOTHING])
        assert torch.equal(m[Circuit(n, error=True)], m[WHOLE])


def test_a_linear_model_in_closed_form() -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    w_TD = torch.randn(x.clean_PTD.shape[1:], generator=torch.Generator().manual_seed(3))
    w_TD[5:] = 0
    passes = LinearPasses(prompts, w_TD, x.clean_PTD)
    coded = toy_coded("topk", x)
    _nodes, ranked = ranked_of(coded, prompts, passes)
    m = at_one_site(passes, coded, ranked, circuits_of(NODES), quiet)
    x_RD, cell_R = x.clean_PTD.flatten(0, 1), prompts.cell_PT.flatten()
    for circuit, m_P in m.items():
        put_RD = ranked.put(x_RD, coded.clean, cell_R, circuit)
        assert torch.allclose(
            m_P.float(), passes.m(put_RD.view(1, *x.clean_PTD.shape))[0], atol=1e-4
        )
    # what a circuit and its complement keep adds up to what all latents keep
    for n in NODES:
        both = m[Circuit(n, False)] + m[Circuit(n, False, rest=True)]
        assert torch.allclose(both, m[SPLICED] + m[NOTHING], atol=1e-4)
        both = m[Circuit(n, True)] + m[Circuit(n, True, rest=True)]
        assert torch.allclose(both, m[WHOLE] + m[NOTHING], atol=1e-4)


def test_prompts_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, prompts = toy_prompts()
    x = toy_activations(lm, prompts)[SITE]
    clean_P = prompts.difference(lm, {})
    coded = toy_coded("jumprelu", x)

    def measured():
        passes = Passes(lm, prompts, SITE, clean_P)
        _nodes, ranked = ranked_of(coded, prompts, passes)
        circuits = circuits_of(NODES)
        one = at_one_site(passes, coded, ranked, circuits, quiet)
        every = at_all_sites(lm, prompts, {SITE: ranked}, circuits, quiet)
        return torch.stack([*one.values(), *every.values()])

    whole = measured()
    monkeypatch.setattr("saeworks.measure.banks.LM_TOKENS", 40)
    assert torch.allclose(measured(), whole, atol=1e-4)


def test_last_logits_are_those_of_the_whole() -> None:
    lm, prompts = toy_prompts()
    tokens_PT, last_P = prompts.pairs.clean_PT, prompts.last_P
    whole_PTV = lm.run(tokens_PT, logits=True)
    assert whole_PTV is not None
    assert torch.allclose(
        last_logits(lm, tokens_PT, last_P, {}),
        whole_PTV[torch.arange(len(last_P)), last_P],
        atol=1e-6,
    )
    again_PTV = lm.run(tokens_PT, logits=True)  # no hook stays
    assert again_PTV is not None
    assert torch.equal(again_PTV, whole_PTV)


def test_areas_and_levels_in_closed_form() -> None:
    nodes = (1, 4, 16)
    curve = np.array([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [0.0, 0.1, 0.2], [0.9, 0.2, 0.9]])
    assert np.allclose(area(curve, nodes), [0.5, 1.0, 0.1, 0.55])
    found = first_reaching(curve, nodes, 0.75)
    assert np.allclose(found[:2], [8.0, 1.0])
    assert np.isnan(found[2])
    assert found[3] == 1.0
    missing = first_reaching(np.full((1, 3), np.nan), nodes, 0.75)
    assert np.isnan(missing).all()


def toy_curves(clean: float, ablated: float, noise: float = 0.01) -> Curves:
    generator = torch.Generator().manual_seed(0)
    noise_P = noise * torch.randn(40, generator=generator, dtype=torch.float64)
    m = dict.fromkeys(circuits_of(NODES), ablated + noise_P)
    for circuit in (WHOLE, Circuit(4, False), Circuit(16, False), SPLICED):
        m[circuit] = 0.5 * (clean + ablated) + noise_P
    return Curves(m, clean + noise_P.float(), NODES, 100, 0)


def test_a_difference_near_zero_is_not_divided_by() -> None:
    curves = toy_curves(clean=2.0, ablated=1.0)
    assert not curves.near_zero
    assert np.allclose(curves.curve(error=False)[0], [0, 0.5, 0.5], atol=1e-6)
    assert curves.kept(SPLICED)[0] == pytest.approx(0.5, abs=1e-6)
    assert curves.curve(error=False, whole=SPLICED)[0, 1] == pytest.approx(1.0)
    small = toy_curves(clean=2.0, ablated=1.95)
    assert small.near_zero
    assert np.isnan(small.kept(SPLICED)).all()
    assert small.interval(small.area(error=False)).value is None
    assert toy_curves(clean=2.0, ablated=2.5).near_zero
