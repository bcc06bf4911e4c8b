"""Train the embedded language model and write its folder.

python -m saeforge.lm.embedded.build [--out DIR] [--threads N] [--seed S]
"""

import argparse
import math
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

from saeforge.lm.embedded.grammar import documents
from saeforge.lm.embedded.measure import measure, task_metrics
from saeforge.lm.embedded.package import write_folder
from saeforge.lm.embedded.tasks import TASKS, task_prompts
from saeforge.lm.embedded.tokenizer import BOS, PAD, build_tokenizer, vocabulary_of

CONTEXT = 128
VOCABULARY_SEED, VOCABULARY_DOCUMENTS = 0, 20_000
SHARD_DOCUMENTS = 2_000


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    threads: int = 4
    steps: int = 3000
    rows: int = 16
    lr: float = 2.5e-3
    layers: int = 6
    width: int = 128
    hidden: int = 320
    heads: int = 4
    weight_decay: float = 0.1
    warm_up: float = 0.06


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m saeforge.lm.embedded.build")
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
    write_folder(options.out, model, tokenizer, recipe, metrics, seconds, len(tokens))


def _encode_shard(seed: int, ids: dict[str, int], start: int) -> np.ndarray:
    """SHARD_DOCUMENTS documents from `start` on, each behind a BOS."""
    row: list[int] = []
    for document in documents(seed, SHARD_DOCUMENTS, start=start):
        row.append(ids[BOS])
        row.extend(ids[token] for token in document.tokens)
    return np.asarray(row, dtype=np.int32)


def training_tokens(
    recipe: Recipe, vocabulary: tuple[str, ...], count: int
) -> np.ndarray:
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
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay},
         {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.lr, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_lr_factor, recipe))
    began = time.perf_counter()
    for step, batch_BT in enumerate(_batches(recipe, tokens), 1):
        loss = model(input_ids=batch_BT, labels=batch_BT).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
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
    return model.eval()


def _progress(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Task accuracies on a few prompts, to see early whether a run is worth its time."""
    scores = {
        t: task_metrics(model, tokenizer, task_prompts(t, 200, seed=1)) for t in TASKS
    }
    return "  ".join(
        f"{t} {s['accuracy']:.2f} (mass {s['mass']:.2f})" for t, s in scores.items()
    )


def _model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    bos, pad = tokenizer.convert_tokens_to_ids([BOS, PAD])
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=bos,
        pad_token_id=pad,
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
    order = torch.randperm(
        len(rows_NT), generator=torch.Generator().manual_seed(recipe.seed)
    )
    for chosen in order.split(recipe.rows):
        yield rows_NT[chosen]


if __name__ == "__main__":
    main()
