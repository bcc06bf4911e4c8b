"""Fills the reference pages at build time from what the program itself says."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

COMMANDS = (
    "",
    "demo",
    "plan",
    "cost",
    "train",
    "eval",
    "audit",
    "compare",
    "report",
    "convert",
    "bench",
    "bench step",
)


class NoUnderscoreEmphasis(Extension):
    """Underscores are subscripts in our equations (x̂_j = Σ_m …), never emphasis."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.delimiters.remove("_")


def on_config(config: Any) -> Any:
    """Called by mkdocs before it reads a page; docstrings are rendered by the same extensions."""
    config.markdown_extensions.append(NoUnderscoreEmphasis())
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers; called by mkdocs for every page."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    if "<!-- configuration -->" in markdown:
        markdown = markdown.replace("<!-- configuration -->", configuration())
    if "<!-- architectures -->" in markdown:
        markdown = markdown.replace("<!-- architectures -->", architectures())
    return markdown


def commands() -> str:
    """`--help` of every command."""
    sections = []
    for command in COMMANDS:
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
    from saeworks.config import (
        ErrorConfig,
        EvalConfig,
        GroupsConfig,
        RunConfig,
    )

    parts = ["## A run (`RUN.yaml`, `--set`)\n", *tables(RunConfig)]
    parts += ["\n### A grouping, other than `per-site`\n", *tables(GroupsConfig, "groups[].")]
    parts += ["\n### The error of other SAEs, where it is not `null`\n"]
    parts += tables(ErrorConfig, "error.")
    parts += ["\n## An evaluation\n", *tables(EvalConfig)]
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
            *tables(architecture.Config),
        ]
    return "\n".join(parts)


def comparison(archs: Mapping[str, Any]) -> list[str]:
    """A row per option and a column per architecture: the defaults; Adam's β at the end."""
    keys = dict.fromkeys(f.name for arch in archs.values() for f in fields(arch.Config))
    rows = ["", f"| option | {' | '.join(f'`{name}`' for name in archs)} |"]
    rows.append("|---|" + "---|" * len(archs))
    for key in keys:
        found = [{f.name: f for f in fields(arch.Config)}.get(key) for arch in archs.values()]
        cells = ["" if item is None else shown_default(item) for item in found]
        rows.append(f"| `{key}` | {' | '.join(cells)} |")
    betas = [f"`{list(arch.betas)}`" for arch in archs.values()]
    rows.append(f"| `train.betas` | {' | '.join(betas)} |")
    return rows


def shown_default(item: Any) -> str:
    from dataclasses import MISSING

    if item.default is MISSING and item.default_factory is MISSING:
        return "required"
    made = item.default if item.default is not MISSING else item.default_factory()
    return f"`{made:.4g}`" if isinstance(made, float) else f"`{json.dumps(made)}`"


def tables(cls: Any, prefix: str = "") -> list[str]:
    from dataclasses import MISSING

    from saeworks.config import field_docs

    documented = field_docs(cls)
    rows = ["", "| key | default | meaning |", "|---|---|---|"]
    nested = []
    for item in fields(cls):
        default = item.default if item.default is not MISSING else None
        made = item.default_factory() if item.default_factory is not MISSING else default
        if is_dataclass(made):
            nested += tables(type(made), f"{prefix}{item.name}.")
            continue
        text = " ".join(documented.get(item.name, "").split()).replace("|", "\\|")
        rows.append(f"| `{prefix}{item.name}` | {shown_default(item)} | {text} |")
    return [*(rows if len(rows) > 3 else []), *nested]
