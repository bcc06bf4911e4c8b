"""What is compared, and where it lies."""

from collections.abc import Mapping
from pathlib import Path

from experiments.runs import RUNS

K = {"embedded": 16, "real": 32}
"""Active latents, by setting."""
PER_LAYER, PLANNED, SHARED = "per layer", "groups Ĝ", "G = 1"
SWITCH, EQUAL = "Switch", "TopK, equal FLOPs"
DECODER, ENCODER = "frozen decoder", "frozen encoder"
ERRORS = {"l": "on ℓ", "u": "on u"}
"""Part of the error → the SAEs on it."""


def folder(setting: str, seed: int, part: str = "") -> Path:
    """Of a run: on activations, or on a part of the error."""
    return RUNS / "interp" / "-".join(filter(None, (setting, str(seed), part)))


def suites(setting: str, seed: int) -> Mapping[str, Path]:
    """What is compared → its suite."""
    run, k = folder(setting, seed), K[setting]
    dense = f"topk-w512-k{k}"
    return {
        PER_LAYER: run / dense,
        PLANNED: run / f"{dense}-g2-complete",
        SHARED: run / f"{dense}-g1-complete",
        SWITCH: run / f"switch-w2048-k{k}-experts16",
        EQUAL: run / f"topk-w144-k{k}",
        DECODER: run / f"{dense}-frozendecoder",
        ENCODER: run / f"{dense}-frozenencoder",
        **{name: folder(setting, seed, part) for part, name in ERRORS.items()},
    }
