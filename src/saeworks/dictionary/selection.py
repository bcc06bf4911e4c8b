"""Which latents are active: selection of pre-activations per token, without gradients.

Encoder and selection run over tiles of tokens, so that pre-activations [B, M] never exist whole.
Per token the K largest (`select_topk`), or all above a floor (`select_above`); the B·k largest of a
batch are in `batch_selection`.

With precision `bf16` the matmul over all latents has bf16 inputs and finds candidates only, some
more than are wanted. Their pre-activations are computed again in float32, and what is selected is
selected by those: where two latents differ by less than a rounding, either may be taken. Float64
stays float64 throughout.

Shapes: B tokens, t tokens of a tile, D model width, M latents, K active latents per token, C
candidates, nnz pairs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from saeworks.dictionary.kernels import gather_dot, triton_runs
from saeworks.dictionary.stages import stage

Precision = Literal["float32", "bf16"]
"""Of the matmul that finds which latents may be active. Values are float32 either way."""

GROUP = 8
"""Latents whose maximum is looked at before they are."""
PROBE_ROWS = 64
"""Rows of a batch that are encoded beforehand, to guess how many latents are above a floor."""
ROUNDING = 2.0**-8
"""Largest relative error of rounding to bf16."""
DEVIATIONS = 8
"""Of the rounding errors of x and W_enc, how many are left below a floor: `slack`."""
_WORTH = 32  # measured: from 32 latents per winner two rounds take 0.4 to 0.7 of one round's time
_TILE_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Rounded:
    """W in bf16, and max_m‖w_m‖₄ of W itself."""

    w: Tensor
    largest: Tensor

    @classmethod
    def of(cls, weight_MD: Float[Tensor, "M D"]) -> "Rounded":
        return cls(weight_MD.bfloat16(), _norm4(weight_MD).amax())


def candidate_margin(k: int) -> int:
    """Candidates beyond k. A pre-activation's rounding error is about a hundredth of the distance
    between the k-th and the (k + 8)-th at M = 24,576: docs/notes/numerics.md."""
    return max(8, k // 4)


def in_bf16(x_BD: Tensor, precision: Precision) -> bool:
    """Whether candidates are looked for in bf16."""
    return precision == "bf16" and x_BD.dtype == torch.float32


def tile_rows(x_BD: Float[Tensor, "B D"], width: int) -> int:
    """Tokens whose pre-activations are in memory at a time."""
    budget = _TILE_BYTES.get(x_BD.device.type, 2**28)
    return max(1, budget // (width * x_BD.element_size()))


def padded_width(width: int, k: int, device: torch.device) -> int:
    """Columns of the buffer that `topk_rows` wants: more than `width` where it works in groups.

    The columns beyond `width` must hold −∞.
    """
    in_groups = device.type == "cpu" and width >= _WORTH * k
    return -(-width // GROUP) * GROUP if in_groups else width


def topk_rows(
    pre_tM: Float[Tensor, "t M"], k: int
) -> tuple[Float[Tensor, "t K"], Int[Tensor, "t K"]]:
    """The k largest of each row, in no particular order; ties fall the same way every time.

    In rounds: the row's C = M/8 columns of latents m, m + C, m + 2C, … are ranked by their maxima;
    the k largest values lie in the k best columns, since each better column has a value that is at
    least as large. The best columns are found the same way. Maxima vectorise where a heap does not.
    """
    rows, width = pre_tM.shape
    if pre_tM.device.type != "cpu" or width % GROUP or width < _WORTH * k:
        values, indices = pre_tM.topk(k, dim=1, sorted=False)
        return values, indices
    columns = width // GROUP
    maxima_tC = pre_tM.view(rows, GROUP, columns).amax(1)
    best_tK1 = topk_rows(maxima_tC, k)[1].unsqueeze(2)
    members = torch.arange(0, width, columns, device=pre_tM.device)
    candidates = (best_tK1 + members).view(rows, k * GROUP)
    values, places = pre_tM.gather(1, candidates).topk(k, dim=1, sorted=False)
    return values, candidates.gather(1, places)


@torch.no_grad()
def candidates(
    x_BD: Float[Tensor, "B D"],
    weight_MD: Float[Tensor, "M D"],
    bias_M: Float[Tensor, " M"],
    k: int,
    margin: int,
    precision: Precision,
) -> Int[Tensor, "B C"]:
    """The k + margin latents of each token (all M, where that is fewer) whose Wx + b is largest
    when it is computed in a precision; in no particular order."""
    if in_bf16(x_BD, precision):
        x_BD, weight_MD, bias_M = x_BD.bfloat16(), weight_MD.bfloat16(), bias_M.bfloat16()
    return _largest(x_BD, weight_MD, bias_M, min(k + margin, len(weight_MD)))[1]


def select_topk(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    b_dec_D: Float[Tensor, " D"],
    k: int,
    precision: Precision = "float32",
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Values and latents of TopK_k(ReLU(W_enc(x − b_dec) + b_enc)), without gradients."""
    shifted_BD = x_BD - b_dec_D
    if in_bf16(x_BD, precision) and k + candidate_margin(k) < len(w_enc_MD):
        near_BC = candidates(shifted_BD, w_enc_MD, b_enc_M, k, candidate_margin(k), precision)
        with stage("rescore"):
            z_BC = gather_dot(shifted_BD, w_enc_MD, near_BC).add_(b_enc_M[near_BC])
            z_BK, place_BK = z_BC.topk(k, dim=1, sorted=False)
            return z_BK.relu_(), near_BC.gather(1, place_BK)
    z_BK, latent_BK = _largest(shifted_BD, w_enc_MD, b_enc_M, k)
    return z_BK.relu_(), latent_BK


