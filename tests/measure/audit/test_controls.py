"""The controls on suites: there where asked for, absent where not, undisturbed by a dead SAE."""

from typing import Any

import pytest
import torch

from helpers.toy_suites import random_sae
from helpers.toys import Toy, held_out, tiny_llama
from saeworks.config import AuditConfig
from saeworks.errors import UserError
from saeworks.measure.audit import extractor
from saeworks.measure.audit.run import audit_banks
from saeworks.results.audit import AuditResult

SECTIONS = ("attribution", "wide", "zeroing")


def audited(config: AuditConfig) -> AuditResult:
    dead = Toy(16, gain=0.0, offset_D=torch.linspace(-1, 1, 16))
    bank = {"layers.0": dead, "layers.2": random_sae(2)}
    return audit_banks({"one": bank}, tiny_llama(), held_out(60, 150), config)["one"]


def test_sections_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "STEPS", 5)
    found = audited(
        AuditConfig(bootstrap=5, mlp=0, wide=200, pursuit=200, codes=500, zeroing=500, downstream=0)
    )
    for name in SECTIONS:
        section = found.sections[name]
        values = section.sites["layers.2"]
        assert values and set(values) <= set(section.metrics)
    attribution = found.sections["attribution"].sites["layers.2"]
    parts = [attribution[key].value for key in ("scale", "coefficients", "choice", "rest")]
    assert sum(part or 0.0 for part in parts) == pytest.approx(attribution["fvu"].value)
    assert found.value("layers.2", "attribution", "fvu").low is not None
    assert found.value("layers.2", "shrinkage", "artefact_per_latent").value is not None
    assert found.sections["wide"].series["layers.2"]["tokens"] == 200
    assert found.sections["zeroing"].series["layers.2"]["zeroed"][0] == 0.0
    assert found.sections["zeroing"].sites["layers.0"] == {}  # x̂ is constant
    # On each of its tokens as many latents fire as there are dimensions: pursuit leaves them out.
    assert found.sections["pursuit"].series["layers.0"]["left_out"]["test"] == 200
    assert found.value("layers.0", "attribution", "fvu").value is None


def test_sections_where_not() -> None:
    nothing = AuditConfig(bootstrap=5, mlp=0, pursuit=100, codes=0, zeroing=0, downstream=0)
    found = audited(nothing)
    assert not set(SECTIONS) & set(found.sections)
    assert "fvu_per_latent" not in found.sections["shrinkage"].metrics
    assert "fvu_decoder" not in found.sections["pursuit"].metrics


@pytest.mark.parametrize("key", ["wide", "codes", "zeroing"])
def test_bad_options(key: str) -> None:
    bad: dict[str, Any] = {key: -1}
    with pytest.raises(UserError, match=f"{key} = -1: it must be at least 0"):
        AuditConfig(**bad)
