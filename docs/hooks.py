"""Fills the reference pages at build time from what the program itself says."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Here and not where it is needed: mkdocs takes the paths away once this file is loaded.
from performance import filled


class NoUnderscoreEmphasis(Extension):
    """Underscores are subscripts in our equations (x̂_j = Σ_m …), never emphasis."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.delimiters.remove("_")


def on_config(config: Any) -> Any:
    """Called by mkdocs before it reads a page; docstrings are rendered by the same extensions."""
    config.markdown_extensions.append(NoUnderscoreEmphasis())
    return config


OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+((?:benchmarks|experiments|src|tests)/[^)]*)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers; called by mkdocs for every page."""
    markdown = OUTSIDE.sub(path_for_link, markdown)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    if "<!-- configuration -->" in markdown:
        markdown = markdown.replace("<!-- configuration -->", configuration())
    if "<!-- architectures -->" in markdown:
        markdown = markdown.replace("<!-- architectures -->", architectures())
    if "<!-- peers -->" in markdown:
        markdown = filled(markdown)
    return markdown


def path_for_link(link: re.Match[str]) -> str:
    """The site holds docs/ alone: a link to another file of the repository becomes its path."""
    text, path = link.groups()
    return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"


def commands() -> str:
    """`--help` of every command."""
    from saeworks.cli.parsing import BENCHES, COMMANDS

    sections = []
    for command in ("", *COMMANDS, *(f"bench {name}" for name in BENCHES)):
        title = f"saeworks {command}".strip()
        sections.append(f"## {title}\n\n```text\n{help_of(command)}\n```\n")
    return "\n".join(sections)


def help_of(command: str) -> str:
    """What `--help` prints, as wide as a page shows it without scrolling."""
    environment = {**os.environ, "COLUMNS": "78", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "saeworks", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.strip()


def configuration() -> str:
    """A table per config dataclass: key, type, default and the text under the field."""
    from saeworks.cli.keys import RUN
    from saeworks.config import AuditConfig, CompareConfig, EvalConfig
    from saeworks.measure.explaining.config import AskConfig, ExplainConfig

    parts = ["## A run (`RUN.yaml`, `--set`)\n"]
    for heading, config, prefix in RUN:
        parts += [f"\n### `{heading.replace(',', '`,', 1)}\n"] if heading else []
        parts += table(config, prefix)
    for title, config in (
        ("An evaluation", EvalConfig),
        ("An audit", AuditConfig),
        ("A comparison", CompareConfig),
        ("Explanations of latents", ExplainConfig),
        ("Explanations by a language model", AskConfig),
    ):
        parts += [f"\n## {title}\n", *table(config)]
    return "\n".join(parts)


def architectures() -> str:
    """All architectures' options in one table, then each with its equation and its options."""
    from saeworks.dictionary.registry import ARCHS

    parts = ["## All options\n", *comparison(ARCHS)]
    for name, architecture in ARCHS.items():
        parts += [
            f"\n## `{name}`\n",
            f"::: {architecture.__module__}.{architecture.__qualname__}",
            "    options:\n      members: false\n      heading_level: 3\n",
            *table(architecture.Config),
        ]
    return "\n".join(parts)


def comparison(archs: Mapping[str, Any]) -> list[str]:
    """A row per option and a column per architecture: the defaults; Adam's β at the end."""
    from saeworks.cli.keys import keys_of

    defaults = {
        name: {k.name: k.default for k in keys_of(arch.Config)} for name, arch in archs.items()
    }
    rows = ["", f"| option | {' | '.join(f'`{name}`' for name in archs)} |"]
    rows.append("|---|" + "---|" * len(archs))
    for key in dict.fromkeys(key for keys in defaults.values() for key in keys):
        cells = [shown_default(keys[key]) if key in keys else "" for keys in defaults.values()]
        rows.append(f"| `{key}` | {' | '.join(cells)} |")
    betas = [f"`{list(arch.betas)}`" for arch in archs.values()]
    rows.append(f"| `train.betas` | {' | '.join(betas)} |")
    return rows


def shown_default(default: str | None) -> str:
    return "required" if default is None else f"`{default}`"


def table(config: type, prefix: str = "") -> list[str]:
    """A row per key."""
    from saeworks.cli.keys import keys_of

    rows = ["", "| key | default | meaning |", "|---|---|---|"]
    for key in keys_of(config, prefix):
        text = key.text.replace("|", "\\|")
        rows.append(f"| `{key.name}` | {shown_default(key.default)} | {text} |")
    return rows
