"""Gemma Scope (Lieberum et al. 2024), read: a folder per SAE, with `params.npz`.

Shapes there: W_enc [D, M], b_enc [M], threshold [M], W_dec [M, D], b_dec [D]; b_dec is not
subtracted from the input, and the threshold is no logarithm:

    z = x·W_enc + b_enc,  f = 1[z > threshold]·ReLU(z),  x̂ = f·W_dec + b_dec,

which is our `jumprelu`. The file says nothing more. A release's folders do:
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71` names the model and the place in it.
"""

import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saeworks.config import ModelConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.interop.base import Foreign
from saeworks.interop.tensors import built, check, jumprelu

WEIGHTS = "params.npz"

UNPACKED = 8
"""Weights are not compressed to an eighth of their size; what is, is made to fill the memory."""


def is_folder(path: Path) -> bool:
    """Whether it looks like one SAE of Gemma Scope."""
    return (path / WEIGHTS).is_file()


def load(folder: Path) -> Foreign:
    """The SAE of a folder, on raw activations, with what the folders' names say.

    Raises:
        UserError: if the file is unreadable, a tensor is missing, too many, ill-shaped, not of
            floats, or not finite, or the folders' names say that it is a transcoder or an SAE of
            the embeddings.
    """
    model, hook = _named(Path(os.path.abspath(folder)).parts, folder)
    return Foreign(
        folder,
        _read(folder / WEIGHTS),
        variant="gemma-scope-jumprelu",
        model=model,
        hook=hook,
        is_site=True,
    )


def _named(parts: Sequence[str], folder: Path) -> tuple[ModelConfig | None, str | None]:
    """The language model and the site, each None where the names do not say."""
    release = _last(r"(?:.*--)?gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)", parts)
    layer = _last(r"layer_(\d{1,5})", parts)
    if release and release[3] == "transcoders":
        raise UserError(f"{folder} is a transcoder, as {release[0]} says; it is no SAE")
    if _last(r"embedding", parts[-3:]):
        raise UserError(
            f"{folder} is of the embeddings, which implementations of Gemma scale in different "
            "places; give an SAE of a layer"
        )
    if not release:
        return None, None
    name = f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
    return ModelConfig(name=name), _SITES[release[3]].format(layer[1]) if layer else None


def _last(pattern: str, parts: Sequence[str]) -> re.Match[str] | None:
    """The match of the innermost folder that has one."""
    return next((m for part in reversed(parts) if (m := re.fullmatch(pattern, part))), None)


_SITES = {"res": "{}@resid", "mlp": "{}@mlp", "att": "layers.{}.self_attn.o_proj@in"}
"""The residual stream after a block; what the MLP adds to it, after its norm; the attention heads'
outputs before W_O (Lieberum et al. 2024)."""


def _read(file: Path) -> SAE:
    tensors = _tensors(file)
    shape = tuple(tensors["W_enc"].shape) if "W_enc" in tensors else (1, 1)
    if len(shape) != 2 or min(shape) < 1:
        raise UserError(f"{file}: W_enc is of shape {list(shape)}; it must be [D, M]")
    d, m = shape
    shapes = {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,), "b_enc": (m,), "threshold": (m,)}
    check(file, tensors, shapes, "a Gemma Scope", f"W_enc of shape {[d, m]} makes it")
    return built("jumprelu", d, {"width": m, "subtract_b_dec": False}, jumprelu(tensors))


def _tensors(file: Path) -> dict[str, Tensor]:
    """The file's arrays in float32, W_enc and W_dec also where they are w_enc and w_dec.

    Raises:
        UserError: if it is no archive of arrays of floats, or claims more than it holds.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive of arrays")
            assert archive.zip is not None  # it is until the archive is closed
            for problem in _problems(archive.zip, file.stat().st_size):
                raise UserError(f"{file}: {problem}")
            with np.errstate(over="ignore"):  # to infinity, which is refused
                arrays = {name: np.asarray(archive[name], np.float32) for name in archive.files}
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file} is not a readable npz file ({reason}); load it anew") from error
    return {
        re.sub(r"^w_", "W_", name): torch.from_numpy(np.ascontiguousarray(array))
        for name, array in arrays.items()
    }


_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise of files that are none of theirs."""


def _problems(archive: zipfile.ZipFile, size: int) -> Iterator[str]:
    """What the headers say that must not be loaded: checked before any array has memory."""
    members = archive.infolist()
    if len({m.filename.lower() for m in members}) < len(members):
        yield "has several arrays of one name"
    if sum(m.file_size for m in members) > UNPACKED * size:
        yield f"unpacks to more than {UNPACKED} times its size, which arrays of floats do not"
    for member in members:
        name = member.filename.removesuffix(".npy")[:80]
        with archive.open(member) as stream:
            start = stream.read(len(_MAGIC) + 2)
            length = int.from_bytes(start[-2:], "little")
            header = _HEADER.fullmatch(stream.read(length)) if start[:-2] == _MAGIC else None
            if header is None:
                yield f"{name!r} is not an array of floats in version 1.0 of the npy format"
                return
            values = math.prod(int(size) for size in header[2].split(b",") if size.strip())
            if values * int(header[1]) != member.file_size - stream.tell():
                yield f"{name!r} holds another number of values than its shape says"


_MAGIC = b"\x93NUMPY\x01\x00"

_HEADER = re.compile(
    rb"\{'descr': '[<>]f([248])', 'fortran_order': (?:True|False), "
    rb"'shape': \(((?:\d{1,10}, ?){0,8}(?:\d{1,10})?)\), \}\s*"
)
"""All that numpy is let to read: it parses headers as Python."""
