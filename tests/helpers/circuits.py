"""A task for the tiny Llama of `helpers/toys.py`, and SAEs for its sites."""

from collections.abc import Iterator

import torch
from torch import Tensor

from helpers.tiny_saes import TINY, name
from helpers.toys import VOCABULARY, tiny_llama
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.lm.model import LanguageModel
from saeworks.measure.circuits.passes import Passes
from saeworks.measure.circuits.prompts import Activations, CodedSite, Prompts, activations
from saeworks.measure.tasks.cases import Case, Task

SITES = ["layers.0", "layers.1"]


def toy_task(prompts: int = 9) -> Task:
    """Two cases of different lengths; every patched prompt has another third token."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for number, length in enumerate((5, 7)):
        clean_PT = torch.randint(1, VOCABULARY, (prompts, length), generator=generator)
        patch_PT = clean_PT.clone()
        patch_PT[:, 2] = (clean_PT[:, 2] + 7) % VOCABULARY
        answers_P = torch.randint(1, VOCABULARY - 1, (prompts,), generator=generator)
        cases.append(Case(f"case-{number}", clean_PT, patch_PT, answers_P, answers_P + 1))
    return Task("toy", tuple(cases), "random tokens")


def toy_prompts(prompts: int = 9) -> tuple[LanguageModel, Prompts]:
    lm = tiny_llama()
    return lm, Prompts.of(toy_task(prompts), lm)


def toy_activations(lm: LanguageModel, prompts: Prompts) -> dict[str, Activations]:
    return activations(lm, prompts, SITES, lambda done: None)


def toy_sae(arch: str, x: Activations, seed: int = 0) -> SAE:
    """An SAE of an architecture, as it is before training, on rows of a site."""
    sae = build_sae(name(arch), d=x.mean_GD.shape[1], **TINY[arch])
    rows_ND = x.clean_PTD.flatten(0, 1)
    sae.initialise(rows_ND, torch.Generator().manual_seed(seed))
    return sae.requires_grad_(False)


def toy_coded(arch: str, x: Activations) -> CodedSite:
    return CodedSite.of(toy_sae(arch, x), x)


class LinearPasses(Passes):
    """In the place of `Passes`: m = Σ_t x_t · w_t, at prompts that have been read."""

    def __init__(self, prompts: Prompts, w_TD: Tensor, clean_PTD: Tensor) -> None:
        self._w_TD = w_TD
        super().__init__(tiny_llama(), prompts, SITES[0], self.m(clean_PTD[None])[0])

    def m(self, x_VPTD: Tensor) -> Tensor:
        return (x_VPTD * self._w_TD).sum((-1, -2))

    def chunks(self, block: slice, variants: int) -> Iterator[range]:
        yield range(variants // 2)
        yield range(variants // 2, variants)

    def differences(self, block: slice, x_VPTD: Tensor) -> Tensor:
        return self.m(x_VPTD)
