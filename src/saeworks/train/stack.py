"""Training steps of several SAEs of one shape as one, on a GPU (`dictionary.stacked`)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saeworks.dictionary.base import SAE, Batch, Context, Trainable
from saeworks.dictionary.kernels import triton_runs
from saeworks.dictionary.stacked import Stack
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import Stepped


def alike(saes: Sequence[Trainable], optimisers: Sequence[DictionaryAdam]) -> list[list[int]]:
    """Places of the SAEs that can be stepped as one: those on a GPU whose class `stacks`, of one
    shape and with one setting of the optimiser. Each of the others is alone."""
    by_kind: dict[object, list[int]] = {}
    for place, (sae, adam) in enumerate(zip(saes, optimisers, strict=True)):
        kind: object = place
        if isinstance(sae, SAE) and sae.stacks and not sae.frozen and triton_runs(sae.w_enc):
            settings = (adam.lr, adam.betas, adam.eps, adam.clip, adam.exp_avg["w_enc"].dtype)
            kind = (type(sae), sae.d, sae.width, sae.dtype, settings)
        by_kind.setdefault(kind, []).append(place)
    return list(by_kind.values())


class StackedTraining:
    """SAEs that are `alike`, and their optimisers, which keep what is theirs: parameters, moments
    and counts of steps become views of stacked ones, so a checkpoint is that of SAEs stepped
    alone."""

    def __init__(self, saes: Sequence[SAE], optimisers: Sequence[DictionaryAdam]) -> None:
        self._stack, self._adam = Stack(saes), optimisers[0]
        self._moments: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
        for kind, together in self._moments.items():
            for name in self._stack.parameters:
                each = [getattr(optimiser, kind)[name] for optimiser in optimisers]
                together[name] = torch.stack(each)
                for optimiser, own in zip(optimisers, together[name].unbind(), strict=True):
                    getattr(optimiser, kind)[name] = own
        self._steps_S = torch.stack([optimiser.steps for optimiser in optimisers])
        for optimiser, own in zip(optimisers, self._steps_S.unbind(), strict=True):
            optimiser.steps = own

    def step(
        self, batches: Sequence[Batch], contexts: Sequence[Context], lr: float
    ) -> list[Stepped]:
        """`train_step` of each, on batches of as many rows, all with weights or all without."""
        batches = [batch.to(self._stack.parameters["w_enc"].dtype) for batch in batches]
        weights = [batch.weight for batch in batches if batch.weight is not None]
        dead = [context.dead for context in contexts]
        out = self._stack.step(
            torch.stack([batch.x for batch in batches]),
            torch.stack([batch.target for batch in batches]),
            torch.stack(weights) if weights else None,
            *(dead, contexts[0].precision),
        )
        out.total.backward()
        parameters, moments = self._stack.parameters, self._moments
        with torch.no_grad():
            norm_S = self._adam.step_on_gpu(
                parameters, moments["exp_avg"], moments["exp_avg_sq"], self._steps_S, lr
            )
        for parameter in parameters.values():
            parameter.grad = None
        return [
            Stepped(
                {name: t[i] for name, t in out.losses.items() if name != "auxk" or len(dead[i])},
                out.fired[i],
                {name: number[i] for name, number in out.stats.items()},
                norm_S[i],
            )
            for i in range(len(batches))
        ]
