"""What the documentation shows can be run, and what it lists is what there is."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from saeforge.config import GroupsConfig, RunConfig, from_mapping, read_yaml
from saeforge.dictionary.registry import ARCHS
from saeforge.groups.grouping import Grouping
from saeforge.train import schedule
from saeforge.train.variants import build_members, expand_variants

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    if "saes:" in block
]
EXPERIMENTS = [pytest.param(path, id=path.stem) for path in (ROOT / "experiments").glob("*.yaml")]


def an_entry(spec: object, where: str) -> list[Grouping]:
    """What an entry's own groups may be, whatever the model."""
    if isinstance(spec, Mapping):
        from_mapping(GroupsConfig, spec, where)
    else:
        assert spec == "per-site"
    name = re.sub(r"[^a-z0-9]+", "-", str(spec))
    return [Grouping(name, {"layers.3": ("layers.3",)}, "user")]


def check(config: RunConfig) -> None:
    schedule.check(config.train)
    widths = {"layers.3": 128}
    variants = expand_variants(config.saes, widths, resolve=an_entry)
    assert len(build_members(variants, widths)) == len(variants)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_configuration_in_the_docs_is_one(block: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(block)
    check(from_mapping(RunConfig, read_yaml(tmp_path / "run.yaml"), "docs"))


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_a_configuration_of_an_experiment_is_one(path: Path) -> None:
    check(from_mapping(RunConfig, read_yaml(path), path.name))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_architecture_is_in_the_table(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((ROOT / "docs" / "architectures.md").read_text())
    head, *rows = [line for line in page.splitlines() if line.startswith("|")]
    assert head == f"| option | {' | '.join(f'`{name}`' for name in ARCHS)} |"
    for at, (name, architecture) in enumerate(ARCHS.items()):
        assert f"## `{name}`" in page
        assert f"::: {architecture.__module__}.{architecture.__name__}" in page
        for item in fields(architecture.Config):
            row = next(row for row in rows if row.startswith(f"| `{item.name}` |"))
            assert row.split("|")[at + 2].strip()
            assert f"| `{item.name}` | " in page.partition(f"## `{name}`")[2]


def test_every_option_has_its_meaning(hooks: ModuleType) -> None:
    for architecture in ARCHS.values():
        for row in hooks.tables(architecture.Config)[3:]:
            assert len(row.split("|")[3].strip()) > 10, row
