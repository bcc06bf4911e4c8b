"""An evaluation's sums by document, kept beside its result.

Every metric is a ratio of such sums, so two suites that were evaluated on the same tokens are
compared afterwards, with one and the same resamples of the documents, without the language model.
Shapes: R documents, in the order of the held-out tokens, those without a counted token included.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saeworks.errors import UserError
from saeworks.files.access import read_tensors, sha256, write_tensors
from saeworks.files.seals import check_own
from saeworks.results.result import Result

PerDocument = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Site → sum → its part of each document [R]; the sum `n` counts the document's tokens."""

KEY = "sums"
"""Where a result's `config` has the SHA-256 of its sums."""


def sums_path(folder: Path, evaluation: str) -> Path:
    """The file of an evaluation's sums, beside its JSON."""
    return folder / f"{evaluation}.sums.safetensors"


def write_sums(folder: Path, evaluation: str, per_document: PerDocument) -> str:
    """Write `<site>/<sum>` → [R] in float64, atomically; returns the file's SHA-256."""
    tensors = {
        f"{site}/{name}": torch.from_numpy(
            np.array(column, np.float64)
        )  # a copy: sites may share a column
        for site, sums in per_document.items()
        for name, column in sums.items()
    }
    check_own(sums_path(folder, evaluation))
    return write_tensors(sums_path(folder, evaluation), tensors)


def read_sums(folder: Path, result: Result) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The sums that a result was computed from.

    Raises:
        UserError: if there are none, they are another evaluation's, or they are not one finite
            number per document.
    """
    path, recorded = sums_path(folder, result.evaluation), result.config.get(KEY)
    if not path.is_file() or not isinstance(recorded, str):
        raise UserError(
            f"{folder / result.evaluation}.json has no sums by document beside it "
            f"({path.name}): run `saeworks eval` on that suite again"
        )
    if sha256(path) != recorded:
        raise UserError(
            f"{path} does not belong to {result.evaluation}.json beside it: run `saeworks eval` "
            "on that suite again"
        )
    sites: dict[str, dict[str, NDArray[np.float64]]] = {}
    rows: set[tuple[int, ...]] = set()
    for key, tensor in read_tensors(path).items():
        site, _, name = key.rpartition("/")
        sites.setdefault(site, {})[name] = tensor.numpy()
        rows.add(tuple(tensor.shape))
        if tensor.dtype != torch.float64 or not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {key} is not finite float64; run `saeworks eval` again")
    if len(rows) > 1 or any(len(shape) != 1 for shape in rows):
        raise UserError(f"{path}: its sums are of different lengths; run `saeworks eval` again")
    return sites
