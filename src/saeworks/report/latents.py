"""The data of the latent browser."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from saeworks.report.numbers import rounded
from saeworks.report.suites import PackedLatents
from saeworks.results.series import CHOICE, Latent, TokenContext
from saeworks.results.tokens import legible

SHARD = 200
"""Latents in a file: a megabyte, which a browser loads at once."""


def files(name: str, latents: PackedLatents) -> Iterator[tuple[str, Any]]:
    """A site's latents as the page reads them, tokens made legible: files of `SHARD` each, which
    it loads when one of them is looked at, and what lists and finds them all, as `name`."""
    words: dict[str, int] = {}
    rows = []
    for start in range(0, len(latents), SHARD):
        shard = latents[start : start + SHARD]
        rows += [_row(latent, words) for latent in shard]
        yield f"{name}-{start // SHARD}", [_latent(latent) for latent in shard]
    columns = [list(column) for column in zip(*rows, strict=True)]
    index = dict(zip(("id", "frequency", "max", "snippet", "words"), columns, strict=True))
    choice = asdict(latents.choice) if latents.choice else None
    yield name, index | {"lexicon": list(words), "shard": SHARD, CHOICE: choice}


def _row(latent: Latent, words: dict[str, int]) -> tuple[Any, ...]:
    """Number, frequency, largest activation, a snippet, and the words of its peaks, by their place
    in `words`."""
    peaks = dict.fromkeys(legible(c.tokens[c.peak]).strip().lower() for c in latent.contexts)
    return (
        latent.latent,
        rounded(latent.frequency),
        rounded(latent.max_activation),
        _snippet(latent),
        [words.setdefault(word, len(words)) for word in peaks],
    )


def _snippet(latent: Latent) -> str:
    if not latent.contexts:
        return ""
    best = latent.contexts[0]
    near = best.tokens[max(0, best.peak - 3) : best.peak + 4]
    return "".join(legible(token) for token in near).strip()[:80]


def _latent(latent: Latent) -> dict[str, Any]:
    histogram = latent.histogram
    return {
        "mean": rounded(latent.mean_activation),
        "histogram": {"edges": _rounded(histogram.edges), "counts": histogram.counts},
        "neighbours": [[n.latent, rounded(n.cosine)] for n in latent.neighbours],
        "contexts": [_context(context) for context in latent.contexts],
    }


def _context(context: TokenContext) -> dict[str, Any]:
    return {
        "tokens": [legible(token) for token in context.tokens],
        "on": [
            [at, float(f"{value:.3g}")] for at, value in enumerate(context.activations) if value
        ],
        "peak": context.peak,
        "kind": context.kind,
        "document": context.document,
    }


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [rounded(value) for value in values]
