from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from saeworks.cli.keys import keys_of
from saeworks.config import (
    PRESETS,
    AuditConfig,
    CompareConfig,
    EvalConfig,
    RunConfig,
    TrainConfig,
    from_mapping,
    merge,
    override,
    parse_bytes,
    read_yaml,
)
from saeworks.errors import UserError


def test_defaults_are_frozen_and_survive_a_round_trip():
    config = RunConfig()
    assert from_mapping(RunConfig, asdict(config), "here") == config
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str):
    from_mapping(RunConfig, PRESETS[name], name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed": 1}, "run.yaml: unknown key 'sed'; did you mean 'seed'? (allowed: model, text, "),
        (
            {"train": {"warm_up": 1}},
            "run.yaml: unknown key 'train.warm_up'; did you mean 'warmup'? (allowed: tokens, ",
        ),
        ({"train": {"zzz": 1}}, "run.yaml: unknown key 'train.zzz' (allowed: tokens, batch, "),
        ({"seed": "one"}, "run.yaml: 'seed' = 'one': input should be a valid integer"),
        ({"train": {"tokens": 1.5}}, "run.yaml: 'train.tokens' = 1.5: "),
        ({"train": {"batch": True}}, "run.yaml: 'train.batch' = True: "),
        ({"buffer": {"dtype": "float16"}}, "run.yaml: 'buffer.dtype' = 'float16': "),
        ({"sites": "layers.*"}, "run.yaml: 'sites' = 'layers.*': "),
        ({"train": 3}, "run.yaml: 'train' = 3: "),
        ({"seed": -1}, "run.yaml: seed = -1: it must be at least 0 and below 2^63"),
        ({"buffer": {"lm_batch": 0}}, "run.yaml: buffer.lm_batch = 0: it must be at least 1"),
        ({"buffer": {"normaliser_tokens": 0}}, "run.yaml: buffer.normaliser_tokens = 0: "),
        ({"seed": {1, 2}}, "run.yaml: Object of type set is not JSON serializable; only plain"),
    ],
)
def test_bad_keys_and_types_are_one_line(data: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        from_mapping(RunConfig, data, "run.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tokens": 3}, "unknown key 'tokens'; did you mean 'train.tokens'"),
        ({"learning_rate": 3}, "unknown key 'learning_rate'; did you mean 'train.lr'"),
        ({"k": 3}, "unknown key 'k'; did you mean 'saes.0.k'"),
        ({"sites": "layers.3"}, r"'sites' = 'layers.3': it must be a list, such as \[layers.3\]"),
        ({"log": "wandb"}, r"it must be a list, such as \[wandb\]"),
    ],
)
def test_a_key_in_the_wrong_place_and_one_value_for_a_list(data: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        from_mapping(RunConfig, data, "options")


def test_an_integer_is_a_float_but_not_the_other_way():
    assert from_mapping(TrainConfig, {"lr": 1}, "here").lr == 1.0
    with pytest.raises(UserError, match="'tokens'"):
        from_mapping(TrainConfig, {"tokens": 1e6 + 0.5}, "here")


def test_merge_replaces_leaves_only():
    base = {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert merge(base, {"a": {"b": 3}, "d": [4]}) == {"a": {"b": 3, "c": 2}, "d": [4]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", {"seed": 3}),
        ("train.lr=1e-3", {"train": {"lr": 1e-3}}),
        ("sites=[layers.1, '*@mlp']", {"sites": ["layers.1", "*@mlp"]}),
        ("model.name=org/model=x", {"model": {"name": "org/model=x"}}),
        ("train.lr=null", {"train": {"lr": None}}),
        ("train.lr=1E5", {"train": {"lr": 1e5}}),
        ("train.tokens=1000", {"train": {"tokens": 1000}}),
        ("model.revision='1e3'", {"model": {"revision": "1e3"}}),
        ("model.revision=1e3f", {"model": {"revision": "1e3f"}}),
        ("model.name=nan", {"model": {"name": "nan"}}),
        ("text.streaming=true", {"text": {"streaming": True}}),
    ],
)
def test_overrides(text: str, value: dict[str, Any]):
    assert override({}, text) == value


def test_a_place_in_a_list():
    assert override({}, "saes.0.k=16")["saes"] == [{**RunConfig().saes[0], "k": 16}]
    data: dict[str, Any] = {"saes": [{"arch": "topk", "k": [4, 8]}, {"arch": "relu"}], "seed": 1}
    assert override(data, "saes.1.l1=2") == {
        **data,
        "saes": [data["saes"][0], {"arch": "relu", "l1": 2}],
    }
    assert override(data, "saes.0.k.1=2")["saes"][0]["k"] == [4, 2]
    assert override(data, "saes.1={width: 8}")["saes"][1] == {"arch": "relu", "width": 8}
    assert override(data, "saes=[]")["saes"] == []
    assert override({}, "sites.0=layers.1")["sites"] == ["layers.1"]
    assert data["saes"][0]["k"] == [4, 8]


@pytest.mark.parametrize("place", ["k", "2", "-1", "²", "0x0"])
def test_no_such_place_in_a_list(place: str):
    with pytest.raises(
        UserError, match=r"^--set 'saes\..*': saes is a list of 2: name a place in it"
    ):
        override({"saes": [{}, {}]}, f"saes.{place}.x=1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\ntrain: {}\nseed: 2\n", "key 'seed' stands twice, in line 1 and in line 3;"),
        (
            "train:\n  lr: 1\n  batch: 2\n  lr: 3\n",
            "key 'lr' stands twice, in line 2 and in line 4",
        ),
        ("saes: [{k: 1}, {k: 1, k: 2}]\n", "key 'k' stands twice, in line 1 and in line 1"),
        ("a: 1\n'a': 1\n", "key 'a' stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, content: str, message: str):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_keys_of_an_anchor_may_be_replaced(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {k: 1, m: 1}\nb: {<<: *a, k: 2}\nc: {<<: *a, m: 3}\n")
    assert read_yaml(path)["b"] == {"k": 2, "m": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train={lr: 1, lr: 2}", "--set 'train={lr: 1, lr: 2}': key 'lr' stands twice, in line 1"),
        ("seed", "--set 'seed': write it as key.sub=value"),
        ("=3", "--set '=3': write it as key.sub=value"),
        ("sites=[a", "--set 'sites=[a': the value is not valid YAML"),
    ],
)
def test_bad_overrides_are_one_line(text: str, message: str):
    with pytest.raises(UserError) as caught:
        override({}, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not valid YAML: "),
        (b"- 1\n- 2\n", "must hold a mapping of options, not list"),
        (b"", "must hold a mapping of options, not NoneType"),
        (b"\xff\xfe\x00binary", "is not valid YAML: "),
        (b"a: !!python/object:os.system {}", "is not valid YAML: "),
    ],
)
def test_bad_yaml_is_one_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)


