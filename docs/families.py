"""Writes families.md: what sites and aliases are in every family of causal language models that
transformers has, on tiny random models. `python docs/families.py` (some minutes on one core)."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from saeworks.errors import UserError
from saeworks.lm.loading import one_line, quiet
from saeworks.lm.model import LanguageModel

PAGE = Path(__file__).with_name("families.md")
LARGEST = 3_000_000
"""Parameters of a model that is still tiny."""
D, LAYERS = 32, 3
SMALL: dict[str, Any] = {
    "vocab_size": 101,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "dim_model"), D),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("dim_ff", "d_inner", "ffn_hidden_size", "expert_ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "dim_head", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_groups"), 1),
    "sliding_window": 16,
    **dict.fromkeys(("state_size", "conv_kernel", "mamba_d_state"), 4),
}
"""Given to every configuration that has them."""
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PER_LAYER = {"vocab_size_per_layer_input": 101, "hidden_size_per_layer_input": 8}
ROPE_HEAD = {"head_dim": 4}
INDEXED = ROPE_HEAD | {"num_key_value_heads": 4, "index_head_dim": 8, "index_n_heads": 4}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8}
HYBRID = ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"]
GEMMA_3N = PER_LAYER | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "num_kv_shared_layers": 0,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * 4,
}
GEMMA_4 = PER_LAYER | {
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
}
OWN: dict[str, dict[str, Any]] = {
    "axk1": ROPE_HEAD,
    "axk2": INDEXED,
    "bamba": MAMBA,
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": D, "ffn_hidden_size": 48},
    },
    "deepseek_v3": ROPE_HEAD,
    "deepseek_v32": INDEXED,
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n": GEMMA_3N,
    "gemma3n_text": GEMMA_3N,
    "gemma4": GEMMA_4,
    "gemma4_text": GEMMA_4,
    "git": {
        "vision_config": {
            "hidden_size": D,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
        }
    },
    "glm4_moe_lite": ROPE_HEAD,
    "glm_moe_dsa": INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granite": {"residual_multiplier": 0.22},
    "granite_swa": {"residual_multiplier": 0.22},
    "granitemoe": {"residual_multiplier": 0.22},
    "granitemoe_swa": {"residual_multiplier": 0.22},
    "granitemoehybrid": MAMBA | {"residual_multiplier": 0.22, "shared_intermediate_size": 16},
    "granitemoeshared": {"residual_multiplier": 0.22, "shared_intermediate_size": 16},
    "hrm_text": {"num_hidden_layers": 2},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"moe_topk": 2, "zero_expert_num": 2, "head_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh", "local"],
        "axial_pos_embds": False,
        "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "roc_bert": {
        **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 8),
        **dict.fromkeys(("pronunciation_vocab_size", "shape_vocab_size"), 101),
    },
    "xmod": {"default_language": "en_XX"},
    "youtu": ROPE_HEAD,
    "zamba": {"num_hidden_layers": 6, "layers_block_type": HYBRID, "attention_head_dim": 16},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": HYBRID, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""What single families need: to be tiny, or to have what their published models have."""


def configuration(family: str, **options: Any) -> Any:
    """A tiny one of a family."""
    text = AutoConfig.for_model(family).get_text_config()
    known = {*text.to_dict(), *getattr(type(text), "attribute_map", {})}
    small = {key: value for key, value in SMALL.items() if key in known}
    return type(text)(**{**small, **OWN.get(family, {}), **options})


