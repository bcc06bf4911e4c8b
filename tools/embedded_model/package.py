"""Writing the folder of the embedded model: weights, tokenizer, metrics, card."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from saeworks.errors import UserError
from saeworks.files.access import (
    replacing,
    sha256,
    write_json,
    write_text,
)

LARGEST_BYTES = 8 * 1024 * 1024
THRESHOLDS = {
    ("ioi", "accuracy"): 0.95,
    ("greater_than", "mass"): 0.9,
    ("agreement", "accuracy"): 0.97,
}
"""What the shipped weights must reach on held-out combinations."""


def write_folder(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    metrics: dict[str, Any],
) -> None:
    """Write weights (float32 safetensors), configuration, tokenizer, `metrics.json` and the card.

    `metrics` gains the SHA-256 of the weights. Raises UserError when the folder is too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        if size > LARGEST_BYTES:
            raise UserError(f"{out}: {size} bytes are more than {LARGEST_BYTES}: shrink the model")
        for file in sorted(Path(folder).iterdir()):
            with replacing(out / file.name) as temporary:
                temporary.write_bytes(file.read_bytes())
    metrics["weights_sha256"] = sha256(out / "model.safetensors")
    write_json(out / "metrics.json", metrics)
    write_text(out / "MODEL_CARD.md", card(metrics))


def missed(metrics: dict[str, Any]) -> list[str]:
    """The thresholds that the numbers do not reach, each as one line."""
    return [
        f"{task} {name}: {metrics[task][name]:.4f} is below {least}"
        for (task, name), least in THRESHOLDS.items()
        if metrics[task][name] < least
    ]


def card(metrics: dict[str, Any]) -> str:
    """The model card; every number in it comes from `metrics`."""
    model, training = metrics["model"], metrics["training"]
    entropy = metrics["cross_entropy"]
    ioi, greater, agreement = (metrics[task] for task in ("ioi", "greater_than", "agreement"))
    return f"""# The embedded language model of saeworks

A small Llama-style model, trained from scratch on documents of saeworks's own grammar
(`saeworks.embedded.documents`): stories, chronicles, descriptions, recipes and logs, every
token labelled with its concepts. It is made for studying sparse autoencoders offline, where the
ground truth is known. It knows nothing of real language and is of no other use.

| | |
|---|---|
| Parameters | {model["parameters"]:,} |
| Layers, width, heads, MLP width | {model["layers"]}, {model["width"]}, {model["heads"]}, \
{model["hidden"]} |
| Context, vocabulary | {model["context"]} tokens, {model["vocabulary"]} words |
| Weights | float32 safetensors, SHA-256 `{metrics["weights_sha256"]}` |
| Licence | Apache-2.0, as the package |

## Measured

Tasks on {ioi["prompts"]:,} prompts each, all on combinations of names, years or nouns that occur in
no training document. *Accuracy*: the clean answer's logit is above the patch answer's. *Likeliest*:
the likeliest of all words is a right answer. *Mass*: probability on all right answers.

| Task | Accuracy | Likeliest | Mass |
|---|---|---|---|
| Indirect object | {ioi["accuracy"]:.4f} | {ioi["top1"]:.4f} | {ioi["mass"]:.4f} |
| Greater-than | {greater["accuracy"]:.4f} | {greater["top1"]:.4f} | {greater["mass"]:.4f} |
| Subject–verb agreement | {agreement["accuracy"]:.4f} | {agreement["top1"]:.4f} | \
{agreement["mass"]:.4f} |

Of the probability on right years, the end years whose combination with the start was never seen
get {greater["held_out_mass_ratio"]:.3f} times their even share (1 = no trace of the hold-out).

Cross-entropy in nats per token on {entropy["documents"]:,} held-out documents
({entropy["tokens"]:,} tokens), beside n-grams (interpolated, Witten–Bell) fitted on the same
training tokens:

| Model | Trigram | Unigram |
|---|---|---|
| {entropy["model"]:.4f} | {entropy["trigram"]:.4f} | {entropy["unigram"]:.4f} |

## Made by

    {training["command"]}

seed {training["seed"]}, {training["tokens"]:,} tokens (every one seen once) in \
{training["steps"]:,} steps of {training["rows"]} × {model["context"]}, Muon (peak learning rate \
{training["lr"]:g}) for the blocks' matrices and AdamW for the rest, in {training["minutes"]:.1f} \
minutes with {training["threads"]} threads
({training["processor"]}, torch {training["torch"]}). {training["note"]}
Seeded; whether a second training gives the same bytes has not been checked.

## Tokenizer

Word level: a token is a word, a pair of digits (`1732` is `17` and `32`) or a sign, with the
space before it. `<|bos|>` stands before every document; words outside the grammar are `<|unk|>`.
"""
