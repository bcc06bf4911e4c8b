"""Banks (site → SAE on that site's raw activations): what evaluations check before they run."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeworks.dictionary.base import SAE, SparseCode
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick

Bank = Mapping[str, SAE]

LM_TOKENS = 8192
"""Tokens per forward pass of the language model where no logits are kept."""
_LOGITS = 2**26
"""Logits of one batch, elements; two such batches are in memory at once."""
_ACTIVATIONS = 2**22
"""Elements of an SAE's pre-activations in memory at once,"""
_ROWS = 256
"""but never fewer rows than this, so that its weights are not read for a handful of tokens."""
_DOUBLES, _LEAST = 2**20, 1024


def sites_of(banks: Mapping[str, Bank], lm: LanguageModel) -> list[str]:
    """Every site of the banks, in the model's order.

    Raises:
        UserError: if there is none, the model has no such site, or an SAE is of another width.
    """
    for name, bank in banks.items():
        if not bank:
            raise UserError(f"{name} has no SAE to evaluate; train it first with `saeworks train`")
        for site, sae in bank.items():
            if lm.sites([site]) != [site]:
                raise UserError(f"{name}: site {site!r} is not a module of {lm.name}")
            width = lm.width(site)
            if sae.d != width:
                raise UserError(
                    f"{name}: the SAE of site {site} is for activations of width {sae.d}, but that "
                    f"site of {lm.name} has {width}; evaluate it on the model it was trained on"
                )
    wanted = {site for bank in banks.values() for site in bank}
    if not wanted:
        raise UserError("there is no suite to evaluate; name at least one")
    return lm.sites(sorted(wanted))


def widest(banks: Mapping[str, Bank]) -> int:
    """The number of latents of the widest SAE."""
    return max((sae.width for bank in banks.values() for sae in bank.values()), default=0)


def logit_batch(lm: LanguageModel) -> int:
    """Tokens per forward pass of the language model where logits are kept."""
    return max(1, min(LM_TOKENS, _LOGITS // lm.vocabulary))


def kept_rows(
    x_BTD: Float[Tensor, "B T D"], keep_BT: Bool[Tensor, "B T"], site: str, batch: int
) -> Float[Tensor, "rows D"]:
    """The activations of the kept positions, in float32.

    Raises:
        UserError: if one of them is NaN or infinite.
    """
    rows_ND = x_BTD[keep_BT].float()
    if not torch.isfinite(rows_ND).all():
        raise UserError(
            f"site {site}: NaN or infinity in the activations of held-out batch {batch}; "
            "run the language model in float32, or leave that site out"
        )
    return rows_ND


def rows_at_once(width: int) -> int:
    """Rows that an SAE of that width encodes in bounded memory."""
    return max(_ROWS, _ACTIVATIONS // width)


def double_rows_at_once(d: int) -> int:
    """Rows in float64 at once: 8 MiB a matrix, which stays near the processor, but never so few
    that products are slow."""
    return max(_LEAST, _DOUBLES // d)


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows such that an SAE of that width needs bounded memory."""
    step = rows_at_once(width)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def reconstruct(sae: SAE, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Reconstruct many rows in bounded memory."""
    x_hat_ND = torch.empty_like(x_ND)
    for part in row_chunks(len(x_ND), sae.width):
        x_hat_ND[part] = sae.decode(sae.encode_sparse(x_ND[part])).to(x_ND.dtype)
    return x_hat_ND


def code_rows(code: SparseCode, at_n: Int[Tensor, " n"]) -> SparseCode:
    """The code of some of the rows, whose numbers ascend."""
    shape = (len(at_n),)
    if code.offsets is None:
        return SparseCode(code.indices[at_n], code.values[at_n], code.width, shape)
    counts_N = code.offsets.diff()
    kept_N = torch.zeros_like(counts_N, dtype=torch.bool)
    kept_N[at_n] = True
    pairs, offsets = kept_N.repeat_interleave(counts_N), code.offsets.new_zeros(len(at_n) + 1)
    offsets[1:] = counts_N[at_n].cumsum(0)
    return SparseCode(code.indices[pairs], code.values[pairs], code.width, shape, offsets)


def firing(
    code: SparseCode,
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Row, latent and activation (float64) of every strictly positive activation."""
    if code.offsets is None:
        rows, per_row = code.indices.shape
        owner = torch.arange(rows, device=code.indices.device).repeat_interleave(per_row)
    else:
        counts = code.offsets.diff()
        owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    indices, values = code.indices.flatten(), code.values.flatten()
    fires = values > 0
    return owner[fires], indices[fires], values[fires].double()


Visit = Callable[[str, Tensor, HeldOut], None]
"""Called with a site, the kept rows of its activations [rows, D], and the batch they are from."""


def for_each_site(
    lm: LanguageModel, sites: Sequence[str], held_out: HeldOut, visit: Visit, tick: Tick
) -> None:
    """One pass of the language model; each site's rows are visited as it computes them, so that
    one site's activations are in memory at a time."""
    for number, batch in enumerate(held_out.batches(LM_TOKENS, lm.device)):

        def observer(
            site: str, batch: HeldOut = batch, number: int = number
        ) -> Callable[..., None]:
            def observe(x_BTD: Tensor) -> None:
                visit(site, kept_rows(x_BTD, batch.keep_NT, site, number), batch)

            return observe

        lm.run(batch.tokens_NT, {site: observer(site) for site in sites})
        tick(batch.tokens_NT.numel())
