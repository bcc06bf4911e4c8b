"""How well a model does a task, before anything of it is explained."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import logit_batch
from saeworks.measure.bootstrap import estimate
from saeworks.measure.tasks.cases import Case, Task
from saeworks.results.metric import Value

RESAMPLES = 1000


@dataclass(frozen=True)
class Skill:
    """What the untouched model does on a task's clean prompts, with intervals over prompts.

    Attributes:
        prompts: pairs.
        right: share with m > 0.
        mean: of m, in logits.
    """

    prompts: int
    right: Value
    mean: Value

    @property
    def record(self) -> dict[str, Any]:
        """The numbers, for a result's config."""
        return asdict(self)


def skill(lm: LanguageModel, task: Task, seed: int = 0) -> Skill:
    """m of every clean prompt, and what it comes to."""
    return skill_of(differences(lm, task), seed)


def skill_of(m_P: Float[np.ndarray, " P"], seed: int = 0) -> Skill:
    """The skill that differences of all prompts show."""
    columns = {"n": np.ones(len(m_P)), "right": (m_P > 0).astype(float), "m": m_P}
    values = estimate(
        columns,
        {"right": lambda s: s["right"] / s["n"], "mean": lambda s: s["m"] / s["n"]},
        RESAMPLES,
        seed,
    )
    return Skill(len(m_P), values["right"], values["mean"])


def differences(lm: LanguageModel, task: Task) -> Float[np.ndarray, " P"]:
    """m of the untouched model on the clean prompts, case after case."""
    return np.concatenate([case_differences(lm, case) for case in task.cases])


@torch.no_grad()
def case_differences(lm: LanguageModel, case: Case) -> Float[np.ndarray, " P"]:
    """m of the untouched model on the clean prompts of one case."""
    step = max(1, logit_batch(lm) // case.clean_PT.shape[1])
    logits = []
    for tokens_BT in torch.split(case.clean_PT, step):
        logits_BTV = lm.run(tokens_BT, logits=True)
        assert logits_BTV is not None
        logits.append(logits_BTV[:, -1].double())
    return Task.difference(torch.cat(logits), case).cpu().numpy()
