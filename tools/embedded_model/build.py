"""Train the embedded language model and write its folder.

PYTHONPATH=tools python -m embedded_model.build [--out DIR] [--threads N] [--seed S]
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from embedded_model.measure import measure, task_metrics
from embedded_model.muon import Muon
from embedded_model.package import missed, write_folder
from embedded_model.tokenizer import (
    BOS,
    PAD,
    build_tokenizer,
    vocabulary_of,
)
from saeworks.embedded.grammar import documents
from saeworks.embedded.tasks import TASKS, task_prompts

CONTEXT = 128
VOCABULARY_SEED, VOCABULARY_DOCUMENTS = 0, 20_000
SHARD_DOCUMENTS = 2_000


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    threads: int = 4
    steps: int = 1500
    rows: int = 16
    lr: float = 0.02
    adam_lr: float = 3e-3
    layers: int = 6
    width: int = 128
    hidden: int = 320
    heads: int = 4
    weight_decay: float = 0.1
    warm_up: float = 0.06


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m embedded_model.build")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--threads", type=int, default=Recipe.threads)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args(arguments)
    recipe = Recipe(seed=options.seed, threads=options.threads, steps=options.steps)
    torch.set_num_threads(recipe.threads)
    # The first gradients are so small that a processor would compute many of them in microcode.
    torch.set_flush_denormal(True)

    began = time.perf_counter()
    vocabulary = vocabulary_of(documents(VOCABULARY_SEED, VOCABULARY_DOCUMENTS))
    tokenizer = build_tokenizer(vocabulary)
    tokens = training_tokens(recipe, vocabulary, recipe.steps * recipe.rows * CONTEXT)
    print(f"{len(vocabulary)} words, {len(tokens):,} training tokens", flush=True)
    model = train(recipe, tokens, tokenizer)
    seconds = time.perf_counter() - began

    metrics = measure(model, tokenizer, tokens, recipe.seed)
    metrics["model"] = _model_facts(recipe, model)
    metrics["training"] = _training_facts(recipe, len(tokens), seconds)
    write_folder(options.out, model, tokenizer, metrics)
    print(json.dumps(metrics, indent=1))
    if failures := missed(metrics):
        sys.exit("not good enough: " + "; ".join(failures))


def _model_facts(recipe: Recipe, model: LlamaForCausalLM) -> dict[str, int]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": recipe.layers,
        "width": recipe.width,
        "heads": recipe.heads,
        "hidden": recipe.hidden,
        "context": CONTEXT,
        "vocabulary": model.config.vocab_size,
    }


def _training_facts(recipe: Recipe, tokens: int, seconds: float) -> dict[str, object]:
    return {
        "command": f"PYTHONPATH=tools python -m embedded_model.build --threads {recipe.threads} "
        f"--seed {recipe.seed}",
        "seed": recipe.seed,
        "threads": recipe.threads,
        "steps": recipe.steps,
        "rows": recipe.rows,
        "lr": recipe.lr,
        "tokens": tokens,
        "minutes": seconds / 60,
        "note": "",
        "processor": _processor(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _encode_shard(seed: int, ids: dict[str, int], start: int) -> np.ndarray:
    """SHARD_DOCUMENTS documents from `start` on, each behind a BOS."""
    row: list[int] = []
    for document in documents(seed, SHARD_DOCUMENTS, start=start):
        row.append(ids[BOS])
        row.extend(ids[token] for token in document.tokens)
    return np.asarray(row, dtype=np.int32)


def training_tokens(recipe: Recipe, vocabulary: tuple[str, ...], count: int) -> np.ndarray:
    """The first `count` tokens of the training documents (seed + 1), in order."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    encode = partial(_encode_shard, recipe.seed + 1, ids)
    shards: list[np.ndarray] = []
    with ProcessPoolExecutor(recipe.threads) as pool:
        while sum(map(len, shards)) < count:
            first = len(shards) * SHARD_DOCUMENTS
            starts = [first + i * SHARD_DOCUMENTS for i in range(recipe.threads)]
            shards.extend(pool.map(encode, starts))
    return np.concatenate(shards)[:count]


def train(
    recipe: Recipe, tokens: np.ndarray, tokenizer: PreTrainedTokenizerFast
) -> LlamaForCausalLM:
    """AdamW, linear warm-up, cosine to a hundredth; every token is seen once."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_model_config(recipe, tokenizer))
    _initialise(model)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [
        model.model.embed_tokens.weight,
        *(p for p in model.parameters() if p.ndim < 2),
    ]
    optimisers = (
        Muon(matrices, recipe.lr, momentum=0.95, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_lr_factor, recipe))
        for optimiser in optimisers
    ]
    began = time.perf_counter()
    for step, batch_BT in enumerate(_batches(recipe, tokens), 1):
        loss = model(input_ids=batch_BT, labels=batch_BT).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
        if step % 50 == 0 or step == recipe.steps:
            spent = time.perf_counter() - began
            print(
                f"step {step}/{recipe.steps}  loss {loss.item():.4f}"
                f"  {step * batch_BT.numel() / spent:,.0f} tokens/s"
                f"  {spent / step * (recipe.steps - step) / 60:.1f} min left",
                flush=True,
            )
        if step % 250 == 0:
            print("  " + _progress(model, tokenizer), flush=True)
    model.train(False)
    return model


def _progress(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Task accuracies on a few prompts, to see early whether a run is worth its time."""
    scores = {t: task_metrics(model, tokenizer, task_prompts(t, 200, seed=1)) for t in TASKS}
    return "  ".join(f"{t} {s['accuracy']:.2f} (mass {s['mass']:.2f})" for t, s in scores.items())


@torch.no_grad()
def _initialise(model: LlamaForCausalLM) -> None:
    """Words far apart, attention that copies what it attends to, MLPs that add nothing yet.

    With Hugging Face's initialisation the names stay alike for millions of tokens, no head copies
    them, and the indirect object is not learned within minutes. W_o = W_vᵀ / 2 with orthogonal
    W_v makes every head start as a weak copier (after Trockman & Kolter 2023, "Mimetic
    initialization of self-attention layers"). The small last norm keeps the tied logits small.
    """
    model.model.embed_tokens.weight.normal_(std=0.3)
    model.model.norm.weight.fill_(0.15)
    for layer in model.model.layers:
        attention = layer.self_attn
        nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T / 2)
        layer.mlp.down_proj.weight.zero_()


def _model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    vocabulary = tokenizer.get_vocab()
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=vocabulary[BOS],
        eos_token_id=vocabulary[BOS],
        pad_token_id=vocabulary[PAD],
    )


def _lr_factor(recipe: Recipe, step: int) -> float:
    warm_up = max(1, round(recipe.warm_up * recipe.steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, recipe.steps - warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _batches(recipe: Recipe, tokens: np.ndarray) -> Iterator[torch.Tensor]:
    """Rows of one context, shuffled, each once."""
    rows_NT = torch.from_numpy(tokens.astype(np.int64)).view(-1, CONTEXT)
    order = torch.randperm(len(rows_NT), generator=torch.Generator().manual_seed(recipe.seed))
    for first in range(0, len(order), recipe.rows):
        yield rows_NT[order[first : first + recipe.rows]]


if __name__ == "__main__":
    main()
