"""The BatchTopK SAE (Bussmann et al. 2024, BatchTopK Sparse Autoencoders)."""

from typing import ClassVar, final

from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from saeworks.config import STRICT
from saeworks.dictionary.base import Batch
from saeworks.dictionary.batch_selection import BatchSelection
from saeworks.dictionary.checks import check_coefficient, check_k, check_width
from saeworks.dictionary.losses import reconstruction
from saeworks.dictionary.normaliser import fold
from saeworks.dictionary.preactivations import AtPairs
from saeworks.dictionary.stages import stage


@dataclass(frozen=True, config=STRICT)
class BatchTopKConfig:
    """Options of a BatchTopK SAE."""

    width: int
    """M, the number of latents."""
    k: int
    """Active latents per token, on average."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead latents (Gao et al. 2024, A.2); 0 for none."""

    def __post_init__(self) -> None:
        check_width(self.width)
        check_k(self.k, self.width)
        check_coefficient("aux_coefficient", self.aux_coefficient)


@final
class BatchTopK(BatchSelection):
    """z = ReLU(W_enc(x − b_dec) + b_enc),  x̂ = W_decᵀ f + b_dec; in training f keeps the B·k
    largest z of the batch, in inference f = z · 1[z > θ].

    Loss: mean‖x − x̂‖²/D + aux_coefficient · min(1, dead/(D/2)) · AuxK, as TopK's. Rows of W_dec
    have norm 1. (Bussmann et al. 2024, BatchTopK Sparse Autoencoders, §3.)
    """

    Config: ClassVar[type[BatchTopKConfig]] = BatchTopKConfig
    arch: ClassVar[str] = "batchtopk"

    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> "BatchTopK":
        """W_enc/s, W_dec·s, b_dec·s + μ, θ as it is: the same code from raw activations."""
        return fold(self, mean_D, scale)

    def _reconstruct(
        self, batch: Batch, z: AtPairs
    ) -> tuple[Float[Tensor, "B D"], dict[str, Float[Tensor, ""]]]:
        x_hat = z.decode(z.z, self.w_dec, self.b_dec)
        with stage("loss"):
            return x_hat, {"reconstruction": reconstruction(batch.target, x_hat, batch.weight)}
