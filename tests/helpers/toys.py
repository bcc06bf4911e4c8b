"""SAEs whose evaluation is known by hand, a tiny random Llama, and held-out tokens for it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saeworks.dictionary.base import (
    SAE,
    Batch,
    Context,
    SparseCode,
    StepOut,
)
from saeworks.lm.model import LanguageModel
from saeworks.lm.packing import TokenBatch
from saeworks.measure.held_out import HeldOut

VOCABULARY, LENGTH = 64, 24


@dataclass(frozen=True)
class ToyConfig:
    width: int


class Toy(SAE):
    """x̂ = gain · x + offset, exactly, by 2D latents: relu(x) and relu(−x)."""

    arch = "toy"
    Config = ToyConfig

    def __init__(self, d: int, gain: float = 1.0, offset_D: Tensor | None = None) -> None:
        super().__init__(d, ToyConfig(2 * d))
        eye = torch.eye(d)
        self.w_dec = nn.Parameter(gain * torch.cat([eye, -eye]), requires_grad=False)
        offset_D = torch.zeros(d) if offset_D is None else offset_D
        self.b_dec = nn.Parameter(offset_D, requires_grad=False)

    def initialise(self, x_BD: Tensor, generator: torch.Generator) -> None:
        raise NotImplementedError

    def encode_rows(self, x_BD: Tensor) -> SparseCode:
        f_BM = torch.cat([x_BD, -x_BD], dim=-1).relu()
        owner, indices = (f_BM > 0).nonzero(as_tuple=True)
        counts = torch.bincount(owner, minlength=len(x_BD))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseCode(indices, f_BM[owner, indices], self.width, (len(x_BD),), offsets)

    def step(self, batch: Batch, context: Context) -> StepOut:
        raise NotImplementedError

    def folded(self, mean_D: Tensor, scale: Tensor) -> SAE:
        raise NotImplementedError


class ToyTokenizer:
    """Words w0, w1, …, joined by spaces when decoded."""

    bos_token_id, pad_token_id = 0, None

    def __len__(self) -> int:
        return VOCABULARY

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [7]

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(f"w{i}" for i in ids)


@cache
def tiny_llama(seed: int = 0) -> LanguageModel:
    """Three blocks, d = 16, weights large enough that a splice matters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return LanguageModel.wrap(model, ToyTokenizer(), name="tiny")


def saved_llama(folder: Path, seed: int = 0) -> None:
    """The tiny Llama and a word-level tokenizer of w0 … w63 (w0 is BOS) in a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w63"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w0", unk_token="w63"
    ).save_pretrained(folder)
    tiny_llama(seed).model.save_pretrained(folder)


def random_text(documents: int, seed: int = 0) -> str:
    """Documents of 20 to 60 words, with the separator's line between them."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(documents):
        length = int(torch.randint(20, 60, (), generator=generator))
        words = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        texts.append(" ".join(f"w{i}" for i in words))
    return "\n<|endoftext|>\n".join(texts) + "\n"


def token_batch(sequences: int = 12, documents: int = 30, seed: int = 0) -> TokenBatch:
    """Packed random tokens: documents of unequal length, a BOS at each start, left out."""
    generator = torch.Generator().manual_seed(seed)
    total = sequences * LENGTH
    cuts = torch.randperm(total - 1, generator=generator)[: documents - 1].sort().values + 1
    starts = torch.zeros(total, dtype=torch.long)
    starts[cuts] = 1
    document = 100 + starts.cumsum(0)
    tokens = torch.randint(1, VOCABULARY, (total,), generator=generator)
    tokens[0] = 0
    tokens[cuts] = 0
    shape = (sequences, LENGTH)
    position = torch.arange(LENGTH).expand(shape).contiguous()
    return TokenBatch(
        tokens=tokens.view(shape),
        document=document.view(shape),
        position=position,
        keep=(tokens != 0).view(shape),
    )


def held_out(sequences: int = 12, documents: int = 30, seed: int = 0) -> HeldOut:
    return HeldOut.take(iter([token_batch(sequences, documents, seed)]), 10**9)


def clean_rows(lm: LanguageModel, site: str, sample: HeldOut) -> Tensor:
    """Activations of the kept tokens, the plain way."""
    x_NTD: Tensor = lm.capture(sample.tokens_NT, [site])[site]
    return x_NTD[sample.keep_NT]


def auxk_by_angle(error: Tensor, error_hat: Tensor) -> Tensor:
    """Σ_b ‖e_b‖² (1 − cos₊²(e_b, ê_b)): AuxK by the angle between the error and what the dead
    latents make of it, not yet divided by the variation of e."""
    cosine = torch.cosine_similarity(error, error_hat, dim=1, eps=1e-30)
    return (error.square().sum(1) * (1 - cosine.clamp_min(0).square())).sum()
