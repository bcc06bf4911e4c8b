"""What the interchange formats share: an SAE from outside, the language model it is for, and
folders that appear whole or not at all."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from saeworks.config import ModelConfig, TextConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.files.access import is_plain_name
from saeworks.files.folders import make_ready, share, temporary_folder


@runtime_checkable
class Model(Protocol):
    """What a conversion asks of a language model; `saeworks.lm.model.LanguageModel` is one."""

    name: str
    revision: str | None
    fingerprint: str
    layers: int
    bos_id: int | None

    @property
    def prefix(self) -> str:
        """The base model's own name within the whole model (`gpt_neox`), or empty."""

    @property
    def source(self) -> str:
        """What Hugging Face's `from_pretrained` loads it from."""

    def sites(self, patterns: Sequence[str]) -> list[str]:
        """Canonical names of the sites that the patterns select, in model order."""

    def width(self, site: str) -> int:
        """D of a site."""


@dataclass(frozen=True)
class Foreign:
    """An SAE that was read from another library's files, on raw activations.

    Attributes:
        path: its folder.
        sae: ours, with the same code and reconstruction.
        variant: a name for the suite that it becomes; the suite's that it comes from, if any.
        model: the language model it was trained on, None where the files do not say.
        fingerprint: of that model, where the files say.
        hook: where in the model it belongs, by the other library's name.
        is_site: whether `hook` is a site of ours, as it stands.
        text: what it was trained on, None where the files do not say.
        seed: of the split into training and held-out documents.
        tokens: that it was trained on; 0 where the files do not say.
        norm_limits: site → norm above which tokens were left out of training, if any were.
        note: what a user should know before trusting its numbers here.
    """

    path: Path
    sae: SAE
    variant: str
    model: ModelConfig | None = None
    fingerprint: str | None = None
    hook: str | None = None
    is_site: bool = False
    text: TextConfig | None = None
    seed: int = 0
    tokens: int = 0
    norm_limits: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


def short_names(folders: Sequence[Path]) -> str:
    """The first folders, relative to what all of them are in, for a message."""
    common = os.path.commonpath([folder.parent for folder in folders])
    return ", ".join(os.path.relpath(folder, common) for folder in folders[:8])


def pickle_hint(folder: Path) -> str:
    """For a message: that the folder has a pickle, if it does."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix in {".pt", ".pth", ".bin", ".pkl"})
    return f" ({names[0]} is a pickle, which is never opened)" if names else ""


def check_new_folder(path: Path) -> None:
    """Before any work: refuse a destination that has something in it or cannot be written.

    Raises:
        UserError: if it is one.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} exists and is not a folder; choose another destination")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty; choose another destination or remove it first")
    make_ready(path.parent, "choose another destination")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that is renamed to it if the block ends well.

    Raises:
        UserError: if there is something at `path` already, or it cannot be written.
    """
    check_new_folder(path)
    try:
        with temporary_folder(path) as temporary:
            yield temporary
            share(temporary, 0o755)
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}; "
            "free some space or choose another destination"
        ) from error


def folder_name(site: str) -> str:
    """The site, if it can be a folder's name: nothing that leads elsewhere.

    Raises:
        UserError: if it cannot.
    """
    if not is_plain_name(site):
        raise UserError(f"site {site!r} is no folder's name; nothing was written")
    return site
