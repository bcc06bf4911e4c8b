"""A task by its name or file."""

from pathlib import Path

from saeworks.embedded import TASKS
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.tasks.cases import Task
from saeworks.measure.tasks.embedded import grammar_task, reads_the_grammar
from saeworks.measure.tasks.generate import generated_task
from saeworks.measure.tasks.published import file_task


def task(name_or_path: str, lm: LanguageModel, prompts: int, seed: int) -> Task:
    """The prompts of a task, as ids of the model's tokenizer.

    Args:
        name_or_path: `ioi`, `greater_than`, `agreement`, or a .jsonl file.
        prompts: how many pairs are drawn, over all cases.
        seed: of the draws.

    Raises:
        UserError: if there is no such task or file, or it does not fit the tokenizer, with what
            does not.
    """
    if prompts < 1:
        raise UserError(f"prompts = {prompts}: at least 1")
    if name_or_path not in TASKS:
        return file_task(Path(name_or_path), lm, prompts, seed)
    make = grammar_task if reads_the_grammar(lm) else generated_task
    return make(name_or_path, lm, prompts, seed)
