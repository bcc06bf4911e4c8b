"""Fills the reference pages at build time from what the program itself says."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

COMMANDS = ("", "demo", "train", "eval", "report", "convert", "bench", "bench step")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the two markers; called by mkdocs for every page."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    if "<!-- configuration -->" in markdown:
        markdown = markdown.replace("<!-- configuration -->", configuration())
    return markdown


def commands() -> str:
    """`--help` of every command."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    sections = []
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "saeforge", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        title = f"saeforge {command}".strip()
        sections.append(f"## {title}\n\n```text\n{done.stdout.strip()}\n```\n")
    return "\n".join(sections)


def configuration() -> str:
    """A table per config dataclass: key, type, default and the text under the field."""
    from saeforge.config import EvalConfig, RunConfig
    from saeforge.dictionary.registry import ARCHS

    parts = ["## A run (`RUN.yaml`, `--set`)\n", *tables(RunConfig)]
    parts += ["\n## An evaluation\n", *tables(EvalConfig)]
    for name, architecture in ARCHS.items():
        parts += [f"\n## Architecture `{name}`\n", *tables(architecture.Config, required=True)]
    return "\n".join(parts)


def tables(cls: Any, prefix: str = "", *, required: bool = False) -> list[str]:
    from dataclasses import MISSING

    from saeforge.config import field_docs

    documented = field_docs(cls)
    rows = ["", "| key | default | meaning |", "|---|---|---|"]
    nested = []
    for item in fields(cls):
        default = item.default if item.default is not MISSING else None
        made = item.default_factory() if item.default_factory is not MISSING else default
        if is_dataclass(made):
            nested += tables(type(made), f"{prefix}{item.name}.")
            continue
        missing = item.default is MISSING and item.default_factory is MISSING
        shown = "required" if missing else f"`{made!r}`"
        text = " ".join(documented.get(item.name, "").split()).replace("|", "\\|")
        rows.append(f"| `{prefix}{item.name}` | {shown} | {text} |")
    return [*(rows if len(rows) > 3 else []), *nested]
