"""The page on latents: the data of their browser."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from saeworks.report.numbers import rounded
from saeworks.report.of_latents import LatentNotes, told
from saeworks.report.page import OverviewVerdict, Page, Report
from saeworks.report.suites import PackedLatents
from saeworks.results.names import CONCEPTS, EXPERTS
from saeworks.results.series import CHOICE, Latent, TokenContext, TokenEffect
from saeworks.results.tokens import legible

SHARD = 200
"""Latents in a file: a megabyte, which a browser loads at once."""
CHUNK = 10_000
"""Latents in a file of what lists and finds them: a megabyte; a multiple of `SHARD`."""
LONGEST = 200
"""Characters of an explanation in the list."""
NOTHING = LatentNotes()
SCRIPTS = ("charts.js", "latent.js", "latents.js")


def page(report: Report) -> Page | None:
    """None where no latents were kept.

    The names of files are of numbers alone: a site's name comes from outside.
    """
    browsed = {
        f"latents-{s}-{i}": (suite.latents[site], told(suite, site))
        for s, suite in enumerate(report.suites)
        for i, site in enumerate(report.sites)
        if suite.latents.get(site)
    }
    if not browsed:
        return None
    kept = sum(len(latents) for latents, _ in browsed.values())
    return Page(
        "Latents",
        "One latent at a time",
        "Held-out text on which a latent is most active, and what is known of it. The stronger the "
        "colour, the stronger the activation; point at a token, or tap it, for the value. The "
        "address in the browser's bar leads back to what is shown.",
        scripts=SCRIPTS,
        files=chain.from_iterable(files(name, *of_site) for name, of_site in browsed.items()),
        loads=list(browsed),
        verdict=OverviewVerdict(
            [f"{kept:,} latents to look at, with the text on which they fire."]
        ),
    )


def files(
    name: str, latents: PackedLatents, told: Mapping[int, LatentNotes]
) -> Iterator[tuple[str, Any]]:
    """A site's latents as the page reads them, tokens made legible.

    `NAME-i`: all of `SHARD` latents each, loaded when one of them is looked at. `NAME-index-i`:
    what lists and finds `CHUNK` latents, loaded one after another. `NAME`: how many there are.
    """
    experts = 0
    for start in range(0, len(latents), CHUNK):
        index = _Index()
        for first in range(start, min(start + CHUNK, len(latents)), SHARD):
            shard = latents[first : first + SHARD]
            about = [told.get(latent.latent, NOTHING) for latent in shard]
            for latent, of_latent in zip(shard, about, strict=True):
                index.add(latent, of_latent)
                experts = max(experts, 0 if latent.expert is None else latent.expert + 1)
            details = zip(shard, about, strict=True)
            yield f"{name}-{first // SHARD}", [_latent(*pair) for pair in details]
        yield f"{name}-index-{start // CHUNK}", index.plain()
    choice = asdict(latents.choice) if latents.choice else None
    sizes = {"latents": len(latents), "shard": SHARD, "chunk": CHUNK, EXPERTS: experts}
    yield name, sizes | {CHOICE: choice}


class _Index:
    """Columns with a value for each latent, and words with the rows of the latents they lead to."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.words: dict[str, dict[str, list[int]]] = {}
        self.rows = 0

    def add(self, latent: Latent, told: LatentNotes) -> None:
        """Append one latent."""
        columns = {
            "id": latent.latent,
            "frequency": rounded(latent.frequency),
            "max": rounded(latent.max_activation),
            "snippet": _snippet(latent),
            "expert": latent.expert,
            "f1": told.f1,
            "score": told.score,
            "concept": told.concepts[0][0] if told.concepts else None,
            "explanation": _cut(" · ".join(e["text"] for e in told.explanations)) or None,
            "steered": bool(told.steered) or None,
        }
        for key, value in columns.items():
            self.columns.setdefault(key, []).append(value)
        words = {
            "peaks": [legible(c.tokens[c.peak]).strip().lower() for c in latent.contexts],
            "promoted": [legible(one.token).strip().lower() for one in latent.promoted],
            CONCEPTS: [concept.lower() for concept, _ in told.concepts],
            "verdicts": [verdict for verdict, _, _ in told.verdicts],
        }
        for key, listed in words.items():
            rows = self.words.setdefault(key, {})
            for word in dict.fromkeys(listed):
                rows.setdefault(word, []).append(self.rows)
        self.rows += 1

    def plain(self) -> dict[str, Any]:
        """For the page: columns that say something; of words, their list and the list of rows."""
        columns = {
            key: values
            for key, values in self.columns.items()
            if any(value is not None for value in values)
        }
        words = {key: [list(rows), list(rows.values())] for key, rows in self.words.items() if rows}
        return columns | words


def _snippet(latent: Latent) -> str:
    if not latent.contexts:
        return ""
    best = latent.contexts[0]
    near = best.tokens[max(0, best.peak - 3) : best.peak + 4]
    return "".join(legible(token) for token in near).strip()[:80]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _latent(latent: Latent, told: LatentNotes) -> dict[str, Any]:
    histogram = latent.histogram
    more = {
        "partners": [[p.latent, rounded(p.phi), rounded(p.share)] for p in latent.partners],
        "promoted": _effects(latent.promoted),
        "suppressed": _effects(latent.suppressed),
    }
    return {
        "mean": rounded(latent.mean_activation),
        "histogram": {"edges": _rounded(histogram.edges), "counts": histogram.counts},
        "neighbours": [[n.latent, rounded(n.cosine)] for n in latent.neighbours],
        **{key: value for key, value in more.items() if value},
        **told.plain(),
        "contexts": [_context(context) for context in latent.contexts],
    }


def _effects(tokens: Sequence[TokenEffect]) -> list[tuple[str, float | None]]:
    return [(legible(one.token), rounded(one.effect)) for one in tokens]


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
