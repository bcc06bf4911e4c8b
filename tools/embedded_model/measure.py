"""What the model card states: task accuracies, cross-entropy, n-gram references."""

import re
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from saeworks.embedded.chance import is_held_out_years
from saeworks.embedded.grammar import documents
from saeworks.embedded.tasks import TASKS, TaskPrompt, task_prompts

TASK_PROMPTS = 2_000
HELD_OUT_SEED = 1_000_003
HELD_OUT_DOCUMENTS = 2_000


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    training_tokens: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """All numbers of the card; cross-entropies in nats per token."""
    held_out = held_out_rows(tokenizer, model.config.max_position_embeddings)
    unigram, trigram = ngram_cross_entropies(training_tokens, held_out, len(tokenizer))
    metrics: dict[str, Any] = {
        task: task_metrics(model, tokenizer, task_prompts(task, TASK_PROMPTS, seed + 7))
        for task in TASKS
    }
    metrics["greater_than"]["held_out_mass_ratio"] = held_out_mass_ratio(
        model, tokenizer, task_prompts("greater_than", TASK_PROMPTS, seed + 7)
    )
    metrics["cross_entropy"] = {
        "model": model_cross_entropy(model, held_out),
        "unigram": unigram,
        "trigram": trigram,
        "documents": len(held_out),
        "tokens": sum(len(row) - 1 for row in held_out),
    }
    return metrics


@torch.inference_mode()
def task_metrics(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[TaskPrompt],
) -> dict[str, float]:
    """`accuracy`: clean answer above patch answer; `top1`: the likeliest of all tokens is a valid
    answer; `mass`: probability on all valid answers; `logit_difference`: clean answer's minus patch
    answer's logit on the clean prompt, `patched_logit_difference` on the patched one."""
    ids = [tokenizer(prompt.clean_prefix)["input_ids"] for prompt in prompts]
    patch_ids = [tokenizer(prompt.patch_prefix)["input_ids"] for prompt in prompts]
    logits_PV, patch_logits_PV = (
        _last_logits(model, ids),
        _last_logits(model, patch_ids),
    )
    probabilities_PV = logits_PV.softmax(-1)
    rows = torch.arange(len(prompts))
    clean, patch = (
        torch.tensor(tokenizer.convert_tokens_to_ids([getattr(p, name) for p in prompts]))
        for name in ("clean_answer", "patch_answer")
    )
    valid_PV = torch.zeros_like(probabilities_PV)
    for row, prompt in enumerate(prompts):
        valid_PV[row, tokenizer.convert_tokens_to_ids(list(prompt.valid_answers))] = 1
    difference = logits_PV[rows, clean] - logits_PV[rows, patch]
    patch_difference = patch_logits_PV[rows, clean] - patch_logits_PV[rows, patch]
    return {
        "accuracy": (difference > 0).float().mean().item(),
        "top1": valid_PV[rows, logits_PV.argmax(-1)].mean().item(),
        "mass": (valid_PV * probabilities_PV).sum(-1).mean().item(),
        "logit_difference": difference.mean().item(),
        "patched_logit_difference": patch_difference.mean().item(),
        "prompts": len(prompts),
    }


@torch.inference_mode()
def held_out_mass_ratio(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[TaskPrompt],
) -> float:
    """Probability of the valid end years that were held out of training, over what they would
    get if it were spread evenly over all valid ones. Years that the model had merely memorised
    as pairs would bring it to 0."""
    ids = [tokenizer(prompt.clean_prefix)["input_ids"] for prompt in prompts]
    probabilities_PV = _last_logits(model, ids).softmax(-1)
    got = even = 0.0
    for row, prompt in enumerate(prompts):
        digits = re.findall(r"\d\d", prompt.clean_prefix)
        century, start = int(digits[0]), int(digits[1])
        valid = prompt.valid_answers
        mass = probabilities_PV[row, tokenizer.convert_tokens_to_ids(list(valid))]
        unseen = torch.tensor([is_held_out_years(century, start, int(end)) for end in valid])
        got += mass[unseen].sum().item()
        even += mass.sum().item() * unseen.float().mean().item()
    return got / even


