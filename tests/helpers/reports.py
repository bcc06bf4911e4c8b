"""What tests read of a report: its pages' text and data, by name."""

import json
import re
from pathlib import Path
from typing import Any


def text_of(index: Path, name: str = "") -> str:
    """The HTML of a page; of all pages without a name."""
    pages = [index.with_name(f"{name}.html")] if name else sorted(index.parent.glob("*.html"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def data_of(index: Path, name: str = "") -> dict[str, Any]:
    """What the scripts of a page are given, with what all pages share; of all pages together
    without a name."""
    parts = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text_of(index, name), re.S
    )
    parts += re.findall(
        r'saeworks.receive\("report",(.*)\);', (index.parent / "data" / "report.js").read_text()
    )
    return {key: value for part in parts for key, value in json.loads(part).items()}


def pages_of(index: Path) -> set[str]:
    """The names of the pages."""
    return {page.stem for page in index.parent.glob("*.html")}
