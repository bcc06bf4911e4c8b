"""Evaluation of SAEs on rows that the caller has, without a language model.

Shapes: N tokens, D model width.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from saeworks.activations.base import finite
from saeworks.config import EvalConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.measure.audit.arrays import document_numbers
from saeworks.measure.banks import Bank, reconstruct, row_chunks
from saeworks.measure.engine import Measured
from saeworks.measure.held_out import HeldOut
from saeworks.measure.studies import reconstruction
from saeworks.measure.studies.outliers import Usual
from saeworks.measure.suites import described
from saeworks.results.result import Result
from saeworks.suite import Suite, load_suite

Rows = Tensor | NDArray[Any] | Sequence[Sequence[float] | Tensor]
BLOCK = 128
"""Neighbouring rows that count as a document where no documents are given."""
_CHUNK = 2**16


def evaluate(
    suite: Suite | str | Path,
    x: Rows | Mapping[str, Rows],
    documents: Tensor | NDArray[Any] | Sequence[int] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """FVU, MSE, cosine, L0, dead latents … of a suite's SAEs on activations of one's own: the
    numbers of `saeworks eval` that need no language model, with their intervals over documents.

    Of a suite that `sw.train` made, give the rows that it did not see:
    `sw.evaluate(suite, x[suite.held_out], documents[suite.held_out])`; their result is in the
    suite already, as `results/reconstruction.json`.

    Args:
        suite: or the path of one.
        x: raw activations [tokens, d] of its site; where it has several, a mapping from each to
            its activations of the same tokens.
        documents: of each token, any integers [tokens]; 128 neighbouring rows pass for one unless
            given.
        bootstrap: resamples of the documents behind each interval.
        seed: of the resamples.

    Returns:
        `result.sites[site]["fvu"].value`, `.low`, `.high`; `result.metrics` says what each is.

    Raises:
        UserError: if x is not that, or holds NaN or infinity, or is of another width than the SAE.
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    planes = planes_of(x, "evaluate", suite.sites)
    document_N = documents_of(documents, planes, "evaluate")
    config = EvalConfig(tokens=len(document_N), splice=False, bootstrap=bootstrap, seed=seed)
    result = measure(suite, planes, document_N, config).result
    assert isinstance(result, Result)
    return result


def measure(
    suite: Suite,
    planes: Mapping[str, Float[Tensor, "N _"]],
    document_N: Int[Tensor, " N"],
    config: EvalConfig,
) -> Measured:
    """The reconstruction of the rows, and its sums by document."""
    bank = suite.bank()
    _check_widths(bank, planes)
    held_out = HeldOut.of_rows(document_N)
    tallies = {site: _tally(sae, planes[site], held_out) for site, sae in bank.items()}
    (result,) = reconstruction.summarise({"": tallies}, {"": bank}, held_out, config).values()
    about = {"own": True, "model": dict(suite.meta["model"]), "text": dict(suite.meta["text"])}
    return Measured(described(result, about, suite), reconstruction.per_document(tallies))


class RowsProbe:
    """`probe(bank)` → site → held_out_fvu, on the same rows every time."""

    def __init__(self, planes: Mapping[str, Float[Tensor, "N _"]]) -> None:
        self._planes = planes

    @torch.no_grad()
    def __call__(self, bank: Bank) -> dict[str, dict[str, float]]:
        return {site: {"held_out_fvu": _fvu(sae, self._planes[site])} for site, sae in bank.items()}