def tiny(config: Any) -> LanguageModel:
    """A model of a configuration, with random weights, biases and scales (buffers of one number,
    too), so that nothing is zero or one by chance.

    Raises:
        UserError: if its configuration is not small enough, or the model is refused.
    """
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        size = sum(p.numel() for p in build(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters with the numbers that are known to make it small")
    torch.manual_seed(0)
    model = build(config, dtype=torch.float32)
    scales = [b for b in model.buffers() if b.is_floating_point() and b.numel() == 1]
    with torch.no_grad():
        for tensor in (*model.parameters(), *scales):
            tensor.add_(0.1 * torch.randn_like(tensor))
    return LanguageModel.wrap(model, None)


def row(lm: LanguageModel) -> list[str]:
    """What resid, attn and mlp are in a model's blocks."""
    return [_cell(lm, kind) for kind in ("resid", "attn", "mlp")]


def _cell(lm: LanguageModel, kind: str) -> str:
    exact: dict[str, None] = {}
    refused: dict[str, None] = {}
    for index, block in enumerate(lm.blocks):
        try:
            (site,) = lm.sites([f"{index}@{kind}"])
            exact[site.removeprefix(f"{block}.") if site != block else "the block"] = None
        except UserError as error:
            reason = str(error).partition(" (")[2].rpartition("); use")[0]
            reason = reason.removeprefix(f"{block}: ").replace(f"that is {block}, but ", "")
            refused[reason.replace(f"{block}.", "")] = None
    if refused and not exact and set(refused) == {NONE}:
        return "none"
    parts = [f"exact: {', '.join(f'`{name}`' for name in exact)}"] if exact else []
    parts += [f"refused: {reason}" for reason in refused if reason != NONE]
    return "; ".join(parts)


NONE = "this block has none"


def rows(families: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Name and cells of every family; one cell for those that are refused or were not built."""
    for family in families:
        try:
            config = configuration(family)
            decoder_alone = " (decoder alone)" if config.is_encoder_decoder else ""
            yield f"{family}{decoder_alone}", row(tiny(config))
        except UserError as error:
            if "does not run on tokens alone" in str(error):
                yield family, [f"not tried: {one_line(error, 160)}"]
                continue
            yield family, [_whole(error)]
            if getattr(config, "is_decoder", True) is False:
                yield from _as_decoder(family)
        except Exception as error:  # whatever a configuration raises that is not made for this
            yield family, [f"not tried: {one_line(error, 160)}"]


def _whole(error: UserError) -> str:
    return f"refused: {str(error).partition(': ')[2].partition('; ')[0]}"


def _as_decoder(family: str) -> Iterator[tuple[str, list[str]]]:
    try:
        yield f"{family} (is_decoder)", row(tiny(configuration(family, is_decoder=True)))
    except UserError as error:
        yield f"{family} (is_decoder)", [_whole(error)]


HEAD = """# Families

What a site is in each family of causal language models in transformers {version}: tiny random
models, made and tried by `docs/families.py`. When a model is loaded, a pass over a few tokens does
the same for it: whether a block's output is its input plus what the named modules give is seen in
numbers, not believed of names.

- **resid** (`3@resid`): the block's output, [B, T, D], which the next block gets.
- **attn**, **mlp** (`3@attn`, `3@mlp`): the module inside the block whose output is added to the
  residual stream, so that output = input + attn + mlp to rounding in every element.
- **exact**: so it is. **refused**: no module's output is that, and the alias ends in one line with
  the reason; the modules can still be named themselves (`layers.3.self_attn`). Nothing is
  approximated: where a multiple is added (`residual_multiplier`), or a norm stands behind the sum,
  the alias is refused. Where blocks differ, a cell says all that there is.

{counts}

| family | resid | attn | mlp |
|---|---|---|---|
{rows}

## Refused as a whole

| family | why |
|---|---|
{whole}

## Not tried

A tiny configuration cannot be made of the usual numbers, so nothing is known here; loading such a
model checks it all the same.

| family | why |
|---|---|
{untried}
"""


def page(found: Sequence[tuple[str, list[str]]]) -> str:
    import transformers

    tried = [(name, cells) for name, cells in found if len(cells) == 3]
    single = [(name, cells) for name, cells in found if len(cells) == 1]
    counts = ", ".join(
        f"`{kind}` exact in {sum(cells[i].startswith('exact') for _, cells in tried)}"
        for i, kind in enumerate(("resid", "attn", "mlp"))
    )
    return HEAD.format(
        version=transformers.__version__,
        counts=f"Of {len(tried)} that are taken: {counts}.",
        rows="\n".join(line(name, cells) for name, cells in tried),
        whole="\n".join(line(*one) for one in single if one[1][0].startswith("refused: ")),
        untried="\n".join(line(*one) for one in single if one[1][0].startswith("not tried: ")),
    )


def line(name: str, cells: Sequence[str]) -> str:
    """A row of the page. A cell that stands alone says why there are no others."""
    parts = cells if len(cells) > 1 else [cells[0].partition(": ")[2]]
    return f"| {' | '.join(part.replace('|', chr(92) + '|') for part in (name, *parts))} |"


def main(families: Sequence[str]) -> None:
    found = []
    with quiet():
        for one in rows(families or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)):
            print(*one, flush=True)
            found.append(one)
    if not families:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