def select_above(
    x_BD: Float[Tensor, "B D"],
    w_enc_MD: Float[Tensor, "M D"],
    b_enc_M: Float[Tensor, " M"],
    floor: Float[Tensor, "*latents"],
    b_dec_D: Float[Tensor, " D"] | None = None,
    precision: Precision = "float32",
    rounded: Rounded | None = None,
) -> tuple[Float[Tensor, " nnz"], Int[Tensor, " nnz"], Int[Tensor, " rows_plus_1"]]:
    """z, latent and offsets of every pair with z > floor or z = NaN (which must not look like a
    latent that is off), without gradients, over tiles of tokens in one reused buffer.

    Args:
        rounded: of w_enc, where it is known already.
    """
    rows, width = x_BD.shape[0], w_enc_MD.shape[0]
    shifted_BD = x_BD if b_dec_D is None else x_BD - b_dec_D
    if in_bf16(x_BD, precision):
        with stage("cast"):
            rounded = rounded or Rounded.of(w_enc_MD)
        return _above_in_bf16(shifted_BD, w_enc_MD, rounded, b_enc_M, floor)
    tile = tile_rows(x_BD, width)
    pre_tP = _buffer(x_BD, min(tile, rows), width, 1)
    values, latents, counts = [], [], [torch.zeros(1, dtype=torch.int64, device=x_BD.device)]
    for x_tD in torch.split(shifted_BD, tile):
        pre = pre_tP[: len(x_tD)]
        with stage("encoder"):
            torch.addmm(b_enc_M, x_tD, w_enc_MD.T, out=pre[:, :width])
        with stage("select"):
            row, latent, count = _above(pre, width, floor)
            values.append(pre[row, latent])
            latents.append(latent)
            counts.append(count)
    return torch.cat(values), torch.cat(latents), torch.cat(counts).cumsum(0)


def slack(x_BD: Float[Tensor, "B D"], largest: Float[Tensor, ""]) -> Float[Tensor, "B 1"]:
    """How far below its float32 value a Wx with inputs in bf16 may be.

    Each of the D products has two independent relative errors of at most 2⁻⁸, so the sum's
    deviation is at most √2 · 2⁻⁸ √(Σ_i x_i² w_i²) ≤ √2 · 2⁻⁸ ‖x‖₄‖w‖₄ (less than half of it, for
    errors spread evenly). The slack is eight times 2⁻⁸ ‖x‖₄ max_m‖w_m‖₄.

    Args:
        largest: max_m‖w_m‖₄.
    """
    below_B: Tensor = DEVIATIONS * ROUNDING * largest * _norm4(x_BD)
    return below_B.unsqueeze(1)


def keep_pairs(offsets: Int[Tensor, " rows_plus_1"], keep: Tensor) -> Int[Tensor, " rows_plus_1"]:
    """The offsets that remain of compressed rows when only the pairs in the mask stay."""
    return pad(keep.cumsum(0), (1, 0))[offsets]


