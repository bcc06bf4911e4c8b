"""The embedded grammar's tasks, for models with its tokenizer."""

from functools import lru_cache

from saeworks.embedded import MODEL_DIR, task_prompts
from saeworks.files.access import read_json
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Prompt, Task, task_of


def reads_the_grammar(lm: LanguageModel) -> bool:
    """Whether a model has the tokens of the embedded grammar, whatever its weights are."""
    vocabulary: dict[str, int] = getattr(lm.tokenizer, "get_vocab", dict)()
    return bool(vocabulary == _vocabulary())


@lru_cache
def _vocabulary() -> dict[str, int]:
    vocabulary: dict[str, int] = read_json(MODEL_DIR / "tokenizer.json")["model"]["vocab"]
    return vocabulary


def grammar_task(name: str, lm: LanguageModel, prompts: int, seed: int) -> Task:
    """A task of the grammar, on combinations of words that no training text holds."""
    drawn = [
        Prompt(
            prompt.clean_prefix,
            prompt.patch_prefix,
            prompt.clean_answer,
            prompt.patch_answer,
            prompt.case,
            f"embedded task {name}, prompt {number + 1}",
        )
        for number, prompt in enumerate(task_prompts(name, prompts, seed))
    ]
    return task_of(name, drawn, lm, "embedded")