def test_a_file_and_an_override_read_numbers_alike(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {lr: 1e-3, clip: null, eps: 1.e-8}\n")
    assert read_yaml(path)["train"] == {"lr": 1e-3, "clip": None, "eps": 1e-8}
    from_mapping(RunConfig, read_yaml(path), "run.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", 0), ("splice_tokens", 0), ("latents", -1), ("bootstrap", -1), ("seed", -1)],
)
def test_an_evaluation_out_of_range_is_refused(key: str, value: int):
    bad: dict[str, Any] = {key: value}
    with pytest.raises(UserError, match=rf"^{key} = {value}: it must be at least"):
        EvalConfig(**bad)


def test_a_missing_yaml_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"run\.yaml: No such file or directory; check the path"):
        read_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1.5GiB", 3 * 2**29),
        ("512 MiB", 2**29),
        ("10kb", 10_000),
        ("7B", 7),
        ("7", 7),
        ("2GB", 2 * 10**9),
    ],
)
def test_sizes(text: str, size: int):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "0MiB", "-1GiB", "1TB", "nanGiB", "infGiB", "1e400GiB"]
)
def test_bad_sizes_are_one_line(text: str):
    with pytest.raises(UserError, match="write a positive size such as '512MiB' or '4GiB'"):
        parse_bytes(text)


@pytest.mark.parametrize("cls", [RunConfig, EvalConfig, AuditConfig, CompareConfig])
def test_every_field_is_documented(cls: type):
    assert all(key.default is not None and len(key.text) > 10 for key in keys_of(cls))
