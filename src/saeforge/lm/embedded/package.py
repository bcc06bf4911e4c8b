"""Writing the folder of the embedded model: weights, tokenizer, metrics, card."""

import json
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def write_folder(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Any,
    metrics: dict[str, Any],
    seconds: float,
    tokens: int,
) -> None:
    """Write everything; print the numbers."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    metrics["seconds"] = seconds
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
