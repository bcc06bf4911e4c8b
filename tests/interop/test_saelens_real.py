"""sae-lens itself, in an environment of its own (`make test-interop`): it loads what we export and
computes the same on real activations, and we load whatever it writes."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saeworks.config import ModelConfig
from saeworks.dictionary.base import SAE
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import ARCHS, build_sae
from saeworks.interop import load_foreign
from saeworks.interop.suites import export
from saeworks.lm.model import LanguageModel
from saeworks.suite import load_suite, write_suite

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-interop"
PEER = Path(os.environ.get("SAEWORKS_INTEROP_PYTHON", ENVIRONMENT / "bin" / "python"))
"""A Python that has sae-lens."""
READY = "SAEWORKS_INTEROP_PYTHON" in os.environ or (ENVIRONMENT / ".ready").is_file()
OPTIONS = {
    "topk": {"k": 8},
    "relu": {},
    "jumprelu": {},
    "gated": {},
    "batchtopk": {"k": 8},
    "matryoshka": {"k": 8},
}
"""Every architecture with a counterpart in SAELens, and options to build it with."""
VARIANTS = {name: (name, options) for name, options in OPTIONS.items()} | {
    "relu-centred": ("relu", {"subtract_b_dec": True}),
    "jumprelu-centred": ("jumprelu", {"subtract_b_dec": True}),
}
TOLERANCE = 1e-5
WIDTH = 512

pytestmark = pytest.mark.skipif(not READY, reason="no sae-lens: run `make test-interop`")


def peer(command: str, folder: Path) -> dict[str, Tensor]:
    done = subprocess.run(
        [PEER, Path(__file__).with_name("saelens_peer.py"), command, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "peer.safetensors")


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A real model where there is one, else the embedded one."""
    data = Path(os.environ.get("SAEWORKS_REAL_DATA", ROOT.parent / "shared" / "models"))
    folder = data / "tinystories-neox-6L256"
    return LanguageModel.load(ModelConfig(str(folder) if folder.is_dir() else "embedded"))


