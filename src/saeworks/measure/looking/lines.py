"""Sentences and latents as lines of text, as wide as asked."""

import textwrap
from collections.abc import Mapping, Sequence

from rich.cells import cell_len, set_cell_size

from saeworks.measure.looking.session import Sentence
from saeworks.results.series import Latent, TokenContext, TokenEffect
from saeworks.results.tokens import legible

WIDTH = 100
"""Of lines, where nothing else is known."""
_TOKEN = 20
"""Columns of the longest token in a table."""
_GAP = "  "
_NAME = 12
"""Columns before what is said of a latent."""
_CONTEXTS = 8
"""Contexts that are shown."""
_NOTHING = "none"


def sentence_lines(
    sentence: Sentence, top: int, width: int, promoted: Mapping[int, Sequence[TokenEffect]]
) -> list[str]:
    """A row per token: how many latents fire, of which experts, and the strongest with their
    activations, as many of `top` as there is room for; then what some of them promote."""
    tokens = [legible(token) for token in sentence.tokens]
    columns = [["token", *tokens], ["fire", *(str(len(row)) for row in sentence.firings)]]
    if sentence.per_expert is not None:
        columns.append(["expert", *(_experts(sentence, at) for at in range(len(tokens)))])
    sizes = [max(map(cell_len, column)) for column in columns]
    sizes[0] = min(sizes[0], _TOKEN)
    cells = [[str(firing) for firing in row[:top]] for row in sentence.firings]
    size = max([0, *(len(cell) for row in cells for cell in row)])
    room = width - sum(sizes) - len(_GAP) * len(sizes)
    shown = max(1, (room + len(_GAP)) // (size + len(_GAP)))
    strongest = ["strongest latents: activations" if room >= 30 else "strongest"]
    strongest += [_GAP.join(cell.ljust(size) for cell in row[:shown]) for row in cells]
    lines = [
        _GAP.join([*map(set_cell_size, row, sizes), last]).rstrip()
        for *row, last in zip(*columns, strongest, strict=True)
    ]
    if not promoted:
        return lines
    lines += ["", *textwrap.wrap("Tokens that the strongest latents of all promote:", width)]
    for latent, effects in promoted.items():
        lines += _hanging(str(latent), ", ".join(_word(e.token) for e in effects), width)
    return lines


def latent_lines(latent: Latent, site: str, about: str, effects: str, width: int) -> list[str]:
    """All that is known of a latent.

    Args:
        about: what the contexts are from.
        effects: what promoted and suppressed tokens are effects of, or why there are none.
    """
    numbers = [f"fires on {_percent(latent.frequency)} of the tokens"]
    numbers += [f"mean activation {_number(latent.mean_activation)}"]
    numbers += [f"largest {_number(latent.max_activation)}"]
    numbers += [] if latent.expert is None else [f"expert {latent.expert}"]
    near = [f"{n.latent} (cosine {_number(n.cosine)})" for n in latent.neighbours]
    partners = [
        f"{p.latent} (φ {_number(p.phi)}, on {_percent(p.share)} of its tokens)"
        for p in latent.partners
    ]
    lines = [f"Latent {latent.latent} of {site}", *textwrap.wrap(", ".join(numbers), width), ""]
    for name, parts in (
        ("promotes", [_effect(effect) for effect in latent.promoted]),
        ("suppresses", [_effect(effect) for effect in latent.suppressed]),
        ("near", near),
        ("fires with", partners),
    ):
        lines += _hanging(name, ", ".join(parts) or _NOTHING, width)
    lines += ["", *textwrap.wrap(f"Effects: {effects}.", width)]
    lines += ["", *textwrap.wrap(f"Contexts, its peak in «»: from {about}.", width)]
    return [*lines, *(_context(context, width) for context in latent.contexts[:_CONTEXTS])]


def _experts(sentence: Sentence, at: int) -> str:
    per_expert = sentence.per_expert or 1
    numbers = dict.fromkeys(firing.latent // per_expert for firing in sentence.firings[at])
    return ",".join(map(str, numbers)) or "–"


def _hanging(name: str, text: str, width: int) -> list[str]:
    """A name, and text that hangs behind it."""
    begin = name.ljust(_NAME)
    return textwrap.wrap(
        text, max(width, _NAME + 10), initial_indent=begin, subsequent_indent=" " * len(begin)
    )


def _effect(effect: TokenEffect) -> str:
    return f"{_word(effect.token)} {_number(effect.effect)}"


def _word(token: str) -> str:
    """A token without the space it begins with; `-` before what goes on with a word, and quotes
    where it would not be seen."""
    text = legible(token)
    if not text.strip() or "," in text:
        return f"'{text}'"
    return f"-{text.strip()}" if text[0].isalpha() else text.strip()


def _context(context: TokenContext, width: int) -> str:
    """One line: the activation at the peak, and the text around it, cut on both sides."""
    tokens = [legible(token) for token in context.tokens]
    peak = tokens[context.peak]
    space = peak[: len(peak) - len(peak.lstrip())]
    begin = f"{_number(context.activations[context.peak]):>6}  "
    middle = f"{space}«{peak.strip()}»"
    room = max(0, width - len(begin) - cell_len(middle))
    before, after = "".join(tokens[: context.peak]), "".join(tokens[context.peak + 1 :])
    kept = room // 2
    left = before[-kept:] if kept and len(before) > kept else (before if kept else "")
    left = left.rjust(kept)
    return set_cell_size(begin + left + middle + after, width).rstrip()


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g}%"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
