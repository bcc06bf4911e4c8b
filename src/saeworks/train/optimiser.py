"""Adam for dictionaries: projection, clip, update and renormalisation in two passes over memory."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saeworks.dictionary.base import Trainable
from saeworks.dictionary.kernels import triton_runs
from saeworks.dictionary.stages import stage
from saeworks.errors import UserError

_CHUNK_BYTES = 2**19
"""Bytes of a parameter per chunk on the CPU: with its gradient and both moments it stays in cache
from the first operation to the last. Small enough, too, for the allocator to reuse the chunk's
temporary: from 1 MiB on it asks the system for fresh pages, and the projection takes 2.5 times as
long."""


class DictionaryAdam:
    """Adam (Kingma & Ba 2015) on one SAE, keeping its `unit_norm` rows on the sphere.

    Each step: g ← g − (g·w)w for unit-norm rows; g ← g · min(1, clip/‖g‖) with ‖g‖ over all
    parameters (not at all for clip None); Adam, with the SAE's own `betas` unless given and its
    `lr_scales`; w ← w/‖w‖. What is `frozen` needs no gradient, and stays as it is. A step whose
    gradient norm is not finite is skipped (unit rows may be normalised once more); its norm is
    returned, so that the caller sees it.

    Args:
        moments: `bf16` keeps both moments in half the memory, rounded up or down by chance; the
            arithmetic is float32 all the same.
    """

    def __init__(
        self,
        sae: Trainable,
        lr: float,
        betas: tuple[float, float] | None = None,
        eps: float = 6.25e-10,
        clip: float | None = 0.01,
        moments: Literal["float32", "bf16"] = "float32",
    ) -> None:
        self.lr, self.eps = lr, eps
        self.betas = sae.betas if betas is None else betas
        self.clip = math.inf if clip is None else clip
        every = dict(sae.named_parameters())
        for name in sae.frozen:
            every[name].requires_grad_(False)
        self.parameters = {n: p for n, p in every.items() if n not in sae.frozen}
        self.unit_norm = frozenset(sae.unit_norm)
        self.lr_scales = sae.lr_scales
        kept = torch.bfloat16 if moments == "bf16" else None
        self.exp_avg = {n: torch.zeros_like(p, dtype=kept) for n, p in self.parameters.items()}
        self.exp_avg_sq = {n: torch.zeros_like(p, dtype=kept) for n, p in self.parameters.items()}
        device = next(iter(self.parameters.values())).device
        self.steps = torch.zeros((), device=device)

    @torch.no_grad()
    def step(self, lr: float | None = None) -> Float[Tensor, ""]:
        """Update the parameters from their gradients.

        Returns:
            The gradient's norm after the projection and before the clip.
        """
        lr = self.lr if lr is None else lr
        if triton_runs(next(iter(self.parameters.values()))):
            state = (self.exp_avg, self.exp_avg_sq, self.steps.view(1))
            return self.step_on_gpu(self.parameters, *state, lr).squeeze(0)
        with stage("projection"):
            norm = self._project()
        with stage("adam"):
            self._update(lr, norm)
        return norm

    def step_on_gpu(
        self,
        parameters: Mapping[str, Tensor],
        exp_avg: Mapping[str, Tensor],
        exp_avg_sq: Mapping[str, Tensor],
        steps_S: Float[Tensor, " S"],
        lr: float,
    ) -> Float[Tensor, " S"]:
        """`step`, of S SAEs' parameters that lie one after the other, in two launches for each
        name; the norm of each SAE's gradient."""
        from saeworks.dictionary.triton.adam import Trained, adam_step

        trained = [
            Trained(
                *(w.detach(), w.grad, exp_avg[name], exp_avg_sq[name]),
                lr=lr * self.lr_scales.get(name, 1.0),
                unit=name in self.unit_norm,
            )
            for name, w in parameters.items()
            if w.grad is not None
        ]
        with stage("adam"):
            return adam_step(trained, steps_S, self.betas, self.eps, self.clip)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The moments by parameter and the number of steps, as tensors."""
        state = {"steps": self.steps}
        for name in self.parameters:
            state[f"exp_avg.{name}"] = self.exp_avg[name]
            state[f"exp_avg_sq.{name}"] = self.exp_avg_sq[name]
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`, to the bit.

        Raises:
            UserError: if the state is of other parameters.
        """
        current = self.state_dict()
        if current.keys() != state.keys():
            wrong = ", ".join(sorted(current.keys() ^ state.keys()))
            raise UserError(f"optimiser state does not fit the SAE: {wrong}")
        for name, tensor in current.items():
            if tensor.shape != state[name].shape:
                raise UserError(
                    f"optimiser state {name} is {list(state[name].shape)} where the SAE needs"
                    f" {list(tensor.shape)}"
                )
            tensor.copy_(state[name])

    def _project(self) -> Tensor:
        """Take the parallel component out of unit-norm rows' gradients; the norm of all that is
        left."""
        norms = []
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            for w, g in _chunks(parameter, parameter.grad):
                if name in self.unit_norm:
                    g.addcmul_(w, (w * g).sum(1, keepdim=True), value=-1)
                norms.append(torch.linalg.vector_norm(g))
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def _update(self, lr: float, norm: Tensor) -> None:
        """Adam and the renormalisation, chunk by chunk. The fused kernel divides the gradient by
        `scale` as it reads it and does nothing where `skip` is 1, so neither the clip nor a bad
        gradient needs a pass or the host."""
        skip = norm.isfinite().logical_not().to(norm.dtype)
        scale = (norm / self.clip).clamp_min(1)
        self.steps += 1 - skip
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            tensors = (
                parameter,
                parameter.grad,
                self.exp_avg[name],
                self.exp_avg_sq[name],
            )
            for w, g, *kept in _chunks(*tensors):
                m, v = (moment.to(w.dtype) for moment in kept)
                torch._fused_adam_(
                    [w],
                    [g],
                    [m],
                    [v],
                    [],
                    [self.steps],
                    lr=lr * self.lr_scales.get(name, 1.0),
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    weight_decay=0.0,
                    eps=self.eps,
                    amsgrad=False,
                    maximize=False,
                    grad_scale=scale,
                    found_inf=skip,
                )
                if name in self.unit_norm:
                    w.div_(torch.linalg.vector_norm(w, dim=1, keepdim=True).clamp_min_(1e-12))
                if kept[0].dtype == torch.bfloat16:
                    for moment, new in zip(kept, (m, v), strict=True):
                        moment.copy_(rounded(new.float(), self.steps))


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each, as many as fit the cache; all of them on a GPU, where launches cost
    more."""
    first, *_ = tensors = tuple(tensor.detach() for tensor in tensors)
    if first.device.type != "cpu" or first.dim() < 2:
        yield tensors
        return
    rows = max(1, _CHUNK_BYTES // (first.shape[1] * first.element_size()))
    yield from zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


def rounded(x: Float[Tensor, "*of"], step: Float[Tensor, ""]) -> Float[Tensor, "*of"]:
    """float32 to bfloat16, up or down by chance, so that the mean is kept: with β₂ = 0.999 a
    second moment moves by a thousandth of itself in a step, and bfloat16 has steps of a
    hundred-twenty-eighth. The chance is a hash of the number and the step: no state, and the same
    on a GPU (`triton.adam`)."""
    bits = x.view(torch.int32)
    noise = (bits ^ (step.int() * -0x61C8864F)) * -0x7A143595
    noise = (noise ^ ((noise >> 15) & 0x1FFFF)) * -0x3D4D51CB
    bits = (bits + ((noise >> 16) & 0xFFFF)) & -0x10000
    return bits.view(torch.float32).bfloat16()
