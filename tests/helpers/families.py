"""Tiny random language models of several families."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

from saeworks.lm.model import LanguageModel

LAYERS, D, VOCABULARY = 3, 16, 50
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
WIDE: dict[str, Any] = {
    "hidden_size": D,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
GQA = WIDE | {"num_key_value_heads": 1}
FAMILIES: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(n_embd=D, n_layer=LAYERS, n_head=2, n_positions=32, **COMMON),
    "neox-parallel": lambda: GPTNeoXConfig(**WIDE, use_parallel_residual=True, **COMMON),
    "neox-serial": lambda: GPTNeoXConfig(**WIDE, use_parallel_residual=False, **COMMON),
    "llama": lambda: LlamaConfig(**GQA, **COMMON),
    "gpt-neo": lambda: GPTNeoConfig(
        hidden_size=D,
        num_layers=LAYERS,
        num_heads=2,
        attention_types=[[["global", "local", "global"], 1]],
        max_position_embeddings=32,
        **COMMON,
    ),
    "gemma-2": lambda: Gemma2Config(**GQA, head_dim=8, **COMMON),
    "qwen-2": lambda: Qwen2Config(**GQA, **COMMON),
}


def build(family: str) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():  # random biases and norms, so that nothing is zero by chance
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return LanguageModel.wrap(model, None)
