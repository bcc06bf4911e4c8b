"""Latents of a suite in Python: `sw.latents(suite, site)`."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, final

from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.measure.interventions import Edit
from saeworks.measure.looking.lines import WIDTH, latent_lines, sentence_lines
from saeworks.measure.looking.session import NAMED, TOKENS, Active, Looking, Sentence
from saeworks.results.series import (
    Histogram,
    Latent,
    Neighbour,
    Partner,
    TokenContext,
    TokenEffect,
)
from saeworks.results.tokens import legible
from saeworks.suite import Suite, load_suite


def latents(
    suite: Suite | str | Path,
    site: str | None = None,
    *,
    model: ModelConfig | str | None = None,
    corpus: TextConfig | str | None = None,
    device: str = "auto",
    tokens: int = TOKENS,
) -> "SiteLatents":
    """The latents of one SAE of a suite, to look at.

        latents = sw.latents("runs/quick", "layers.3")
        latents.text("When Mary and John went to the shop")   # what fires, token by token
        latents[12]                                           # one latent
        latents[12].generate("When Mary", add=8.0)            # before and after

    The language model is loaded when it is first needed.

    Args:
        suite: a suite, or its folder.
        site: of the suite; may be left out where it has one.
        model: another language model than the suite's own, or the same in another place.
        corpus: another text than the suite's own, from which contexts are.
        device: as `saeworks eval` takes it.
        tokens: held-out tokens that are looked through for a latent of which the suite's evaluation
            (`saeworks eval --latents`) has no contexts.

    Raises:
        UserError: if there is no such suite or site.
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    if site is None and len(suite.sites) > 1:
        raise UserError(
            f"{suite.path} has {len(suite.sites)} sites; name one of {', '.join(suite.sites)}"
        )
    looking = Looking(suite, model=model, corpus=corpus, device=device, tokens=tokens)
    chosen = looking.sites([suite.sites[0] if site is None else site])
    if len(chosen) > 1:
        raise UserError(f"{site!r} is {len(chosen)} sites ({', '.join(chosen)}); name one")
    return SiteLatents(looking, chosen[0])


@final
class SiteLatents:
    """The latents of one SAE: `text(…)` for those of a text, `[i]` for one of them.

    Attributes:
        site: where the SAE is.
        width: M, how many there are.
    """

    __iter__ = None
    """There may be a hundred thousand, and each asks for contexts."""

    def __init__(self, looking: Looking, site: str) -> None:
        self.looking, self.site = looking, site
        self.width = looking.suite.at(site).width

    def __repr__(self) -> str:
        return (
            f"SiteLatents({str(self.looking.suite.path)!r}, {self.site!r}: {self.width:,} latents; "
            ".text('…') shows which fire, [i] is one of them)"
        )

    def text(self, text: str, top: int = 5) -> "TextLatents":
        """What fires on a text, token by token.

        Args:
            top: strongest latents of each token that are shown; all are in `firings`.

        Raises:
            UserError: if the text is empty or too long for the model.
        """
        sentence = self.looking.sentences(text, [self.site])[self.site]
        promoted = self.looking.promoted(self.site, sentence.strongest(NAMED))
        return TextLatents(sentence, top, promoted)

    def __getitem__(self, latent: Any) -> "OneLatent":
        """One latent.

        Raises:
            UserError: if it does not exist, or never fires on the held-out text.
        """
        record, about = self.looking.latent(self.site, latent)
        return OneLatent(self.looking, self.site, record, about)


@final
@dataclass(frozen=True)
class TextLatents:
    """What fires on a text, as a table where it is printed.

    Attributes:
        sentence: tokens and firings.
        top: strongest latents of each token that are shown.
        promoted: the tokens that the strongest latents of the text promote.
    """

    sentence: Sentence
    top: int
    promoted: dict[int, list[TokenEffect]]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The text's tokens."""
        return self.sentence.tokens

    @property
    def firings(self) -> tuple[tuple[Active, ...], ...]:
        """Of each token the latents that fire, from the strongest down."""
        return self.sentence.firings

    def lines(self, width: int = WIDTH) -> list[str]:
        """The table."""
        return sentence_lines(self.sentence, self.top, width, self.promoted)

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        rows = [
            [legible(token), str(len(row)), *map(str, row[: self.top])]
            for token, row in zip(self.tokens, self.firings, strict=True)
        ]
        return _table(["token", "fire", "strongest latents: activations"], rows)


