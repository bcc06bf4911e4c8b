"""The offline default: a grammar with known ground truth and a small language model trained on
it, whose weights ship with the package."""

from pathlib import Path
from typing import TYPE_CHECKING

from saeworks.embedded.concepts import CONCEPTS, Concept
from saeworks.embedded.draft import LabelledDocument
from saeworks.embedded.grammar import documents
from saeworks.embedded.tasks import TASKS, TaskPrompt, task_prompts

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = [
    "CONCEPTS",
    "MODEL_DIR",
    "TASKS",
    "Concept",
    "LabelledDocument",
    "TaskPrompt",
    "documents",
    "load",
    "task_prompts",
]

MODEL_DIR = Path(__file__).parent / "model"
"""A Hugging Face model folder: weights, tokenizer, MODEL_CARD.md, metrics.json."""


def load() -> "tuple[LlamaForCausalLM, PreTrainedTokenizerFast]":
    """The shipped model (float32, evaluation mode) and its tokenizer, from disk alone."""
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_DIR, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    model.train(False)
    return model, tokenizer
