"""The seams of every dictionary: SAE, SparseCode, Batch, Context, StepOut.

Shapes: B tokens, D model width, M latents, K active latents per token.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saeworks.dictionary.autograd import decode_sparse
from saeworks.dictionary.flops import Flops, Phase, StepWork
from saeworks.dictionary.selection import Precision
from saeworks.errors import UserError


@dataclass(frozen=True)
class SparseCode:
    """The active latents of every token, as compressed rows.

    With K active latents in every row (the fast case) `indices` and `values` are [B, K] and
    `offsets` is None; K slots may hold zeros. Otherwise they are [nnz], and row b is
    `offsets[b]:offsets[b + 1]`.

    Attributes:
        indices: latents, int64.
        values: their activations, in the precision of the SAE (`SAE.dtype`).
        width: M.
        shape: the leading shape of the tokens; its product is B.
        offsets: int64 [B + 1], or None.
    """

    indices: Int[Tensor, "*pairs"]
    values: Float[Tensor, "*pairs"]
    width: int
    shape: tuple[int, ...]
    offsets: Int[Tensor, " rows_plus_1"] | None = None

    def dense(self) -> Float[Tensor, "*tokens M"]:
        """f [..., M]: the code with its zeros; differentiable in the values."""
        rows = 1
        for size in self.shape:
            rows *= size
        f_BM = self.values.new_zeros(rows, self.width)
        if self.offsets is None:
            return f_BM.scatter_add(1, self.indices, self.values).view(*self.shape, self.width)
        counts = self.offsets.diff()
        row = torch.repeat_interleave(torch.arange(rows, device=counts.device), counts)
        f_BM = f_BM.index_put((row, self.indices), self.values, accumulate=True)
        return f_BM.view(*self.shape, self.width)


@dataclass(frozen=True)
class Batch:
    """What an SAE is trained on: rows in normalised units (mean 0, E‖x‖² = D per site), in the
    precision of the SAE.

    Attributes:
        x: the input.
        target: what x̂ is compared with; x itself for an SAE, another site for a transcoder.
        site: index of the site each row comes from, or None where all come from one.
        weight: of each row's squared error in the loss; None for 1.
        label: of the text that each row comes from, from 0; −1 where it is unknown.
    """

    x: Float[Tensor, "B D"]
    target: Float[Tensor, "B D"]
    site: Int[Tensor, " B"] | None = None
    weight: Float[Tensor, " B"] | None = None
    label: Int[Tensor, " B"] | None = None

    def to(self, dtype: torch.dtype) -> "Batch":
        """The same rows in another precision; this batch where they are in it already."""
        if self.x.dtype == self.target.dtype == dtype:
            return self
        x_BD = self.x.to(dtype)
        target_BD = x_BD if self.target is self.x else self.target.to(dtype)
        weight_B = None if self.weight is None else self.weight.to(dtype)
        return replace(self, x=x_BD, target=target_BD, weight=weight_B)


@dataclass(frozen=True)
class Context:
    """What the trainer knows and the SAE does not.

    Attributes:
        dead: latents that have not fired for a long time, ascending: a list and not a mask, so
            that a step never has to ask the device how many there are.
        progress: share of the run that is done, in [0, 1].
        precision: of the matmul that finds which latents may be active.
    """

    dead: Int[Tensor, " n"]
    progress: float
    precision: Precision = "float32"


@dataclass(frozen=True)
class StepOut:
    """One training step's forward pass.

    Attributes:
        loss_terms: scalars that are summed, coefficients included.
        x_hat: the reconstruction, in the graph.
        fired: latents with a strictly positive activation somewhere in the batch.
        stats: detached tensors for the log: always `fvu` (the batch's, over target variance) and
            `l0`.
        state: detached tensors that `after_step` needs.
    """

    loss_terms: dict[str, Float[Tensor, ""]]
    x_hat: Float[Tensor, "B D"]
    fired: Bool[Tensor, " M"]
    stats: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


class Trainable(nn.Module, ABC):
    """What a trainer steps: an SAE, or a map that is trained around one (`SiteAffine`).

    Classes are abstract or final, and no method that does something is overridden. `after_step` and
    `warning` do nothing here; all else in which subclasses differ is abstract, or an attribute that
    they set.

    Attributes:
        d: D, width of the activations.
        config: the options that it was built from.
        lr_scales: factors on the learning rate of single parameters; 1 for those not named. A
            pre-activation is of the order of √D where a weight is of the order of 1: Adam, which
            moves everything by the learning rate, moves a bias √D times too slowly unless told.
        phases: how many latents a run's steps will have active, for estimates of its cost; their
            shares add up to 1. Where nothing better is known, all M.
        work: the matrix products of a step; by default a dense encoder and one sparse
            reconstruction.
    """

    unit_norm: tuple[str, ...] = ()
    """Parameters whose rows the optimiser keeps at norm 1, and whose gradient loses its component
    along the row."""
    frozen: tuple[str, ...] = ()
    """Parameters that are not trained."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates in the architecture's paper; a run may choose others."""

    def __init__(self, d: int, config: Any) -> None:
        super().__init__()
        self.d = d
        self.config = config
        self.lr_scales: dict[str, float] = {}
        self.phases: tuple[Phase, ...] = (
            Phase(1.0, float(self.width), "all latents taken to be active"),
        )
        self.work = StepWork()

    @property
    @final
    def width(self) -> int:
        """M, the number of latents."""
        return int(self.config.width)

    @property
    @final
    def dtype(self) -> torch.dtype:
        """Precision of weights, codes and arithmetic: float32 or float64."""
        return next(self.parameters()).dtype

    @final
    def flops(self, active: float, rows: int) -> Flops:
        """Operations per token of a training step with so many active latents per token, in a
        batch of so many rows."""
        return self.work.flops(self.d, self.width, active, rows)

    @abstractmethod
    def initialise(self, x_BD: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Set every parameter, from the run's first normalised rows and a CPU generator."""

    @abstractmethod
    def step(self, batch: Batch, context: Context) -> StepOut:
        """The training forward: x̂ and the terms of the loss, fused where that is faster."""

    @abstractmethod
    def for_site(self, index: int) -> "SAE":
        """The SAE of one of the sites that it is trained on."""

    def after_step(self, state: dict[str, Tensor]) -> None:
        """Update what is not a gradient (thresholds, controllers, a router's bias) from the
        step's `StepOut.state`; the trainer alone calls it."""

    def warning(self, stats: Mapping[str, Any]) -> str | None:
        """What a user should be told, once, of a step with these statistics; None for nothing."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and the like do, but nothing goes below float32."""

        def precise(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            if out.dtype not in (torch.bfloat16, torch.float16):
                return out
            return tensor.to(out.device, torch.promote_types(tensor.dtype, torch.float32))

        super()._apply(precise, recurse)  # type: ignore[no-untyped-call]
        return self


FROZEN = {"none": (), "encoder": ("w_enc",), "decoder": ("w_dec",)}
"""The parameters that `Options.frozen` names."""


class SAE(Trainable):
    """A dictionary: encoder, decoder and a rule of sparsity.

    Parameters are named w_enc [M, D], b_enc [M], w_dec [M, D], b_dec [D]. Encoding a token never
    depends on the rest of its batch; `forward`, `step` and the losses change no state.

    Weights are float32 or float64, which is the precision of all arithmetic (`dtype`): casting an
    SAE to less leaves them in float32, and autocast does not reach it. Activations may be of any
    floating type, and are converted; codes and `decode` are in the SAE's precision, `forward`
    answers in that of its input. A token with a NaN has a NaN in its code and in its
    reconstruction, one with an infinity has no finite reconstruction, and other tokens have what
    they would have without it.

    Attributes:
        sites: how many sites it was made for; 1, unless `share` says otherwise.
    """

    Config: type[Any]
    """Frozen dataclass of the architecture's options; every one has `width`."""
    arch: str
    """The name in ARCHS."""
    per_latent: tuple[str, ...] = ("w_enc", "w_dec")
    """Parameters and buffers with a row, or a number, for every latent."""
    per_site: tuple[str, ...] = ()
    """Parameters and buffers that an SAE on a group has once for every site."""
    gate: str = ""
    """The bias that decides which latents are active, where each latent decides for itself: a
    lower one makes all codes sparser."""
    labels: int | None = None
    """How many labels rows may have (`Batch.label`), for an SAE that is trained on them."""
    stacks: tuple[str, ...] = ()
    """Encoder, its bias, decoder and its bias, by name, where several SAEs of one shape can be
    stepped as one: where the step is TopK, the decoder and AuxK, as `dictionary.stacked` computes
    it from the options k and aux_coefficient. Empty for all others."""

    w_enc: nn.Parameter
    w_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, d: int, config: Any) -> None:
        super().__init__(d, config)
        self.sites = 1
        self.frozen = FROZEN[getattr(config, "frozen", "none")]

    def __repr__(self) -> str:
        return described(type(self), self.d, self.config)

    @abstractmethod
    def encode_rows(self, x_BD: Float[Tensor, "B D"]) -> SparseCode:
        """The code of rows in the SAE's precision; differentiable in x and the parameters through
        its values. What `encode_sparse` calls."""

    @abstractmethod
    def folded(self, mean_D: Float[Tensor, " D"], scale: Float[Tensor, ""]) -> "SAE":
        """A copy on raw activations: folded(r) = scale · self((r − mean)/scale) + mean, with the
        same code."""

    @final
    def share(self, sites: int) -> None:
        """Have what is `per_site` once for each of so many sites: before the SAE is trained on a
        group, or a group's weights are loaded."""
        if sites > 1:
            self.sites = sites
            for name in self.per_site:
                tensor = self.state_dict()[name]
                _replace(self, name, tensor.expand(sites, *tensor.shape).clone())

    @final
    def for_site(self, index: int) -> "SAE":
        """The SAE as it is at one site of its group: a copy with what is `per_site`; itself where
        there is nothing of that kind."""
        if self.sites == 1 or not self.per_site:
            return self
        at_site = copy.deepcopy(self)
        at_site.sites = 1
        for name in self.per_site:
            _replace(at_site, name, self.state_dict()[name][index].clone())
        return at_site

    @final
    def rows(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "B D"]:
        """x as rows, in the SAE's precision.

        Raises:
            UserError: if x is not floating point, or not of width D.
        """
        if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != self.d:
            raise UserError(
                f"activations of shape {list(x.shape)} and type {x.dtype} do not fit this SAE; "
                f"give floating-point activations [..., {self.d}]"
            )
        return x.reshape(-1, self.d).to(self.dtype)

    @final
    def encode_sparse(self, x: Float[Tensor, "*tokens D"]) -> SparseCode:
        """The code of x, in the SAE's precision; differentiable in x and the parameters through its
        values.

        Raises:
            UserError: as `rows`, and if x is no tensor.
        """
        _check_tensor(x, "activations", self.d)
        with torch.autocast(x.device.type, enabled=False):
            return replace(self.encode_rows(self.rows(x)), shape=tuple(x.shape[:-1]))

    @final
    def decode(self, code: SparseCode | Float[Tensor, "*tokens M"]) -> Float[Tensor, "*tokens D"]:
        """x̂ = W_decᵀ f + b_dec, of a sparse or a dense code, in the SAE's precision.

        Raises:
            UserError: if the code is neither, or not of M latents.
        """
        if not isinstance(code, SparseCode):
            _check_tensor(code, "a code", self.width)
            if code.dim() == 0 or code.shape[-1] != self.width:
                raise UserError(
                    f"a code of shape {list(code.shape)} does not fit this SAE; give [..., "
                    f"{self.width}]"
                )
            with torch.autocast(code.device.type, enabled=False):
                return code.to(self.dtype) @ self.w_dec + self.b_dec
        values = code.values.to(self.dtype)
        x_hat_BD = decode_sparse(values, code.indices, self.w_dec, self.b_dec, code.offsets)
        return x_hat_BD.view(*code.shape, self.d)

    @final
    def encode(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens M"]:
        """f [..., M], dense: a convenience; `encode_sparse` is the fast one."""
        return self.encode_sparse(x).dense()

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """x̂ = decode(encode_sparse(x)), in the precision of x: ready to stand in its place."""
        return self.decode(self.encode_sparse(x)).to(x.dtype)


def _check_tensor(x: Any, what: str, width: int) -> None:
    if not isinstance(x, Tensor):
        raise UserError(
            f"{what} in a {type(x).__name__}; give a tensor [..., {width}] (torch.as_tensor makes "
            "one of lists and arrays)"
        )


def _replace(sae: SAE, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or a buffer of another shape."""
    owner, _, leaf = name.rpartition(".")
    module = sae.get_submodule(owner)
    is_parameter = leaf in dict(module.named_parameters(recurse=False))
    setattr(module, leaf, nn.Parameter(tensor) if is_parameter else tensor)


def described(architecture: type[SAE], d: int, config: Any) -> str:
    """An SAE's class, d, M and all else that it was given: `TopK(d=768, width=24576, k=32)`."""
    given = {"d": d}
    for option in fields(config):
        value = getattr(config, option.name)
        if option.default is MISSING or value != option.default:
            given[option.name] = value
    return f"{architecture.__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"
