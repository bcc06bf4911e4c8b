"""The data of the latent browser."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from saeforge.errors import UserError
from saeforge.report.inputs import Latent, SuiteData, TokenContext
from saeforge.report.numbers import rounded

_SIGNS = {
    "\n": "↵",
    "\r": "␍",
    "\t": "⇥",
    "": "∅",
    "\u2028": "↵",
    "\u2029": "↵",
    "\u00a0": "⍽",
}


def legible(token: str) -> str:
    """A token as it can be seen: newlines as ↵, tabs as ⇥, invisible characters by their code."""
    if token.isprintable() and token:
        return token
    if not token:
        return _SIGNS[""]
    return "".join(_sign(character) for character in token)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))  # Unicode's pictures of the control characters
    return f"⟨U+{ord(character):04X}⟩"


def browser(suite: SuiteData, site: str) -> list[dict[str, Any]]:
    """A site's latents as the page reads them, tokens made legible.

    Raises:
        UserError: if a context has not one activation per token, or its peak is not one of them.
    """
    return [_latent(suite, site, latent) for latent in suite.latents.get(site, [])]


def _latent(suite: SuiteData, site: str, latent: Latent) -> dict[str, Any]:
    for context in latent.contexts:
        if len(context.tokens) != len(context.activations):
            raise UserError(
                f"{suite.path / 'results'}: latent {latent.latent} of {site} has a context of "
                f"{len(context.tokens)} tokens and {len(context.activations)} activations; "
                "run `saeforge eval` again"
            )
        if not 0 <= context.peak < len(context.tokens):
            raise UserError(
                f"{suite.path / 'results'}: latent {latent.latent} of {site} has a context of "
                f"{len(context.tokens)} tokens with its peak at {context.peak}; "
                "run `saeforge eval` again"
            )
    histogram = latent.histogram
    return {
        "id": latent.latent,
        "frequency": rounded(latent.frequency),
        "mean": rounded(latent.mean_activation),
        "max": rounded(latent.max_activation),
        "histogram": histogram and {"edges": _rounded(histogram.edges), "counts": histogram.counts},
        "neighbours": [[n.latent, rounded(n.cosine)] for n in latent.neighbours],
        "contexts": [_context(context) for context in latent.contexts],
    }


def _context(context: TokenContext) -> dict[str, Any]:
    return {
        "tokens": [legible(token) for token in context.tokens],
        "activations": [float(f"{value or 0.0:.3g}") for value in context.activations],
        "peak": context.peak,
        "kind": context.kind,
        "document": context.document,
    }


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [rounded(value) for value in values]