def _largest(x_BD: Tensor, weight_MD: Tensor, bias_M: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places of the k largest Wx + b of each row, over tiles of rows in one reused
    buffer, in the precision of the inputs; on a GPU without a buffer."""
    if triton_runs(x_BD):
        from saeworks.dictionary.triton.select import encoder_topk

        with stage("encoder"):
            return encoder_topk(x_BD, weight_MD, bias_M, k)
    rows, width = x_BD.shape[0], weight_MD.shape[0]
    values = x_BD.new_empty(rows, k)
    indices = torch.empty(rows, k, dtype=torch.int64, device=x_BD.device)
    tile = max(1, min(rows, tile_rows(x_BD, width)))
    pre_tP = _buffer(x_BD, tile, width, k)
    for start in range(0, rows, tile):
        end = min(start + tile, rows)
        pre = pre_tP[: end - start]
        with stage("encoder"):
            torch.addmm(bias_M, x_BD[start:end], weight_MD.T, out=pre[:, :width])
        with stage("topk"):
            values[start:end], indices[start:end] = topk_rows(pre, k)
    return values, indices


def _above_in_bf16(
    x_BD: Tensor, weight_MD: Tensor, rounded: Rounded, bias_M: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`select_above`, of candidates with z − floor above minus the slack in bf16.

    The floor is part of the bias, so that what is compared is near 0, where bf16 is fine.
    """
    width = weight_MD.shape[0]
    with stage("cast"):
        over_M = bias_M - floor
        over_M = (over_M + 2 * ROUNDING * over_M.abs()).bfloat16()
        below_B1 = slack(x_BD, rounded.largest).neg_().bfloat16()
    w_MD = rounded.w
    tile = tile_rows(w_MD, width)
    pre_tP = _buffer(w_MD, min(tile, len(x_BD)), width, 1)
    values, latents, counts = [], [], [torch.zeros(1, dtype=torch.int64, device=x_BD.device)]
    tiles = zip(torch.split(x_BD, tile), torch.split(below_B1, tile), strict=True)
    for x_tD, below_t1 in tiles:
        pre = pre_tP[: len(x_tD)]
        with stage("encoder"):
            torch.addmm(over_M, x_tD.bfloat16(), w_MD.T, out=pre[:, :width])
        with stage("select"):
            _, latent, count = _above(pre, width, below_t1)
            offsets = pad(count.cumsum(0), (1, 0))
        with stage("rescore"):
            z = gather_dot(x_tD, weight_MD, latent, offsets).add_(bias_M[latent])
            above = (z <= (floor if floor.dim() == 0 else floor[latent])).logical_not_()
            values.append(z[above])
            latents.append(latent[above])
            counts.append(keep_pairs(offsets, above).diff())
    return torch.cat(values), torch.cat(latents), torch.cat(counts).cumsum(0)


def _norm4(rows_ND: Tensor) -> Tensor:
    """‖row‖₄; torch's own calls pow and takes far longer."""
    norm_N: Tensor = torch.linalg.vector_norm(rows_ND.square(), dim=1)
    return norm_N.sqrt_()


def _buffer(like: Tensor, rows: int, width: int, k: int) -> Tensor:
    """Room for a tile of pre-activations, −∞ in the columns beyond the width."""
    pre_tP = like.new_empty(rows, padded_width(width, k, like.device))
    pre_tP[:, width:] = -torch.inf
    return pre_tP


def _above(pre_tP: Tensor, width: int, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and latent of every place that is above the floor or NaN, and how many each row has.

    Columns of latents whose maximum is above come first, as in `topk_rows`; all places are looked
    at only where that would not save much.

    Args:
        floor: of all, of each latent [M], or of each row [t, 1].
    """
    rows, padded = pre_tP.shape
    per_latent = floor.dim() == 1
    if pre_tP.device.type == "cpu" and padded % GROUP == 0:
        columns = padded // GROUP
        lowest = floor
        if per_latent:
            lowest = pad(floor, (0, padded - width), value=torch.inf).view(GROUP, columns).amin(0)
        maxima_tC = pre_tP.view(rows, GROUP, columns).amax(1)
        near = (maxima_tC <= lowest).logical_not_().view(-1).nonzero()
        if near.numel() * GROUP < pre_tP.numel() / 2:
            row = near.div(columns, rounding_mode="floor")
            latent = near - row * columns + torch.arange(0, padded, columns)
            here = floor[row.squeeze(1)] if floor.dim() == 2 else floor
            if per_latent:
                here = pad(floor, (0, padded - width), value=torch.inf)[latent]
            kept = (pre_tP[row, latent] <= here).logical_not_() & (latent < width)
            place = (row * padded + latent)[kept].sort().values
            row = place.div(padded, rounding_mode="floor")
            latent = place - row * padded
            return row, latent, _counts(row, rows)
    place = (pre_tP[:, :width] <= floor).logical_not_().view(-1).nonzero().squeeze(1)
    row = place.div(width, rounding_mode="floor")
    return row, place - row * width, _counts(row, rows)


def _counts(row: Tensor, rows: int) -> Tensor:
    """How many there are of each row; ascending rows."""
    return torch.searchsorted(row, torch.arange(rows + 1, device=row.device)).diff()