@pytest.fixture(scope="module")
def tokens(lm: LanguageModel) -> Tensor:
    text = "Once upon a time there was a little cat. It sat on the mat and saw a big red dog. "
    ids = torch.tensor(lm.tokenizer.encode(text) * 40)
    return ids[: len(ids) // 64 * 64].view(-1, 64)


@pytest.fixture(scope="module")
def activations(lm: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    return {
        site: x.flatten(0, 1)
        for site, x in lm.capture(tokens, lm.sites(["2@resid", "3@mlp", "3@resid@in"])).items()
    }


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, lm: LanguageModel, activations: dict[str, Tensor]
) -> tuple[Path, dict[str, SAE], dict[str, Tensor]]:
    """Suites of every architecture in SAELens's format, our SAEs by folder, and what it says."""
    folder = tmp_path_factory.mktemp("saelens")
    ours: dict[str, SAE] = {}
    rows: dict[str, Tensor] = {}
    for variant, (arch, options) in VARIANTS.items():
        if arch not in ARCHS:
            continue
        write_variant(folder / "suites" / variant, arch, options, lm, activations)
        suite = load_suite(folder / "suites" / variant)
        export(suite, folder / variant, "saelens", lm)
        ours |= {f"{variant}/{site}": suite.at(site) for site in activations}
        rows |= {f"{variant}/{site}": x.clone() for site, x in activations.items()}
    save_file(rows, folder / "x.safetensors")
    return folder, ours, peer("read", folder)


def write_variant(
    path: Path,
    arch: str,
    options: dict[str, Any],
    lm: LanguageModel,
    activations: dict[str, Tensor],
) -> None:
    groups, normalisers = {}, {}
    for number, (site, x) in enumerate(activations.items()):
        normalisers[site] = Normaliser.estimate(x)
        sae = build_sae(arch, x.shape[1], width=WIDTH, **options)
        sae.initialise(normalisers[site].normalise(x), torch.Generator().manual_seed(number))
        stir(sae)
        groups[site] = (sae, (site,))
    write_suite(
        path,
        variant=path.name,
        groups=groups,
        normalisers=normalisers,
        model={"name": lm.name, "revision": None, "fingerprint": lm.fingerprint, "layers": 6},
        text={},
        config={"model": {"name": lm.name}},
        seed=0,
        tokens=0,
        steps=0,
    )


@torch.no_grad()
def stir(sae: SAE) -> None:
    """Leave no parameter at a value that would hide an error; stay as sparse as a trained SAE."""
    for name, tensor in sae.state_dict().items():
        noise = torch.randn(tensor.shape)
        if name in {"w_enc", "w_dec", "r_mag"}:
            tensor.add_(0.02 * noise)
        elif name in {"b_enc", "b_gate", "b_mag"}:
            tensor.add_(0.3 * noise - 1.0)
        elif name == "b_dec":
            tensor.add_(0.1 * noise)
        elif name == "threshold":
            tensor.fill_(1.0).add_(0.3 * noise.abs())


@pytest.mark.parametrize("variant", VARIANTS)
def test_saelens_computes_what_we_do(
    variant: str, exported: tuple[Path, dict[str, SAE], dict[str, Tensor]], activations
) -> None:
    _, ours, theirs = exported
    if VARIANTS[variant][0] not in ARCHS:
        pytest.skip("not in the registry")
    for site, x in activations.items():
        name = f"{variant}/{site}"
        code = ours[name].encode(x)
        assert 0 < float((code > 0).sum(1).float().mean()) < WIDTH / 2, name
        assert error(code, theirs[f"{name}/code"]) <= TOLERANCE, name
        assert error(ours[name].decode(code), theirs[f"{name}/x_hat"]) <= TOLERANCE, name


def test_our_exports_come_back(
    exported: tuple[Path, dict[str, SAE], dict[str, Tensor]], activations
) -> None:
    folder, ours, _ = exported
    for name, sae in ours.items():
        x = activations[name.partition("/")[2]]
        back = load_foreign(folder / name)
        torch.testing.assert_close(back.encode(x), sae.encode(x), rtol=1e-6, atol=1e-6)


def test_saelens_hooks_what_we_capture(
    exported: tuple[Path, dict[str, SAE], dict[str, Tensor]],
    lm: LanguageModel,
    tokens: Tensor,
    activations: dict[str, Tensor],
) -> None:
    """The model and the place that the metadata name are those of the site, an input included."""
    folder, _, _ = exported
    save_file({"tokens": tokens}, folder / "topk" / "tokens.safetensors")
    theirs = peer("hook", folder / "topk")
    for site, x in activations.items():
        assert error(x, theirs[site].flatten(0, 1)) <= TOLERANCE, site


@pytest.fixture(scope="module")
def theirs(
    tmp_path_factory: pytest.TempPathFactory, activations: dict[str, Tensor]
) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("theirs")
    save_file({"x": next(iter(activations.values())).contiguous()}, folder / "x.safetensors")
    return folder, peer("write", folder)


COUNTERPARTS = {
    "standard": "relu",
    "topk": "topk",
    "topk_rescaled": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
    "batchtopk_raw": "jumprelu",
    "matryoshka": "jumprelu",
}


@pytest.mark.parametrize("kind", COUNTERPARTS)
def test_we_compute_what_saelens_does(
    kind: str, theirs: tuple[Path, dict[str, Tensor]], activations: dict[str, Tensor]
) -> None:
    if COUNTERPARTS[kind] not in ARCHS:
        pytest.skip("not in the registry")
    folder, expected = theirs
    x = next(iter(activations.values()))
    names = [name.removesuffix("/code") for name in expected if name.endswith("/code")]
    mine = [
        n for n in names if n.split("/")[1].removesuffix("-True").removesuffix("-False") == kind
    ]
    assert mine
    for name in mine:
        sae = load_foreign(folder / name)
        code = sae.encode(x)
        assert sae.arch == COUNTERPARTS[kind]
        assert (expected[f"{name}/code"] > 0).any()
        assert error(code, expected[f"{name}/code"]) <= TOLERANCE, name
        assert error(sae.decode(code), expected[f"{name}/x_hat"]) <= TOLERANCE, name
