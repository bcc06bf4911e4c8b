"""What the documentation shows can be run, and what it lists is what there is."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
from markdown import Markdown
from markdown.extensions.toc import slugify

import saeworks
from helpers.toy_suites import written_suite
from helpers.toys import random_text, saved_llama
from saeworks.config import (
    GroupsConfig,
    RunConfig,
    from_mapping,
    read_yaml,
)
from saeworks.dictionary.registry import ARCHS
from saeworks.groups.grouping import Grouping
from saeworks.lm.model import LanguageModel
from saeworks.suite import load_suite
from saeworks.train.variants import build_members, expand_variants

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    if "saes:" in block
]
EXPERIMENTS = [
    pytest.param(path, id=f"{path.parent.name}-{path.stem}")
    for path in sorted((ROOT / "experiments").glob("*/*.yaml"))
]


def an_entry(spec: object, where: str) -> list[Grouping]:
    """What an entry's own groups may be, whatever the model."""
    if isinstance(spec, Mapping):
        from_mapping(GroupsConfig, spec, where)
    else:
        assert spec == "per-site"
    name = re.sub(r"[^a-z0-9]+", "-", str(spec))
    return [Grouping(name, {"layers.3": ("layers.3",)}, "user")]


def check(config: RunConfig) -> None:
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
        for row in hooks.table(architecture.Config)[3:]:
            assert len(row.split("|")[3].strip()) > 10, row


def test_the_readmes_python_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_llama(tmp_path)
    (tmp_path / "text.txt").write_text(random_text(30))
    sites = ["layers.0", "layers.1.mlp", "layers.1", "layers.2"]
    suite = written_suite(tmp_path / "suite", tmp_path, {site: [site] for site in sites})
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for shown, here in (
        ("runs/mine", str(suite)),
        ("EleutherAI/pythia-70m", str(tmp_path)),
        ("When Mary and John went to the shop", "w5 w9 w40 w3 w17 w60"),
    ):
        assert shown in block
        block = block.replace(shown, here)
    exec(block, {})
    tokens = torch.tensor([[0, 5, 9, 40, 3, 17, 60]])
    x = LanguageModel.load(str(tmp_path)).capture(tokens, ["layers.2"])["layers.2"][0, 1:]
    error, centred = x - load_suite(suite).at("layers.2")(x), x - x.mean(0)
    assert f"FVU {error.square().sum() / centred.square().sum():.3f}\n" in capsys.readouterr().out


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if heading:
            assert heading in anchors(target), f"{page.name}: {link}"


def anchors(page: Path) -> set[str]:
    """Of headings as mkdocs makes them."""
    return {
        slugify(line.lstrip("# "), "-")
        for line in page.read_text().splitlines()
        if "# " in line[:7]
    }


CLAIMS = [
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in (ROOT / "docs" / "results" / "papers.md").read_text().splitlines()
    if row.startswith("| ") and ".md)" in row
]


@pytest.mark.parametrize("row", CLAIMS, ids=lambda row: row[0][:40])
def test_a_claim_quotes_its_results(row: list[str]) -> None:
    """Our number with its interval is in the file that the row leads to, in these words."""
    claim, _, ours, regime, verdict, command = row
    assert regime and verdict
    (path,) = re.findall(r"\]\(([^)]+)\)", command)
    text = (ROOT / "docs" / "results" / path).resolve().read_text()
    for value in re.findall(r"[-+]?[\d.]+%? \[[^\]]+\]", ours):
        assert value in text, f"{claim}: {value} is not in {path}"


def test_underscores_are_subscripts_not_emphasis(hooks: ModuleType) -> None:
    markdown = Markdown(extensions=[hooks.NoUnderscoreEmphasis()])
    text = "x̂_j = Σ_{m < m_j} f_m, and **this** is *so*"
    shown = "<p>x̂_j = Σ_{m &lt; m_j} f_m, and <strong>this</strong> is <em>so</em></p>"
    assert markdown.convert(text) == shown


def test_help_fits_the_page(hooks: ModuleType) -> None:
    """Between the two columns of contents there is room for 80 characters."""
    help_ = hooks.help_of("eval")
    assert max(map(len, help_.splitlines())) <= 80


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for name, module in saeworks._PUBLIC.items():
        documented = f"::: {module}.{name}" in page or f"sw.{name}" in page
        assert documented or name == "ARCHS", f"{name} ({module}) is not in docs/api.md"
