"""SAELens 6, both ways: a folder per SAE, `cfg.json` and `sae_weights.safetensors`.

Shapes there: W_enc [D, M], W_dec [M, D], b_dec [D], and b_enc [M]; jumprelu has also
threshold [M]; gated has b_gate, b_mag, r_mag [M] and no b_enc. With x' = x − b_dec, or x if
`apply_b_dec_to_input` is false:

- standard: f = ReLU(x'W_enc + b_enc)
- topk: f = ReLU(TopK_k(x'W_enc + b_enc))
- jumprelu: f = z·1[z > threshold], z = ReLU(x'W_enc + b_enc)
- gated: f = 1[x'W_enc + b_gate > 0]·ReLU(exp(r_mag)·x'W_enc + b_mag)
- batchtopk, matryoshka_batchtopk (unfinished training only): one `topk_threshold`; used as the
  jumprelu that SAELens makes of them at the end.

Every form is linear around its activation, so each conversion is exact up to rounding.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saeworks import __version__
from saeworks.config import ModelConfig, TextConfig, from_mapping
from saeworks.errors import UserError
from saeworks.interop.base import Foreign, Model
from saeworks.interop.hooks import hook_of
from saeworks.interop.saelens_config import CONFIG, is_folder
from saeworks.interop.saelens_read import read
from saeworks.interop.saelens_write import write
from saeworks.suite import Suite

__all__ = ["export", "is_folder", "load"]

OWN = "saeworks"
"""The key of `metadata` under which an export keeps what SAELens has no word for."""


def export(folder: Path, suite: Suite, site: str, model: Model) -> None:
    """Write one site's SAE, on raw activations, with all that SAELens needs to run it.

    `hook_name` is the module's name in the Hugging Face model, which is what SAELens hooks with
    `model_class_name` AutoModelForCausalLM.

    Raises:
        UserError: if SAELens has no such architecture, or hooks no such site.
    """
    run = suite.run
    text, hook = run.text, hook_of(site, model)
    loading = {"revision": model.revision} if model.revision else {}
    loading |= {"dtype": run.model.dtype} if run.model.dtype != "float32" else {}
    metadata = {
        "sae_lens_training_version": None,
        "model_name": model.source,
        "model_class_name": "AutoModelForCausalLM",
        "model_from_pretrained_kwargs": loading,
        "hook_name": hook,
        "hf_hook_name": hook,
        "hook_head_index": None,
        "context_size": text.context,
        "prepend_bos": model.bos_id is not None and text.bos != "none",
        "exclude_special_tokens": text.exclude_bos,
        "seqpos_slice": [text.exclude_first, None] if text.exclude_first else [None],
        "dataset_path": text.source,
        OWN: {
            "version": __version__,
            "variant": suite.variant,
            "site": site,
            "model": {
                "name": model.name,
                "revision": model.revision,
                "dtype": run.model.dtype,
                "fingerprint": model.fingerprint,
            },
            "text": asdict(text),
            "seed": run.seed,
            "tokens": suite.meta["tokens"],
            "norm_limits": suite.norm_limits,
        },
    }
    write(folder, suite.at(site), metadata)


def load(folder: Path) -> Foreign:
    """The SAE of a folder with what its metadata says.

    Raises:
        UserError: as `read`, and if the metadata are ill-typed or of one attention head.
    """
    sae, metadata = read(folder)
    where = f"{folder / CONFIG}: metadata"
    exported = metadata.get(OWN)
    if exported is not None:
        return Foreign(folder, sae, is_site=True, **_own(exported, f"{where}.{OWN}"))
    if metadata.get("hook_head_index") is not None:
        raise UserError(
            f"{where}.hook_head_index = {metadata['hook_head_index']!r}: an SAE of one attention "
            "head has no site here"
        )
    name, hook = _text(metadata, "model_name", where), _text(metadata, "hook_name", where)
    return Foreign(
        folder,
        sae,
        variant=f"saelens-{sae.arch}",
        model=ModelConfig(name=name, revision=_revision(metadata)) if name else None,
        hook=_text(metadata, "hf_hook_name", where) or hook,
        text=_training_text(metadata, where),
        note=_note(metadata),
    )


def _own(exported: Any, where: str) -> dict[str, Any]:
    """What our own export says, as strictly as any outside file."""
    try:
        model, text = dict(exported["model"]), dict(exported["text"])
        site, variant, seed = exported["site"], exported["variant"], exported["seed"]
        fingerprint, tokens = model.get("fingerprint"), exported.get("tokens", 0)
        typed = isinstance(site, str) and isinstance(variant, str) and type(seed) is int
        if not (typed and isinstance(fingerprint, str | None) and type(tokens) is int):
            raise TypeError
        limits = {
            str(at): float(norm) for at, norm in dict(exported.get("norm_limits", {})).items()
        }
        named = {key: model[key] for key in ("name", "revision", "dtype")}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where} is not what saeworks writes; convert the suite anew") from None
    return {
        "model": from_mapping(ModelConfig, named, f"{where}.model"),
        "fingerprint": fingerprint,
        "hook": site,
        "text": from_mapping(TextConfig, text, f"{where}.text"),
        "seed": seed,
        "variant": variant,
        "tokens": max(0, tokens),
        "norm_limits": limits,
    }


def _text(metadata: Mapping[str, Any], key: str, where: str) -> str | None:
    value = metadata.get(key)
    if not isinstance(value, str | None):
        raise UserError(f"{where}.{key} must be text, not {type(value).__name__}")
    return value


def _note(metadata: Mapping[str, Any]) -> str | None:
    """SAELens runs TransformerLens's models as they are, unless asked to change their weights."""
    options = metadata.get("model_from_pretrained_kwargs")
    asked = [o for o in _PROCESSING if isinstance(options, Mapping) and options.get(o)]
    if not asked:
        return None
    return (
        f"was trained on a model whose weights TransformerLens changed ({', '.join(asked)}); the "
        "unchanged model used here has other activations, so its numbers will be worse than they "
        "should"
    )


_PROCESSING = ("fold_ln", "center_writing_weights", "fold_value_biases", "center_unembed")


def _revision(metadata: Mapping[str, Any]) -> str | None:
    options = metadata.get("model_from_pretrained_kwargs")
    revision = options.get("revision") if isinstance(options, Mapping) else None
    return revision if isinstance(revision, str) else None


def _training_text(metadata: Mapping[str, Any], where: str) -> TextConfig:
    """SAELens begins each context with a BOS (and separates documents by one) or has none."""
    context = metadata.get("context_size")
    if context is None:
        context = TextConfig.context
    if type(context) is not int or context < 1:
        raise UserError(f"{where}.context_size = {context!r}: it must be a positive whole number")
    slice_ = metadata.get("seqpos_slice")
    first = slice_[0] if isinstance(slice_, list) and slice_ else None
    return TextConfig(
        source=_text(metadata, "dataset_path", where) or "",
        context=context,
        bos="none" if metadata.get("prepend_bos") is False else "context",
        exclude_first=first if type(first) is int and 0 <= first < context else 0,
    )
