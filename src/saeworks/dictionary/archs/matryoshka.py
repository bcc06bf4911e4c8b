"""The Matryoshka BatchTopK SAE (Bussmann et al. 2025, Learning Multi-Level Features with
Matryoshka Sparse Autoencoders)."""

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from saeworks.config import STRICT
from saeworks.dictionary.archs.batchtopk import BatchSelection
from saeworks.dictionary.autograd import decode_sparse
from saeworks.dictionary.base import Batch
from saeworks.dictionary.checks import check_coefficient, check_k, check_width
from saeworks.dictionary.losses import reconstruction
from saeworks.dictionary.options import Options
from saeworks.dictionary.preactivations import AtPairs
from saeworks.dictionary.selection import keep_pairs
from saeworks.dictionary.stages import stage
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class MatryoshkaConfig(Options):
    """Options of a Matryoshka SAE."""

    k: int
    """Active latents per token, on average."""
    sizes: tuple[int, ...] | None = None
    """Sizes of the nested prefixes, increasing to M; `null` for M/16, M/8, M/4, M/2, M."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead latents (Gao et al. 2024, A.2); 0 for none."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_k(self.k, self.width)
        check_coefficient("aux_coefficient", self.aux_coefficient)
        _check_sizes(self.sizes, self.width)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """m_1 < … < m_J = M."""
        if self.sizes is not None:
            return self.sizes
        return tuple(sorted({max(1, round(self.width / 2**j)) for j in range(5)}))


def _check_sizes(sizes: tuple[int, ...] | None, width: int) -> None:
    if sizes is None:
        return
    if not sizes or sizes[-1] != width or any(a >= b for a, b in pairwise((0, *sizes))):
        raise UserError(
            f"sizes = {list(sizes)}: nested sizes must be positive and increase to"
            f" width = {width}, such as [{max(1, width // 4)}, {width}]; or leave them out"
        )


@final
class Matryoshka(BatchSelection):
    """z, f and x̂ as BatchTopK's; x̂_j = Σ_{m < m_j} f_m W_dec,m + b_dec with nested prefixes
    m_1 < … < m_J = M, so that x̂ = x̂_J and the first latents learn what is most general.

    Loss: Σ_j mean‖x − x̂_j‖²/D (j = J is `reconstruction`, the others `nested`) +
    aux_coefficient · min(1, dead/(D/2)) · AuxK of the whole error. All prefixes share one
    selection. (Bussmann et al. 2025, Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders, §3.)
    """

    Config = MatryoshkaConfig
    arch = "matryoshka"

    def _reconstruct(
        self, batch: Batch, z: AtPairs
    ) -> tuple[Float[Tensor, "B D"], dict[str, Float[Tensor, ""]]]:
        """x̂_j = x̂_{j−1} + block j: every pair is decoded once, by the block it is in."""
        bounds = (0, *self.config.prefixes)
        blocks = torch.split(self.w_dec, [end - start for start, end in pairwise(bounds)])
        x_hat: Tensor = self.b_dec
        losses = []
        for start, w_mD in zip(bounds, blocks, strict=False):
            with stage("decode"):
                local = z.indices - start
                inside = (local >= 0) & (local < len(w_mD))
                place = inside.nonzero().squeeze(1)
                offsets = keep_pairs(z.offsets, inside)
                zero = torch.zeros_like(self.b_dec)
                block_BD = decode_sparse(z.z[place], local[place], w_mD, zero, offsets)
                x_hat = x_hat + block_BD
            with stage("loss"):
                losses.append(reconstruction(batch.target, x_hat, batch.weight))
        *nested, whole = losses
        terms = {"reconstruction": whole}
        if nested:
            terms["nested"] = torch.stack(nested).sum()
        return x_hat, terms
