"""Every architecture, a group suite and a suite from SAELens: all sections, and those that the
arrays alone give are equal to them."""

import math
from pathlib import Path

import pytest
import torch

from helpers.toy_suites import SITES, written_suite
from helpers.toys import clean_rows, held_out, random_text, saved_llama, tiny_llama
from saeworks.cli.main import main
from saeworks.config import AuditConfig, ModelConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.lm.model import LanguageModel
from saeworks.measure.audit import arrays, extractor
from saeworks.measure.audit.run import audit_banks, audit_suites
from saeworks.measure.suites import held_out_tokens
from saeworks.results.audit import AuditResult
from saeworks.suite import load_suite

CONFIG = AuditConfig(
    tokens=1200, bootstrap=5, pursuit=150, mlp=200, codes=300, zeroing=200, downstream=200
)
"""All that the command measures by default, on few tokens."""
OPTIONS = {
    name: {"width": 48, "k": 4}
    for name, architecture in ARCHS.items()
    if "k" in architecture.Config.__dataclass_fields__
}
OPTIONS["switch"] = {"width": 48, "k": 4, "experts": 4}
DENSE = {"width": 24}
"""Half of the latents fire, on most tokens fewer than d: pursuit leaves the others out."""
DEFAULT = (
    "vector", "norm", "split", "shrinkage", "ladder", "null", "synthetic", "zeroing", "positions",
    "adjacent", "pursuit", "attribution", "mlp", "parts", "downstream",
)  # fmt: skip


def of_arch(arch: str, site: str) -> SAE:
    """As it is before its first step; with the threshold that gives k, where that is trained."""
    sae = build_sae(arch, d=16, **OPTIONS.get(arch, DENSE))
    x_ND = clean_rows(tiny_llama(), site, held_out(20, 50, seed=1))
    sae.initialise(x_ND, torch.Generator().manual_seed(3))
    if arch in ("batchtopk", "matryoshka"):
        with torch.no_grad():
            f_NM = sae.encode_sparse(x_ND).dense()
        assert isinstance(sae.threshold, torch.Tensor)
        sae.threshold.fill_(float(f_NM.flatten().topk(4 * len(x_ND)).values[-1]))
    return sae.eval()


@pytest.fixture(scope="module")
def banks() -> dict[str, dict[str, SAE]]:
    return {arch: {site: of_arch(arch, site) for site in SITES} for arch in ARCHS}


@pytest.fixture(scope="module")
def found(banks: dict[str, dict[str, SAE]]) -> dict[str, AuditResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "STEPS", 5)
        return audit_banks(banks, tiny_llama(), held_out(60, 150), CONFIG)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture(
    arch: str, found: dict[str, AuditResult], banks: dict[str, dict[str, SAE]]
) -> None:
    result, sample = found[arch], held_out(60, 150).first(CONFIG.tokens)
    assert list(result.sections) == list(DEFAULT)
    assert list(result.verdicts) == list(SITES)
    for site in SITES:
        x_ND = clean_rows(tiny_llama(), site, sample)
        as_arrays(result, site, banks[arch][site], x_ND, sample.row_NT[sample.keep_NT])
        value = {
            f"{name}.{key}": number.value
            for name, section in result.sections.items()
            for key, number in section.sites[site].items()
        }
        known = {name: number for name, number in value.items() if number is not None}
        assert all(math.isfinite(number) for number in known.values())
        parts = ("scale", "coefficients", "choice", "rest")
        assert sum(known[f"attribution.{part}"] for part in parts) == pytest.approx(
            known["attribution.fvu"]
        )
        assert known["attribution.fvu"] == pytest.approx(known["pursuit.fvu_encoder"])
        # Least squares on the encoder's own choice, token by token: never worse than it.
        assert known["pursuit.fvu_refit"] <= known["pursuit.fvu_encoder"] + 1e-6
        first = site == SITES[0]  # it follows no other
        assert ("adjacent.r2_e_from_x" in known) == (not first)
        for name in ("norm.r2_l0", "mlp.r2_u_best", "shrinkage.fvu_per_latent"):
            assert name in value, name


def as_arrays(
    result: AuditResult, site: str, sae: SAE, x_ND: torch.Tensor, document_N: torch.Tensor
) -> None:
    """What arrays alone give is the same."""
    with torch.no_grad():
        plain = arrays.audit(x_ND, sae(x_ND), document_N, resamples=0)
    for name in ("split.fvu", "split.fvu_nonlinear", "vector.r2_error", "shrinkage.alpha"):
        own = result.value(site, *name.split(".")).value
        assert own == pytest.approx(plain[name].value, rel=1e-4, abs=1e-7), name


def test_groups_and_saelens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One SAE at two sites with their own normalisers; and SAEs that were away in SAELens."""
    monkeypatch.setattr(extractor, "STEPS", 5)
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(120))
    group = written_suite(tmp_path / "group", tmp_path, {"group-0": SITES}, seed=4)
    own = written_suite(tmp_path / "own", tmp_path, seed=7)
    assert main(["convert", str(own), str(tmp_path / "away"), "--to", "saelens"]) == 0
    back = tmp_path / "back"
    assert main(["convert", str(tmp_path / "away"), str(back), "--to", "saeworks"]) == 0
    found = audit_suites([group, own, back], CONFIG)
    lm = LanguageModel.load(ModelConfig(str(tmp_path)))
    for path, result in found.items():
        suite = load_suite(path)
        run = suite.run
        sample = held_out_tokens(lm, run.text, run.seed, CONFIG.tokens)
        assert list(result.verdicts) == list(SITES)
        assert [name for name in result.sections if name != "scaling"] == list(DEFAULT)
        for site in SITES:
            x_ND = clean_rows(lm, site, sample)
            as_arrays(result, site, suite.at(site), x_ND, sample.row_NT[sample.keep_NT])
    assert found[own].config["held_out"] == found[back].config["held_out"]
    for name, section in found[own].sections.items():
        for site in SITES:
            for key, value in section.sites[site].items():
                again = found[back].value(site, name, key).value
                near = pytest.approx(value.value, rel=1e-3, abs=1e-4)
                assert again == near or key == "condition", f"{name}.{key}"
