"""SAEs from and for other libraries: each format is one file, and one line in FORMATS."""

from importlib import import_module
from pathlib import Path
from typing import Any

from saeforge.dictionary.base import SAE
from saeforge.errors import UserError
from saeforge.interop.base import pickle_hint

FORMATS = {
    "saelens": "saeforge.interop.saelens",
}
"""Formats by name; each module has `is_folder`, `load` and `export`."""


def format_module(name: str) -> Any:
    """The module of a format.

    Raises:
        UserError: if there is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
    return import_module(FORMATS[name])


def find_foreign(path: Path) -> tuple[Any, list[Path]]:
    """The format of what is at `path`, and the folders of its SAEs: itself or those in it.

    Raises:
        UserError: if it holds no SAE of a known format.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a folder of SAEs")
    inside = sorted(p for p in path.iterdir() if p.is_dir())
    for name in FORMATS:
        module = format_module(name)
        for candidates in ([path], inside):
            found = [folder for folder in candidates if module.is_folder(folder)]
            if found:
                return module, found
    if (path / "suite.json").is_file():
        raise UserError(f"{path} is a suite already; convert it with --to {'|'.join(FORMATS)}")
    raise UserError(
        f"{path} holds no SAE of a known format ({', '.join(FORMATS)}){pickle_hint(path)}"
    )


def load_foreign(path: str | Path) -> SAE:
    """Load one SAE that another library saved: a folder of SAELens 6 (`standard`, `topk`,
    `jumprelu`, `gated`; `batchtopk` and Matryoshka in their threshold form).

    The SAE is ours, on raw activations, with the same code and reconstruction. For a suite that
    can be evaluated and reported, use `saeforge convert`.

    Args:
        path: such as `"saes/layer_8"`.

    Raises:
        UserError: if it is no such folder, its config contradicts its tensors, or it computes
            what no architecture here does.
    """
    module, folders = find_foreign(Path(path))
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders[:8])
        raise UserError(f"{path} holds {len(folders)} SAEs ({names}); name the folder of one")
    sae: SAE = module.load(folders[0]).sae
    return sae
