"""What is fitted to codes: closed forms, and what it finds of planted faults."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from helpers.planted import D, M, Planted, audited, dense, sae_of, value
from saeworks.dictionary.base import SparseCode
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.codes import PRIORS, CodeFit, CodeMoments
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.pursuit import Pursuit

TOKENS = 6000


def measured(place: Place) -> Sequence[Measurement]:
    return [*base(place), Pursuit(place, 1000), Attribution(place)]


def fitted(planted: Planted, x_ND: Tensor, packed: bool = False) -> CodeFit:
    moments, sae = CodeMoments(len(x_ND)), sae_of(planted.atoms_MD)
    for start in range(0, len(x_ND), 1500):
        rows = slice(start, start + 1500)
        indices, values = planted.indices_NK[rows], planted.values_NK[rows]
        count, offsets = len(indices), None
        if packed:
            offsets = torch.arange(count + 1) * indices.shape[1]
            indices, values = indices.reshape(-1), values.reshape(-1)
        moments.add(x_ND[rows].double(), SparseCode(indices, values, M, (count,), offsets), sae)
    found = moments.solve()
    assert found is not None
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_they_solve_their_normal_equations(packed: bool) -> None:
    planted = Planted.draw(3000)
    x_ND = planted.x() + 0.3 * torch.randn(3000, D, generator=torch.Generator().manual_seed(1))
    x_ND = x_ND + 5.0
    found = fitted(planted, x_ND, packed)
    f_NM = dense(planted.indices_NK, planted.values_NK, M)
    weight_M = f_NM.square().sum(0) / (f_NM > 0).sum(0)
    f_NM, x_ND = f_NM - f_NM.mean(0), x_ND.double() - x_ND.double().mean(0)
    atoms_MD, s_MM, target_MD = planted.atoms_MD.double(), f_NM.T @ f_NM, f_NM.T @ x_ND
    expected_M = torch.linalg.solve(
        s_MM * (atoms_MD @ atoms_MD.T) + weight_M.diag(), (target_MD * atoms_MD).sum(1) + weight_M
    )
    torch.testing.assert_close(found.scale_M, expected_M, rtol=2e-3, atol=2e-4)
    for prior, decoder in zip(PRIORS, found.decoders, strict=True):
        ridge_MM = prior * weight_M.diag()
        expected_MD = torch.linalg.solve(s_MM + ridge_MM, target_MD + ridge_MM @ atoms_MD)
        torch.testing.assert_close(decoder.weight_MD.double(), expected_MD, rtol=0, atol=2e-3)


def test_a_latent_that_never_fires_stays_as_it_is() -> None:
    planted = Planted.draw(2000)
    other = planted.indices_NK.where(planted.indices_NK > 2, torch.tensor(3))
    planted = Planted(planted.atoms_MD, other, planted.values_NK)
    found = fitted(planted, 2 * planted.x())
    assert torch.equal(found.scale_M[:3], torch.ones(3, dtype=torch.float64))
    assert (found.scale_M[3:] - 2).abs().max() < 0.03
    assert torch.equal(found.decoders[0].weight_MD[:3], planted.atoms_MD[:3])


def test_without_codes_there_is_nothing() -> None:
    assert CodeMoments(100).solve() is None
    planted = Planted.draw(TOKENS)
    sae = sae_of(planted.atoms_MD)
    one = audited(planted.x(), planted.indices_NK, planted.values_NK, sae, base, codes=0)
    assert "r2_error_per_latent" not in one.values(0, 0)["shrinkage"]
    assert "artefact_scaled" in one.values(0, 0)["shrinkage"]


@pytest.mark.parametrize("active", [0, 1])
def test_no_more_tokens_are_kept_than_were_asked_for(active: int) -> None:
    """However few latents are active on them: what comes later changes nothing."""
    sae, rows = sae_of(Planted.draw(1).atoms_MD), 50
    kept = []
    for chunks in (2, 5):
        moments, random = CodeMoments(2 * rows), torch.Generator().manual_seed(0)
        for _ in range(chunks):
            x_ND = torch.randn(rows, D, generator=random).double()
            indices = torch.zeros(rows * active, dtype=torch.long)
            offsets = torch.arange(rows + 1) * active
            code = SparseCode(indices, torch.ones(len(indices)), M, (rows,), offsets)
            moments.add(x_ND, code, sae)
        found = moments.solve()
        assert found is not None
        kept.append(found.rescaled.bias_D)
    assert torch.equal(*kept)


def test_latents_that_shrink_differently() -> None:
    """One scale for all does not mend it, one for each does: the rung and the share say so."""
    planted = Planted.draw(TOKENS)
    factor_M = torch.linspace(0.2, 1.0, M)
    noise = 0.3 * torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))
    shrunk_NK = planted.values_NK * factor_M[planted.indices_NK]
    sae = sae_of(planted.atoms_MD)
    one = audited(planted.x() + noise, planted.indices_NK, shrunk_NK, sae, measured)
    only_noise = 0.09 * D / float((planted.x() + noise).var(0).sum())
    assert value(one, "shrinkage", "fvu_per_latent") == pytest.approx(only_noise, rel=0.05)
    assert value(one, "shrinkage", "fvu_scaled") > 1.2 * only_noise
    assert value(one, "shrinkage", "artefact_per_latent") > value(
        one, "shrinkage", "artefact_scaled"
    )
    gone = {r: value(one, "shrinkage", f"linear_gone_{r}") for r in ("scaled", "per_latent")}
    assert gone["per_latent"] > gone["scaled"] > 0.3
    lost = value(one, "attribution", "fvu") - only_noise
    assert value(one, "attribution", "scale") == pytest.approx(lost, rel=0.1)


def test_where_shrinkage_is_the_whole_error() -> None:
    """Next to nothing is left, linear or not; R² of that says nothing, the linear error does."""
    planted = Planted.draw(TOKENS)
    shrunk_NK = planted.values_NK * torch.linspace(0.2, 1.0, M)[planted.indices_NK]
    one = audited(planted.x(), planted.indices_NK, shrunk_NK, sae_of(planted.atoms_MD), base)
    assert value(one, "shrinkage", "linear_gone_per_latent") > 0.98
    assert value(one, "shrinkage", "linear_gone_scaled") < 0.9
    assert value(one, "shrinkage", "artefact_per_latent") < 0.5


def test_an_sae_that_does_not_shrink_has_no_artefact() -> None:
    planted = Planted.draw(TOKENS)
    noise = 0.3 * torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))
    sae = sae_of(planted.atoms_MD)
    one = audited(planted.x() + noise, planted.indices_NK, planted.values_NK, sae, measured)
    for rung in ("scaled", "per_latent"):
        assert abs(value(one, "shrinkage", f"artefact_{rung}")) < 0.03
        assert abs(value(one, "shrinkage", f"linear_gone_{rung}")) < 0.05
    fvu = value(one, "split", "fvu")
    assert value(one, "shrinkage", "r2_scalar") == pytest.approx(fvu, abs=0.02)


def test_attribution_adds_up_and_finds_single_faults() -> None:
    planted = Planted.draw(TOKENS)
    random = torch.Generator().manual_seed(2)
    factor_NK = 1 + 0.2 * torch.randn(planted.values_NK.shape, generator=random)
    moved_MD = planted.atoms_MD + 0.08 * torch.randn(M, D, generator=random)
    moved_MD = torch.nn.functional.normalize(moved_MD, dim=1)
    right = sae_of(planted.atoms_MD)
    x_ND = planted.x()
    cases = {
        "coefficients": (planted.values_NK * factor_NK, right),
        "directions": (planted.values_NK, sae_of(moved_MD)),
    }
    for name, (values_NK, sae) in cases.items():
        one = audited(x_ND, planted.indices_NK, values_NK, sae, measured)
        found = {key: value(one, "attribution", key) for key in one.values(0, 0)["attribution"]}
        parts = sum(found[key] for key in ("scale", "coefficients", "choice", "rest"))
        assert parts == pytest.approx(found["fvu"])
        assert found["rest_linear"] + found["rest_nonlinear"] == pytest.approx(found["rest"])
        assert found[name] > 0.85 * found["fvu"], name
    assert found["scale"] < 0.15 * found["fvu"]  # turned rows are best a little shorter


def test_the_chance_of_least_squares() -> None:
    """With noise alone, the refit mends K/D of it, and the expected chance says so."""
    planted = Planted.draw(TOKENS)
    noise = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))
    sae = sae_of(planted.atoms_MD)
    one = audited(planted.x() + noise, planted.indices_NK, planted.values_NK, sae, measured)
    mended = value(one, "attribution", "coefficients")
    assert mended == pytest.approx(value(one, "attribution", "coefficients_chance"), rel=0.05)
    fvu = value(one, "attribution", "fvu")
    assert mended == pytest.approx(fvu * 4 / D, rel=0.1)


def test_the_chance_of_choosing_anew() -> None:
    """With noise alone, matching pursuit finds latents for it, and the chance says how much; where
    the encoder chose wrongly, it finds far more than that."""
    planted = Planted.draw(TOKENS)
    random = torch.Generator().manual_seed(1)
    sae, noise = sae_of(planted.atoms_MD), 0.7 * torch.randn(TOKENS, D, generator=random)
    x_ND = planted.x() + noise
    right = audited(x_ND, planted.indices_NK, planted.values_NK, sae, measured)
    mended = value(right, "attribution", "choice")
    assert mended > 0.1 * value(right, "attribution", "fvu")
    assert mended == pytest.approx(value(right, "attribution", "choice_chance"), rel=0.1)
    other_NK = planted.indices_NK.clone()
    other_NK[:, 0] = (other_NK[:, 0] + 1 + torch.randint(0, M - 1, (TOKENS,), generator=random)) % M
    wrong = audited(planted.x() + noise / 5, other_NK, planted.values_NK, sae, measured)
    chance = value(wrong, "attribution", "choice_chance")
    assert value(wrong, "attribution", "choice") > 2 * chance > 0
