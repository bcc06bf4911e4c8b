"""The report's one entrance: suites in, a folder that any browser opens from disk out."""

import re
import shutil
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import is_file, own_folder, replacing, write_text
from saeworks.report.page import Report, embedded_json, rendered, shared
from saeworks.report.pages import NAMES, made
from saeworks.report.suites import read_suites

_DATA_FILE = re.compile(
    r"(training-\d+|experts-\d+-\d+|latents-\d+-\d+(-(index-)?\d+)?|view(-\d+){4})\.js"
)
_UNFIT = (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, RecursionError)
"""What is left of files from outside that pass every check and still do not go together."""
FRAME = ("theme.js", "frame.js", "navigation.js")
"""Scripts of every page."""
OURS, BEGINNING = b'<meta name="generator" content="saeworks">', 1000
"""What a page of ours says in its first bytes."""


def write_report(suite_paths: Sequence[Path], out: Path) -> Path:
    """Write a static report of one suite, or of several side by side.

    Reads suite.json, metrics.jsonl and results/*.json of each suite; pages with nothing to say are
    left out. The report is `out/index.html` and the pages beside it, with `out/assets/` and
    `out/data/`; it needs no server and no network.

    Returns:
        The path of index.html.

    Raises:
        UserError: if a folder is no suite, a file in it is broken, or `out` cannot be written.
    """
    try:
        report = Report(read_suites([Path(path) for path in suite_paths]))
        pages = made(report)
        texts = rendered(report, pages)
        for_all = shared(report, pages)
    except _UNFIT as error:
        raise UserError(
            f"report: what {', '.join(map(str, suite_paths))} say cannot be drawn "
            f"({type(error).__name__}: {str(error)[:200]}); run `saeworks eval`, audit or compare "
            "again"
        ) from error
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder for the report")
    try:
        write_assets(out / "assets", dict.fromkeys(name for page in pages for name in page.scripts))
        _write_data(out / "data", chain([("report", for_all)], *(page.files for page in pages)))
        _clear(out)
        for name, text in texts.items():
            write_text(out / name, text)
    except OSError as error:
        raise UserError(f"could not write the report to {out}: {error.strerror or error}") from None
    return out / "index.html"


def _clear(out: Path) -> None:
    """Without the pages of an earlier report, which may have had more to say."""
    for file in (out / f"{name}.html" for name in NAMES):
        if is_file(file) and OURS in file.read_bytes()[:BEGINNING]:
            file.unlink()


def write_assets(folder: Path, scripts: Iterable[str]) -> None:
    """Write what a page loads beside it: the style, our scripts, plotly.

    Raises:
        UserError: if the folder cannot be written.
    """
    own_folder(folder.parent, folder.name)
    ours = files("saeworks.report") / "assets"
    for name in ("report.css", *FRAME, *scripts):
        _copy(ours / name, folder / name)
    _copy(files("plotly") / "package_data" / "plotly.min.js", folder / "plotly.min.js")


def _copy(source: Traversable, target: Path) -> None:
    with as_file(source) as real, replacing(target) as temporary:
        shutil.copyfile(real, temporary)


def _write_data(folder: Path, data: Iterable[tuple[str, Any]]) -> None:
    if own_folder(folder.parent, folder.name).is_dir():
        for old in folder.iterdir():  # of an earlier report with more sites
            if _DATA_FILE.fullmatch(old.name):
                old.unlink()
    for name, value in data:
        write_text(folder / f"{name}.js", f'saeworks.receive("{name}",{embedded_json(value)});\n')