def planes_of(
    x: Rows | Mapping[str, Rows], where: str, sites: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Site → its rows [N, D], as they are but detached; the site of one tensor alone is `x`, or the
    only one of `sites`.

    Raises:
        UserError: if they are no activations of the same tokens, at these sites if given.
    """
    if isinstance(x, Mapping):
        planes = {str(site): _tensor(rows, where) for site, rows in x.items()}
    elif sites is None or len(sites) == 1:
        planes = {sites[0] if sites else "x": _tensor(x, where)}
    else:
        planes = {}
    if not planes or (sites is not None and planes.keys() != set(sites)):
        raise UserError(
            f"{where}: x has {', '.join(planes) or 'no sites'}; give a mapping from site to "
            f"activations [tokens, d]{'' if sites is None else ' for ' + ', '.join(sites)}"
        )
    tokens = {len(plane) if plane.dim() else 0 for plane in planes.values()}
    for site, plane in planes.items():
        if plane.dim() != 2 or 0 in plane.shape or not plane.is_floating_point():
            raise UserError(
                f"{where}: x of {site} has shape {list(plane.shape)} and type {plane.dtype}; give "
                "floating-point activations [tokens, d]"
            )
        if len(tokens) > 1:
            raise UserError(
                f"{where}: sites have {' and '.join(f'{n}' for n in sorted(tokens))} tokens; give "
                "the same tokens at every site"
            )
        for start in range(0, len(plane), _CHUNK):
            rows = plane[start : start + _CHUNK]
            if not finite(rows.float()):
                bad = (~rows.float().isfinite()).any(1).nonzero().squeeze(1)
                raise UserError(
                    f"{where}: NaN or infinity in x of {site}, first in row {start + int(bad[0])}; "
                    "leave such tokens out"
                )
    return planes


def _tensor(x: Any, where: str) -> Tensor:
    try:
        return torch.as_tensor(x).detach()
    except (TypeError, ValueError, RuntimeError):
        several = isinstance(x, list | tuple) and all(isinstance(item, Tensor) for item in x)
        given = f"a list of {len(x)} tensors" if several else f"a {type(x).__name__}"
        way_out = "torch.cat joins those of several documents" if several else "or lists of rows"
        raise UserError(
            f"{where}: x is {given}; give one tensor or array [tokens, d] ({way_out})"
        ) from None


def documents_of(
    documents: Any, planes: Mapping[str, Float[Tensor, "N _"]], where: str
) -> Int[Tensor, " N"]:
    """The document of each row, numbered from 0 without gaps, on the CPU."""
    tokens = len(next(iter(planes.values())))
    if documents is None:
        return torch.arange(tokens) // BLOCK
    document_N: Tensor = document_numbers(documents, tokens, where).cpu()
    numbers: tuple[Tensor, Tensor] = torch.unique(document_N, return_inverse=True)
    return numbers[1]


def _check_widths(bank: Bank, planes: Mapping[str, Tensor]) -> None:
    for site, sae in bank.items():
        if planes[site].shape[1] != sae.d:
            raise UserError(
                f"evaluate: x of {site} has width {planes[site].shape[1]}, but its SAE is for "
                f"{sae.d}; give the activations of that site"
            )


@torch.no_grad()
def _tally(sae: SAE, x_ND: Tensor, held_out: HeldOut) -> reconstruction.SiteSums:
    sae = sae.to(x_ND.device)
    sums = reconstruction.SiteSums.empty(held_out.rows, sae.width, x_ND.device)
    mean_D, usual = _mean(x_ND), Usual.of(x_ND)
    row_N = held_out.row_NT[:, 0].to(x_ND.device)
    for part in row_chunks(len(x_ND), sae.width):
        rows_nD = x_ND[part].float()
        code = sae.encode_sparse(rows_nD)
        sums.add(code, rows_nD, sae.decode(code), mean_D, row_N[part], usual)
    return sums


def _fvu(sae: SAE, x_ND: Tensor) -> float:
    x_ND = x_ND.to(sae.b_dec.device)
    mean_D, error, variance = _mean(x_ND), 0.0, 0.0
    for rows_nD in torch.split(x_ND, _CHUNK):
        rows = rows_nD.double()
        error += float((rows - reconstruct(sae, rows_nD.float()).double()).square().sum())
        variance += float((rows - mean_D).square().sum())
    return error / variance if variance > 0 else math.nan


def _mean(x_ND: Tensor) -> Float[Tensor, " D"]:
    total_D = x_ND.new_zeros(x_ND.shape[1], dtype=torch.float64)
    for rows_nD in torch.split(x_ND, _CHUNK):
        total_D += rows_nD.double().sum(0)
    return total_D / len(x_ND)