@final
@dataclass(frozen=True)
class OneLatent:
    """A latent: what it responds to, what it does, what is near.

    Attributes:
        record: all of it, as results hold it.
        about: the text that contexts and frequency are from.
    """

    looking: Looking
    site: str
    record: Latent
    about: str

    @property
    def number(self) -> int:
        return self.record.latent

    @property
    def frequency(self) -> float | None:
        """Share of the tokens on which it fires."""
        return self.record.frequency

    @property
    def contexts(self) -> list[TokenContext]:
        """Where it fires: its largest activations first, then some of the others."""
        return self.record.contexts

    @property
    def histogram(self) -> Histogram:
        """Its activations."""
        return self.record.histogram

    @property
    def promoted(self) -> list[TokenEffect]:
        """Tokens whose logits it raises most by the direct path, per unit of activation."""
        return self.record.promoted

    @property
    def suppressed(self) -> list[TokenEffect]:
        """Tokens whose logits it lowers most."""
        return self.record.suppressed

    @property
    def neighbours(self) -> list[Neighbour]:
        """Latents by the cosine of decoder rows."""
        return self.record.neighbours

    @property
    def partners(self) -> list[Partner]:
        """Latents that fire on the same tokens."""
        return self.record.partners

    @property
    def expert(self) -> int | None:
        """That computes it, where the SAE has experts."""
        return self.record.expert

    def generate(
        self,
        prompt: str,
        *,
        add: float | None = None,
        clamp: float | None = None,
        ablate: bool = False,
        new_tokens: int = 30,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> "BeforeAfter":
        """What the model writes after a prompt, without and with the latent edited, at every token
        but BOS; the SAE's error stays.

        Args:
            add: added to its activation.
            clamp: what its activation is set to.
            ablate: set it to 0.
            temperature: 0 takes the likeliest token.
            seed: of the draws, the same for both.

        Raises:
            UserError: unless one of the three is given; if the prompt is empty or a number is out
                of range.
        """
        given = [
            Edit(self.site, self.number, kind, value)
            for kind, value in (("add", add), ("clamp", clamp), ("ablate", 0.0 if ablate else None))
            if value is not None
        ]
        if len(given) != 1:
            raise UserError(
                f"latent {self.number} at {self.site} is edited in one way, not {len(given)}; give "
                "one of add=…, clamp=… and ablate=True"
            )
        before, after = (
            self.looking.generated(prompt, edits, new_tokens, temperature, seed)
            for edits in ([], given)
        )
        return BeforeAfter(before, after)

    def lines(self, width: int = WIDTH) -> list[str]:
        """All of it, as text."""
        effects = self.looking.effects(self.site).about
        return latent_lines(self.record, self.site, self.about, effects, width)

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        first = next((at for at, line in enumerate(self.lines()) if line.startswith("Contexts")))
        return f"<pre>{escape(chr(10).join(self.lines()[: first + 1]))}</pre>" + "".join(
            _context(context) for context in self.contexts
        )


@final
@dataclass(frozen=True)
class BeforeAfter:
    """What a model writes without and with an edit; the prompt is in both."""

    before: str
    after: str

    def __repr__(self) -> str:
        return f"before: {self.before}\nafter:  {self.after}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    last = max(map(len, rows), default=len(heads)) - len(heads) + 1
    head = [f"<th>{escape(name)}</th>" for name in heads[:-1]]
    head.append(f'<th colspan="{last}" style="text-align:left">{escape(heads[-1])}</th>')
    body = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table><tr>{''.join(head)}</tr>{''.join(body)}</table>"


def _context(context: TokenContext) -> str:
    """A context, tokens darker the more the latent fires on them."""
    values = [value or 0.0 for value in context.activations]
    largest = max([*values, 1e-30])
    spans = "".join(
        f'<span title="{value:.3g}" style="background:rgba(214,96,77,{value / largest:.2f})">'
        f"{escape(legible(token))}</span>"
        for token, value in zip(context.tokens, values, strict=True)
    )
    return f'<div style="font-family:monospace;white-space:pre-wrap">{spans}</div>'
