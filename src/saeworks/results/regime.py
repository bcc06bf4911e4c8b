"""The regime that an SAE was trained in: how many vectors each of its latents had to learn from.

Which architecture or width is better depends on it: at a few hundred tokens per latent a wide or
routed SAE has not yet learnt what it is wide for (experiments/switch/results/switch.md)."""

from collections.abc import Iterable, Mapping

FEW = 1000
"""Tokens per latent below which a comparison of SAEs is one of short runs."""
ALIKE, SPARSE = 1.01, 1.05
"""Ratios from which numbers of training tokens, and L0s, count as different."""
KEY = "tokens_per_latent"
WHAT = "Vectors that the SAE was trained on, divided by its width; of a group's SAE, those it saw."


def tokens_per_latent(tokens: object, width: object) -> float | None:
    """Training tokens per latent; None if either number is unknown."""
    if not isinstance(tokens, int) or not isinstance(width, int) or min(tokens, width) < 1:
        return None
    return tokens / width


def described(found: Iterable[float | None]) -> str | None:
    """`244 tokens per latent`, or from the fewest to the most; None where nothing is known."""
    known = sorted({round(tokens) for tokens in found if tokens is not None})
    if not known:
        return None
    span = f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
    return f"{span} tokens per latent"


def caution(found: Iterable[float | None]) -> str | None:
    """A warning about SAEs with so many tokens per latent; None from `FEW` on."""
    few = [tokens for tokens in found if tokens is not None and tokens < FEW]
    if not few:
        return None
    return (
        f"{described(few)}, fewer than {FEW:,}: a short run, in which wide and Switch SAEs stand "
        "worse beside narrow ones than in a long one"
    )


def of_groups(meta: Mapping[str, object]) -> dict[str, float | None]:
    """Group → tokens per latent, read from a suite.json; None where it is not recorded."""
    groups = meta.get("groups")
    if not isinstance(groups, Mapping):
        return {}
    return {
        str(name): tokens_per_latent(
            meta.get("tokens"), group.get("width") if isinstance(group, Mapping) else None
        )
        for name, group in groups.items()
    }


def differences(
    own: Mapping[str, object],
    other: Mapping[str, object],
    l0: tuple[float | None, float | None] = (None, None),
) -> list[str]:
    """What two suites differ in besides their SAEs, which a ratio between them measures, too; and
    the `caution` for both.

    Args:
        l0: mean active latents of each.
    """
    sentences = []
    tokens = [meta.get("tokens") for meta in (own, other)]
    known = [float(count) for count in tokens if isinstance(count, int) and count > 0]
    if len(known) == 2 and max(known) > ALIKE * min(known):
        sentences.append(f"trained on {known[0]:,.0f} and {known[1]:,.0f} tokens")
    if own.get("seed") != other.get("seed"):
        sentences.append(
            f"trained with seeds {own.get('seed')} and {other.get('seed')}, which order the text"
        )
    changed = _changed(own.get("text"), other.get("text"))
    if changed:
        sentences.append(f"trained on other text ({changed})")
    active = [mean for mean in l0 if mean is not None]
    if len(active) == 2 and max(active) > SPARSE * min(active):
        sentences.append(f"L0 is {active[0]:.4g} and {active[1]:.4g}")
    each = [*of_groups(own).values(), *of_groups(other).values()]
    few = caution(each)
    return [*sentences, few] if few else sentences


def _changed(own: object, other: object) -> str:
    """The keys in which two mappings differ, such as `context 128 and 256`."""
    if not isinstance(own, Mapping) or not isinstance(other, Mapping):
        return ""
    keys = [key for key in own if key in other and own[key] != other[key]]
    return ", ".join(f"{key} {own[key]!r} and {other[key]!r}" for key in keys)
