"""SAEs from and for other libraries: each format is one file, and one line in FORMATS."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import is_dir
from saeworks.interop.base import pickle_hint, short_names

FORMATS = {
    "sparsify": "saeworks.interop.sparsify",
    "gemma-scope": "saeworks.interop.gemma_scope",
    "saelens": "saeworks.interop.saelens",
}
"""Formats by name; each module has `is_folder` and `load`. The first that knows a folder reads it:
sparsify has a cfg.json too, which is all that some broken folder of SAELens may have."""

WRITTEN = ("saelens",)
"""Those whose module has `export`."""

DEPTH = 3
"""Folders below the one given, at most: Gemma Scope's are layer_20/width_16k/average_l0_71."""


def format_module(name: str) -> Any:
    """The module of a format.

    Raises:
        UserError: if there is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
    return import_module(FORMATS[name])


def find_foreign(path: Path) -> tuple[Any, list[Path]]:
    """The format of what is at `path`, and the folders of its SAEs: itself, or those in it that
    are least deep.

    Raises:
        UserError: if it holds no SAE of a known format, or SAEs of several.
    """
    if not is_dir(path):
        raise UserError(f"{path}: no such folder; give a folder of SAEs")
    modules = {name: format_module(name) for name in FORMATS}
    for folders in _levels(path):
        by_format: dict[str, list[Path]] = {}
        for folder in folders:
            name = next((n for n, module in modules.items() if module.is_folder(folder)), None)
            if name:
                by_format.setdefault(name, []).append(folder)
        if len(by_format) > 1:
            kinds = "; ".join(f"{name}: {short_names(of)}" for name, of in by_format.items())
            raise UserError(f"{path} holds SAEs of several formats ({kinds}); convert one by one")
        if by_format:
            name, of = by_format.popitem()
            return modules[name], of
    if (path / "suite.json").is_file():
        raise UserError(f"{path} is a suite already; convert it with --to {'|'.join(WRITTEN)}")
    raise UserError(
        f"{path} holds no SAE of a known format ({', '.join(FORMATS)}){pickle_hint(path)}"
    )


def _levels(path: Path) -> Iterator[list[Path]]:
    """The folder, those in it, those in them, and so on."""
    level = [path]
    for _ in range(DEPTH):
        yield level
        try:
            level = sorted(p for folder in level for p in folder.iterdir() if p.is_dir())
        except OSError as error:
            raise UserError(
                f"{path} could not be searched for SAEs: {error}; name the folder of one"
            ) from error
    yield level


def load_foreign(path: str | Path) -> SAE:
    """Load one SAE that another library saved: a folder of SAELens 6 (`standard`, `topk`,
    `jumprelu`, `gated`; `batchtopk` and Matryoshka in their threshold form), of EleutherAI's
    sparsify (`topk`), or of Gemma Scope (`params.npz`).

    The SAE is ours, on raw activations, with the same code and reconstruction. For a suite that
    can be evaluated and reported, use `saeworks convert`.

    Args:
        path: such as `"saes/layer_8"`.

    Raises:
        UserError: if it is no such folder, its config contradicts its tensors, or it computes
            what no architecture here does.
    """
    module, folders = find_foreign(Path(path))
    if len(folders) > 1:
        raise UserError(
            f"{path} holds {len(folders)} SAEs ({short_names(folders)}); name the folder of one"
        )
    sae: SAE = module.load(folders[0]).sae
    return sae
