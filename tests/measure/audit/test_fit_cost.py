"""What fitting ℓ costs is in no R²: of few tokens, and of tokens of a document that are alike."""

import numpy as np
import pytest
import torch
from torch import Tensor

import saeworks as sw
from helpers.audit_arrays import Direct, documents, nonlinear, rows
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.measure.audit import folds
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.engine import SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Place
from saeworks.results.metric import Value

D, R2, AUDITS = 12, 0.53, 40


def normal(rng: np.random.Generator, count: int, length: int, common: float) -> np.ndarray:
    """Standard normal rows [count·length, D] of which those of a document share a part."""
    shared = np.repeat(rng.standard_normal((count, D)), length, axis=0)
    own = rng.standard_normal((count * length, D))
    return np.asarray(np.sqrt(common) * shared + np.sqrt(1 - common) * own)


@pytest.mark.parametrize(
    ("count", "length", "common", "cost"),
    [(200, 20, 0.0, 0.0065), (80, 6, 0.0, 0.054), (60, 4, 0.0, 0.108), (100, 16, 0.5, 0.016)],
)
def test_r2_holds_the_truth_whatever_the_fit_costs(
    count: int, length: int, common: float, cost: float
) -> None:
    rng, found = np.random.default_rng(count), []
    document = np.repeat(np.arange(count), length)
    for seed in range(AUDITS):
        x, u = (normal(rng, count, length, common) for _ in range(2))
        e = np.sqrt(R2) * x[:, ::-1] + np.sqrt(1 - R2) * u
        audit = sw.audit(x, x - e, document, resamples=200, seed=seed)
        found.append(audit["vector.r2_error"])
        assert audit.fvu_nonlinear == pytest.approx(
            (1 - audit.r2_error) * audit.fvu, rel=0.1
        )  # both without the cost
    assert audit["vector.fit_cost"].value == pytest.approx(cost, rel=0.05)
    values = [value.value for value in found if value.value is not None]
    error = 3 * np.std(values) / np.sqrt(AUDITS)
    assert np.mean(values) == pytest.approx(R2, abs=float(error))
    held = [v.low <= R2 <= v.high for v in found if v.low is not None and v.high is not None]
    assert len(held) == AUDITS
    assert np.mean(held) >= 0.88  # of a nominal 95%, 40 audits


def test_it_is_the_product_of_two_fits() -> None:
    x, document = rows(2000), documents(2000)
    x_hat = nonlinear(x)
    found, direct = sw.audit(x, x_hat, document, resamples=0), Direct.of(x, x_hat, document)
    test_x = direct.at("x", folds.TEST)
    e = test_x - direct.at("x_hat", folds.TEST)
    left = [
        e - direct.predict(fold_x, fold_x - direct.at("x_hat", fold), test_x)
        for fold in (folds.FIT, folds.SECOND)
        for fold_x in [direct.at("x", fold)]
    ]
    one, other = (
        e - (direct.at("x", fold) - direct.at("x_hat", fold)).mean(0)
        for fold in (folds.FIT, folds.SECOND)
    )
    r2 = 1 - (left[0] * left[1]).sum() / (one * other).sum()
    assert found.r2_error == pytest.approx(float(r2), rel=1e-9)
    assert found["shrinkage.r2_error_as_is"].value == pytest.approx(float(r2), rel=1e-9)


@pytest.mark.parametrize("length", [2, 20])
def test_r2_of_the_norm_is_without_the_cost_too(length: int) -> None:
    """‖e‖² = 3 + x₀ + noise: R² = 1/2, of 120·length tokens in 12 dimensions."""
    rng, found = np.random.default_rng(length), []
    for seed in range(AUDITS):
        x = rng.standard_normal((120 * length, D))
        square = np.maximum(5 + x[:, 0] + rng.standard_normal(len(x)), 0.0)
        direction = rng.standard_normal(x.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        e = np.sqrt(square)[:, None] * direction
        document = np.repeat(np.arange(120), length)
        audit = sw.audit(x, x - e, document, resamples=0, seed=seed)
        found.append([audit.r2_error_norm, audit["ladder.r2_norm_e"].value])
    error = 3.5 * np.std(found, axis=0) / np.sqrt(AUDITS)
    assert np.mean(found, axis=0) == pytest.approx([0.5, 0.5], abs=float(error.max()))


def audited(sae: SAE, x: Tensor, document: Tensor) -> dict[str, dict[str, Value]]:
    """With the codes known, so that each latent is rescaled."""
    tokens_R = torch.bincount(document)
    fold_R = torch.from_numpy(folds.assign(tokens_R.numpy(), 0))
    place = Place(x.shape[1], len(tokens_R), x.device, 0, codes=len(x))
    site = SiteAudit("x", place, ["sae"], base)

    def made(x_ND: Tensor) -> SaeOutput:
        code = sae.encode_sparse(x_ND.float())
        return SaeOutput(sae.decode(code), sae, code)

    with torch.no_grad():
        for phase, fold in enumerate((folds.FIT, folds.SECOND, folds.TEST)):
            at = fold_R[document] == fold
            site.add(phase, x[at], Tokens(document[at]), {"sae": made})
            site.finish(phase)
    return site.saes["sae"].values(200, 0)


def test_the_shrinkage_sentence_compares_like_with_like() -> None:
    """An SAE whose latents are rescaled by factors of nearly 1: R² of its error with each latent
    rescaled, which is fitted on half as many tokens, is not lower for that."""
    torch.manual_seed(0)
    d, lengths = 12, 6
    x = torch.randn(60 * lengths, d, dtype=torch.float64)
    document = documents(len(x), lengths)
    sae = build_sae("topk", d=d, width=3 * d, k=3)
    x = torch.randn(40 * 60 * lengths, d, dtype=torch.float64)
    many = audited(sae, x, documents(len(x), lengths))["shrinkage"]
    scale = many["alpha"].value
    assert scale is not None
    with torch.no_grad():  # so that it neither shrinks nor is too large
        sae.w_dec.mul_(scale)
    shares = []
    for seed in range(30):
        torch.manual_seed(seed)
        few = torch.randn(60 * lengths, d, dtype=torch.float64)
        found = audited(sae, few, document)["shrinkage"]
        as_is, rescaled = (found[f"r2_error_{rung}"].value for rung in ("as_is", "per_latent"))
        assert as_is is not None and rescaled is not None
        share = found["artefact_per_latent"].value
        assert share == pytest.approx(1 - rescaled / as_is)
        shares.append(as_is - rescaled)
    assert np.mean(shares) == pytest.approx(0.0, abs=0.03)
