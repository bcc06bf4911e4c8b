import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.editing import edit
from helpers.whole_suites import D, trained
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.files.access import read_tensors, write_tensors
from saeworks.suite import find_suites, load_suite

SITES = ("layers.0", "layers.1@in")


def write(path: Path) -> None:
    trained(path, SITES, width=32, k=3, epochs=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "suite")
    return tmp_path / "suite"


def test_a_suite_reads_back_as_it_was_written(path: Path):
    suite = load_suite(path)
    assert suite.sites == list(SITES)
    assert (suite.arch, suite.variant) == ("topk", "topk-w32-k3")
    assert suite.meta["tokens"] == 100
    assert suite.meta["versions"]["torch"].startswith("2.")
    assert suite.trained("layers.0").config.k == 3
    assert not suite.trained("layers.0").w_dec.requires_grad


def test_the_sae_at_a_site_works_on_raw_activations(path: Path):
    suite, site = load_suite(path), "layers.1@in"
    raw = 5 + 3 * torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    normaliser, trained = suite.normaliser(site), suite.trained(site)
    expected = normaliser.denormalise(trained(normaliser.normalise(raw)))
    torch.testing.assert_close(suite.at(site)(raw), expected, rtol=1e-5, atol=1e-5)
    assert suite.at(site) is suite.at(site)
    assert list(suite.bank()) == list(SITES)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "groups/layers.0/weights.safetensors",
        "groups/layers.0/config.json",
        "normalisers.safetensors",
    ],
)
def test_damage_is_noticed_before_anything_is_loaded(
    path: Path, damage: Callable[[Path], None], name: str
):
    damage(path / name)
    with pytest.raises(UserError, match=rf"{name} is (corrupt|missing)"):
        load_suite(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=3), "has schema 3; this version reads 1 and 2"),
        (lambda m: m.pop("sites"), "'sites' is missing"),
        (lambda m: m.update(sites=[1]), "'sites': input should be an object"),
        (lambda m: m["sites"]["layers.0"].pop("group"), "group' is missing"),
        (lambda m: m["sites"]["layers.0"].update(group="../../x"), "leads outside the suite"),
        (lambda m: m["sites"]["layers.0"].update(group="/etc"), "not among its group"),
        (lambda m: m["files"].update({"../outside": "0"}), "leads outside the suite"),
        (lambda m: m["files"].update({"/etc/passwd": "0"}), "leads outside the suite"),
        (lambda m: m["files"].pop("normalisers.safetensors"), "has no SHA-256 of normalisers"),
    ],
)
def test_an_untrusted_suite_json_is_checked(
    path: Path,
    change: Callable[[dict], object],  # type: ignore[type-arg]
    message: str,
):
    edit(path / "suite.json", change)
    with pytest.raises(UserError, match=message):
        load_suite(path)


def test_links_do_not_lead_outside(path: Path, tmp_path: Path):
    target = tmp_path / "elsewhere.safetensors"
    (path / "normalisers.safetensors").rename(target)
    os.symlink(target, path / "normalisers.safetensors")
    with pytest.raises(UserError, match="leads outside the suite"):
        load_suite(path)


def test_text_that_is_no_json_or_no_suite_is_refused(path: Path, tmp_path: Path):
    (path / "suite.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_suite(path)
    with pytest.raises(UserError, match=r"has no suite\.json"):
        load_suite(tmp_path)


def test_a_suite_half_written_is_no_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, tensors: object) -> str:
        raise UserError("could not write")

    monkeypatch.setattr("saeworks.suite.write_tensors", full)
    with pytest.raises(UserError):
        write(tmp_path / "suite")
    with pytest.raises(UserError, match="holds no suite"):
        find_suites(tmp_path / "suite")


def test_weights_that_do_not_fit_their_config_are_refused(path: Path):
    from saeworks.files.access import sha256

    file = path / "groups" / "layers.0" / "config.json"
    config = json.loads(file.read_text())
    config["options"]["width"] = 16
    file.write_text(json.dumps(config))
    edit(
        path / "suite.json",
        lambda m: m["files"].update({"groups/layers.0/config.json": sha256(file)}),
    )
    with pytest.raises(UserError, match=r"weights do not fit config\.json"):
        load_suite(path).at("layers.0")


def test_an_unknown_site_is_refused_with_those_there_are(path: Path):
    with pytest.raises(UserError, match=r"no site 'layers\.7'; it has layers\.0, layers\.1@in"):
        load_suite(path).at("layers.7")


def test_suites_are_found_at_or_below_a_folder(path: Path, tmp_path: Path):
    assert find_suites(path) == [path]
    write(tmp_path / "another")
    assert find_suites(tmp_path) == [tmp_path / "another", path]
    with pytest.raises(UserError, match="no such folder"):
        find_suites(tmp_path / "nowhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="training is not finished"):
        find_suites(tmp_path / "run")


def spoil(path: Path, name: str, key: str, value: float) -> None:
    """Put a number into a tensor, and have suite.json say that it was always there."""
    tensors = read_tensors(path / name)
    tensors[key].view(-1)[-1] = value
    digest = write_tensors(path / name, tensors)
    edit(path / "suite.json", lambda meta: meta["files"].update({name: digest}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["w_enc", "b_enc", "w_dec", "b_dec"])
def test_weights_that_are_not_finite_are_refused_by_name(path: Path, key: str, value: float):
    spoil(path, "groups/layers.0/weights.safetensors", key, value)
    suite = load_suite(path)
    for read in (suite.at, suite.trained, lambda site: suite.bank()):
        with pytest.raises(
            UserError, match=rf"layers\.0/weights\.safetensors: {key} has NaN or inf"
        ):
            read("layers.0")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("layers.1@in.mean", float("nan"), r"layers\.1@in\.mean has NaN or infinite"),
        ("layers.1@in.scale", float("inf"), r"layers\.1@in\.scale has NaN or infinite"),
        ("layers.1@in.scale", 0.0, r"normaliser of layers\.1@in has the scale 0;"),
        ("layers.1@in.scale", -2.0, r"normaliser of layers\.1@in has the scale -2;"),
    ],
)
def test_normalisers_that_are_no_map_are_refused(path: Path, key: str, value: float, said: str):
    spoil(path, "normalisers.safetensors", key, value)
    with pytest.raises(UserError, match=said):
        load_suite(path).at("layers.1@in")


def test_a_suite_says_what_is_in_it(path: Path):
    suite = load_suite(path)
    assert str(suite).splitlines() == [
        f"Suite('{path}': topk-w32-k3, 2 sites)",
        "  layers.0, layers.1@in: TopK(d=8, width=32, k=3)",
    ]
    assert repr(suite) == str(suite).splitlines()[0]
    assert repr(suite.at("layers.0")) == "TopK(d=8, width=32, k=3)"
    other = build_sae("jumprelu", 8, width=32, target_l0=3.0, bandwidth=0.01)
    assert repr(other) == "JumpReLU(d=8, width=32, target_l0=3.0)"
