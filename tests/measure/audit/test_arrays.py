"""Streaming equals direct least squares; the identities of the decomposition; bad input."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import saeworks as sw
from helpers.audit_arrays import Direct, documents, nonlinear, rows
from saeworks.config import AuditConfig
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.measure.audit import arrays, engine, folds
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Place
from saeworks.measure.audit.run import measurements


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_floating_type_is_audited_in_float64(dtype: torch.dtype) -> None:
    x, document = rows()[:2000].to(dtype), documents(2000)
    x_hat = nonlinear(x.double()).to(dtype)
    found = sw.audit(x, x_hat, document, resamples=5)
    assert found.sections == sw.audit(x.double(), x_hat, document, resamples=5).sections


def test_streaming_equals_direct_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "double_rows_at_once", lambda d: 97)
    x, document = rows(), documents(8000)
    x_hat = nonlinear(x)
    found = sw.audit(x, x_hat, document, resamples=50)
    direct = Direct.of(x, x_hat, document)
    fit_x, fit_x_hat = direct.at("x", folds.FIT), direct.at("x_hat", folds.FIT)
    test_x, test_x_hat = direct.at("x", folds.TEST), direct.at("x_hat", folds.TEST)
    fit_e, e = fit_x - fit_x_hat, test_x - test_x_hat
    second_x = direct.at("x", folds.SECOND)
    second_e = second_x - direct.at("x_hat", folds.SECOND)
    u, again = (
        e - direct.predict(*fitted, test_x) for fitted in ((fit_x, fit_e), (second_x, second_e))
    )
    product, variance = u * again, np.square(test_x - fit_x.mean(0)).sum()
    centred = (e - fit_e.mean(0)) * (e - second_e.mean(0))
    expected = {
        "split.fvu": np.square(e).sum() / variance,
        "split.fvu_nonlinear": product.sum() / variance,
        "vector.r2_error": 1 - product.sum() / centred.sum(),
        "vector.r2_error_per_dimension": np.mean(1 - product.sum(0) / centred.sum(0)),
    }
    fit_norm, second_norm, norm = (np.square(v).sum(1) for v in (fit_e, second_e, e))
    residual = (norm - direct.predict(fit_x, fit_norm, test_x)) * (
        norm - direct.predict(second_x, second_norm, test_x)
    )
    total = (norm - fit_norm.mean()) * (norm - second_norm.mean())
    expected["norm.r2_error_norm"] = 1 - residual.sum() / total.sum()
    centred_x, centred_x_hat = fit_x - fit_x.mean(0), fit_x_hat - fit_x_hat.mean(0)
    expected["shrinkage.alpha"] = (centred_x * centred_x_hat).sum() / np.square(centred_x_hat).sum()
    recalibrated = direct.predict(fit_x_hat, fit_x, fit_x_hat)
    left, test_left = fit_x - recalibrated, test_x - direct.predict(fit_x_hat, fit_x, test_x_hat)
    second_left = second_x - direct.predict(fit_x_hat, fit_x, second_x - second_e)
    residual = (test_left - direct.predict(fit_x, left, test_x)) * (
        test_left - direct.predict(second_x, second_left, test_x)
    )
    total = test_left * (test_left - second_left.mean(0))
    expected["shrinkage.r2_error_affine"] = 1 - residual.sum() / total.sum()
    for name, value in expected.items():
        assert found[name].value == pytest.approx(float(value), rel=1e-8, abs=1e-10), name
    second_u = second_e - direct.predict(fit_x, fit_e, second_x)
    target, at = np.square(second_u).sum(1), np.square(u).sum(1)
    residual = at - direct.predict(second_x, target, test_x)
    kept = 1 - (x.shape[1] + 1) / len(second_x)
    value = 1 - kept * np.square(residual).sum() / np.square(at - target.mean()).sum()
    assert found["ladder.r2_norm_u"].value == pytest.approx(float(value), rel=1e-8)
    for value_ in (found["split.fvu"], found["vector.r2_error_per_dimension"]):
        assert value_.value is not None and value_.low is not None and value_.high is not None
        assert value_.low < value_.value < value_.high


def test_u_is_the_nonlinear_part_of_the_map() -> None:
    """u = −(x̂ − OLS[x̂|x]), so FVU_nl follows from x̂'s own regression on x."""
    x, document = rows(), documents(8000)
    x_hat = nonlinear(x)
    direct = Direct.of(x, x_hat, document)
    fit_x, test_x = direct.at("x", folds.FIT), direct.at("x", folds.TEST)
    one, two = (
        direct.at("x_hat", folds.TEST)
        - direct.predict(direct.at("x", fold), direct.at("x_hat", fold), test_x)
        for fold in (folds.FIT, folds.SECOND)
    )
    variance = np.square(test_x - fit_x.mean(0)).sum()
    found = sw.audit(x, x_hat, document, resamples=0)
    assert found.fvu_nonlinear == pytest.approx((one * two).sum() / variance, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_shrinking_lowers_the_nonlinear_part_by_its_square(alpha: float) -> None:
    x, document = rows(), documents(8000)
    x_hat = nonlinear(x)
    plain = sw.audit(x, x_hat, document, resamples=0)
    shrunk = sw.audit(x, alpha * x_hat, document, resamples=0)
    assert shrunk.fvu_nonlinear == pytest.approx(alpha**2 * plain.fvu_nonlinear, rel=1e-9)
    assert shrunk.alpha == pytest.approx(plain.alpha / alpha, rel=1e-9)
    for rung in ("scaled", "affine"):  # the ladder undoes it
        for metric in ("fvu", "fvu_nonlinear", "r2_error", "r2_error_norm"):
            name = f"shrinkage.{metric}_{rung}"
            assert shrunk[name].value == pytest.approx(plain[name].value, rel=1e-7), name


def dead(x: Tensor) -> Tensor:
    return x.mean(0).expand_as(x) + 0.5


def pca(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    top = torch.linalg.svd(centred, full_matrices=False).Vh[:6]
    return centred @ top.T @ top + x.mean(0)


def linear(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return x @ torch.randn(12, 12, generator=generator, dtype=torch.float64) / 4 + 1.0


@pytest.mark.parametrize("sae", [dead, pca, linear, torch.clone], ids=lambda f: f.__name__)
def test_affine_saes_have_no_nonlinear_error(sae: object) -> None:
    x = rows()
    assert callable(sae)
    found = sw.audit(x, sae(x), documents(8000), resamples=20)
    assert found.fvu_nonlinear < 1e-20
    assert found.degenerate
    assert found.reason is not None and "trivially linear" in found.reason
    if sae is torch.clone:  # e ≡ 0: no R²
        assert np.isnan(found.r2_error)
    else:
        assert found.r2_error == pytest.approx(1.0, abs=1e-12)
    assert np.isnan(found.alpha) == (sae is dead)


def test_a_strongly_shrunk_sae_is_flagged_and_a_working_one_is_not() -> None:
    x = rows()
    good = sw.audit(x, nonlinear(x, gain=1.0), documents(8000), resamples=0)
    assert not good.degenerate and good.reason is None
    shrunk = sw.audit(x, 0.05 * nonlinear(x, gain=1.0), documents(8000), resamples=0)
    assert shrunk.degenerate and shrunk.r2_error > 0.99 > good.r2_error
    assert shrunk.alpha > 10


def test_rank_deficient_activations_are_handled() -> None:
    x = rows()
    wide = torch.cat([x, x @ torch.ones(12, 3, dtype=torch.float64), torch.full((8000, 1), 7.0)], 1)
    x_hat = torch.cat([nonlinear(x), wide[:, 12:]], dim=1)
    document = documents(8000)
    found, plain = sw.audit(wide, x_hat, document), sw.audit(x, nonlinear(x), document)
    assert found["vector.rank"].value == 12
    assert plain["vector.rank"].value == 12
    condition = found["vector.condition"].value
    assert condition is not None and 1 < condition < 1e6
    assert found.r2_error == pytest.approx(plain.r2_error, rel=1e-8)


def test_nothing_is_found_where_there_is_nothing() -> None:
    x = rows()
    found = sw.audit(x, nonlinear(x), documents(8000))
    cost = found["vector.fit_cost"].value
    assert cost == pytest.approx(13 / found.folds["fit"])
    for name in ("null.r2_shuffled", "null.r2_noise"):
        value = found[name].value
        assert value is not None and abs(value) < 0.01 < 0.1 < found.r2_error


LAWS = {
    "constant": (lambda c, g: torch.ones_like(c), 1.0),
    "uniform": (lambda c, g: c.uniform_(0, 1, generator=g), 0.94),
    "half_normal": (lambda c, g: c.normal_(generator=g).abs(), 0.85),
    "exponential": (lambda c, g: c.exponential_(generator=g), 0.75),
    "lognormal": (lambda c, g: (0.5 * c.normal_(generator=g)).exp(), 0.78),
}


@pytest.mark.parametrize("law", LAWS)
def test_norm_probe_of_sparse_features(law: str) -> None:
    """R² ≈ Cov(w, w²)²/(Var w · Var w²) for orthogonal features, firing probability .01."""
    draw, expected = LAWS[law]
    generator = torch.Generator().manual_seed(2)
    on = torch.rand(200_000, 24, generator=generator) < 0.01
    w_NF = draw(torch.empty(200_000, 24), generator) * on
    x = w_NF.double()
    found = sw.audit(x, torch.zeros_like(x), documents(200_000, 200), resamples=0)
    assert found.r2_error_norm == pytest.approx(expected, abs=0.03)


def test_float32_and_numpy_are_taken() -> None:
    x = rows()
    double = sw.audit(x, nonlinear(x), documents(8000), resamples=0)
    single = sw.audit(
        x.float().numpy(), nonlinear(x).float().numpy(), documents(8000).numpy(), resamples=0
    )
    assert single.fvu_nonlinear == pytest.approx(double.fvu_nonlinear, rel=1e-4)


def test_documents_are_never_divided() -> None:
    tokens_R = np.array([5, 0, 300, 20, 40, 1, 90, 44])
    fold_R = folds.assign(tokens_R, seed=3)
    assert fold_R[1] == -1
    assert set(fold_R[tokens_R > 0]) == {folds.FIT, folds.SECOND, folds.TEST}
    even = folds.assign(np.full(400, 10), seed=0)
    assert [int((even == fold).sum()) for fold in range(3)] == [200, 100, 100]
    for count in (2, 3, 4, 5):
        few = folds.assign(np.full(count, 7), seed=1)
        assert {folds.FIT, folds.TEST} <= set(few)
        assert (folds.SECOND in few) == (count > 2)


def test_accumulators_do_not_grow_with_tokens() -> None:
    """What an audit holds between chunks is of the same size after 10 times the tokens."""

    def held(tokens: int) -> int:
        place = Place(12, 40, torch.device("cpu"), 0)
        site = engine.SiteAudit("x", place, ["x_hat"], arrays.base)
        sizes = []
        for phase in range(3):
            for part in rows(tokens).split(500):
                made = engine.SaeOutput(nonlinear(part))
                at = Tokens(torch.arange(len(part)) % 40)
                site.add(phase, part, at, {"x_hat": partial(lambda made, _: made, made)})
            sizes.append(sum(size_of(site, set())))
            site.finish(phase)
        return max(sizes)

    assert held(20_000) == held(2_000)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that was made."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.known = {one.untyped_storage().data_ptr() for one in known}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, list | tuple) else [made]:
            if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return made


def test_no_copy_of_the_arrays_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of one byte a number: what grows with tokens is one integer for each."""
    monkeypatch.setattr(arrays, "double_rows_at_once", lambda d: 97)
    x, document = rows().float(), documents(8000)
    x_hat = nonlinear(x.double()).float()
    with Largest([x, x_hat, document]) as largest:
        sw.audit(x, x_hat, document, resamples=0)
    assert 0 < largest.bytes <= document.nbytes < x.numel()


def size_of(thing: object, seen: set[int]) -> list[int]:
    """Bytes of every tensor and array that is reachable."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor | np.ndarray):
        return [thing.nbytes]
    if isinstance(thing, dict):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple):
        inside = list(thing)
    else:
        inside = list(getattr(thing, "__dict__", {}).values())
    return [size for item in inside for size in size_of(item, seen)]


def test_an_sae_holds_few_matrices() -> None:
    """In units of D² doubles, after a chunk of each phase, with all that the command measures."""
    d, documents_, config = 96, 40, AuditConfig(pursuit=400, mlp=0, codes=400, zeroing=400)
    sae = build_sae("topk", d, width=8, k=2)
    place = Place(d, documents_, torch.device("cpu"), 0, config.codes)
    before = engine.SiteAudit("before", place, ["sae"], arrays.base)
    site = engine.SiteAudit("x", place, ["sae"], measurements(config))

    @torch.no_grad()
    def made(x_ND: Tensor) -> engine.SaeOutput:
        code = sae.encode_sparse(x_ND)
        return engine.SaeOutput(sae.decode(code), sae, code)

    held = []
    for phase in range(3):
        for part in rows(1200, d, seed=phase).float().split(400):
            at = Tokens(torch.arange(len(part)) % documents_)
            known = before.add(phase, part + 1, at, {"sae": made})
            follows = {
                name: None if parts is None else parts.alone() for name, parts in known.items()
            }
            site.add(phase, part, at, {"sae": made}, follows)
        held.append(sum(size_of(site.saes["sae"], set())) / (8 * d * d))
        before.finish(phase)
        site.finish(phase)
        if phase == folds.SECOND:  # what is kept of the site before: x, x̂, ℓ and u
            kept = sum(size_of(follows["sae"], set()))
            assert kept == 4 * 400 * d * 8
    assert max(held) < 39, held


X, DOCUMENT = rows(1000), documents(1000)


@pytest.mark.parametrize(
    ("x", "x_hat", "document", "message"),
    [
        (X, X[:, :5], DOCUMENT, "another width|same width"),
        (X, X[:-1], DOCUMENT, "same tokens"),
        (X, X, DOCUMENT[:-1], "one integer for each of the 1000 tokens"),
        (X, X, DOCUMENT.double(), "one integer"),
        (X, X, torch.zeros(1000, dtype=torch.long), r"1 document\(s\).*at least 2"),
        (X[:60], X[:60], documents(60, 5), r"13 parameters.*needs 26.*at least 104 tokens"),
        (torch.ones(1000, 12), X, DOCUMENT, "constant"),
        (X, torch.where(X[3, 3] == X, torch.nan, X), DOCUMENT, "NaN or infinity in x_hat"),
        (torch.where(X[3, 3] == X, torch.inf, X), X, DOCUMENT, "NaN or infinity in x;"),
        (X.long(), X, DOCUMENT, "floating"),
        (X[0], X[0], DOCUMENT[:12], r"\[tokens, d\]"),
    ],
    ids=[
        "width", "rows", "documents", "type", "one-document", "few-tokens", "constant", "nan",
        "inf", "integers", "one-row",
    ],
)  # fmt: skip
def test_bad_input(x: Tensor, x_hat: Tensor, document: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        sw.audit(x, x_hat, document)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("document", "options", "message"),
    [
        (["a", "b"] * 500, {}, "documents .*one integer for each of the 1000 tokens"),
        (np.array(["a", "b"] * 500), {}, "documents .*one integer"),
        ([None] * 1000, {}, "documents .*one integer"),
        ([[1, 2], [3]], {}, "documents .*one integer"),
        ("text", {}, "documents .*one integer"),
        (DOCUMENT, {"seed": -1}, "seed = -1: it must be at least 0"),
        (DOCUMENT, {"resamples": -5}, "resamples = -5: it must be at least 0"),
    ],
    ids=["strings", "array", "none", "ragged", "string", "seed", "resamples"],
)
def test_bad_documents_and_options(document: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        unchecked = inspect.unwrap(sw.audit)
        unchecked(X, nonlinear(X), document, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [list, tuple, np.uint16, torch.Tensor.int], ids=str)
def test_documents_of_any_kind(make: Any) -> None:
    document = make(DOCUMENT if make is torch.Tensor.int else DOCUMENT.tolist())
    found = sw.audit(X, nonlinear(X), document, resamples=0)
    assert found.fvu == sw.audit(X, nonlinear(X), DOCUMENT, resamples=0).fvu


def test_audit_stays_a_function() -> None:
    """No module of that name may come in its place once it has been imported."""
    assert callable(sw.audit)
    assert callable(sw.audit)