def _last_logits(model: LlamaForCausalLM, ids: list[list[int]]) -> torch.Tensor:
    """Logits after the last token of every prompt; prompts of one length run together."""
    out_PV = torch.empty(len(ids), model.config.vocab_size)
    for length in sorted({len(row) for row in ids}):
        chosen = [index for index, row in enumerate(ids) if len(row) == length]
        for part in (chosen[i : i + 256] for i in range(0, len(chosen), 256)):
            batch_BT = torch.tensor([ids[index] for index in part])
            out_PV[part] = model(input_ids=batch_BT, logits_to_keep=1).logits[:, -1].float()
    return out_PV


def held_out_rows(
    tokenizer: PreTrainedTokenizerFast, context: int, count: int = HELD_OUT_DOCUMENTS
) -> list[list[int]]:
    """Documents of a seed that training does not use, each behind its BOS, cut at the context."""
    rows = []
    for document in documents(HELD_OUT_SEED, count):
        rows.append(tokenizer(document.text)["input_ids"][:context])
    return rows


@torch.inference_mode()
def model_cross_entropy(model: LlamaForCausalLM, rows: list[list[int]]) -> float:
    """Mean −log p of every token after BOS, each document on its own."""
    total, count = 0.0, 0
    for part in (rows[i : i + 32] for i in range(0, len(rows), 32)):
        length = max(map(len, part))
        batch_BT = torch.tensor([row + [0] * (length - len(row)) for row in part])
        labels_BT = torch.tensor([row + [-100] * (length - len(row)) for row in part])[:, 1:]
        logits_BTV = model(input_ids=batch_BT).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), labels_BT.flatten(), reduction="sum"
        ).item()
        count += int((labels_BT >= 0).sum())
    return total / count


def ngram_cross_entropies(
    training: np.ndarray, rows: list[list[int]], size: int
) -> tuple[float, float]:
    """Unigram and interpolated trigram, Witten–Bell smoothed, on the same training tokens.

    P_n(w|h) = (c(h, w) + t(h)·P_{n−1}(w|h')) / (c(h) + t(h)), t(h) = different words after h;
    P_0 uniform. (Jurafsky & Martin, Speech and Language Processing, §4.)
    """
    training = training.astype(np.int64)
    context = np.concatenate([np.asarray(row, dtype=np.int64)[:-1] for row in rows])
    target = np.concatenate([np.asarray(row, dtype=np.int64)[1:] for row in rows])
    first = np.concatenate([np.arange(len(row) - 1) == 0 for row in rows])
    before = np.roll(context, 1)
    pairs = training[:-1] * size + training[1:]
    triples = pairs[:-1] * size + training[2:]
    unigram = _witten_bell(training, np.zeros_like(target), target, size, 1 / size)
    bigram = _witten_bell(pairs, context, target, size, unigram)
    trigram = _witten_bell(triples, before * size + context, target, size, bigram)
    trigram = np.where(first, bigram, trigram)  # after BOS there is no longer history
    return float(-np.log(unigram).mean()), float(-np.log(trigram).mean())


def _witten_bell(
    keys: np.ndarray,
    history: np.ndarray,
    target: np.ndarray,
    size: int,
    lower: np.ndarray | float,
) -> np.ndarray:
    """P(target | history) from the keys history·size + word counted in training."""
    seen, counts = np.unique(keys, return_counts=True)
    histories, first, kinds = np.unique(seen // size, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first)
    count = _look_up(seen, counts, history * size + target)
    total, kind = (
        _look_up(histories, totals, history),
        _look_up(histories, kinds, history),
    )
    smooth = np.where(total > 0, (count + kind * lower) / np.maximum(total + kind, 1), lower)
    return np.asarray(smooth)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of every wanted key, 0 where it is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
