"""`saeworks latents`: which latents fire on a sentence, and what one is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import Doc
from tyro.conf import Positional

from saeworks.cli.arguments import Json, OtherModel
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import Device
from saeworks.errors import DONE, UserError

if TYPE_CHECKING:
    from saeworks.measure.looking.session import Looking

FEW = 4
"""Sites that are all shown where none is named; of more, the first, the middle and the last."""


@dataclass(frozen=True)
class Latents:
    """Look latents in the eye: those that fire on a sentence, token by token, and single ones.

    No evaluation is run, and nothing is written into the suite.
    """

    suite: Annotated[Path, Positional]
    """Folder of a suite."""
    text: str | None = None
    """A sentence, such as "When Mary and John went to the shop"."""
    site: tuple[str, ...] = ()
    """Sites of the suite: names, aliases or patterns. By default all, where they are few."""
    latent: tuple[int, ...] = ()
    """Numbers of latents of one site: what each responds to and does, and which others are near."""
    top: int = 5
    """Strongest latents of each token, as far as the terminal is wide enough."""
    tokens: int = 20_000
    """Held-out tokens in which contexts are looked for, of latents that the suite's evaluation
    (`saeworks eval --latents`) does not have."""
    model: OtherModel = None
    corpus: Annotated[
        str | None,
        Doc("Another text than the suite's own, from which contexts are: as --text of `eval`."),
    ] = None
    device: Device = "auto"
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        self._check()
        from saeworks.measure.looking.session import Looking
        from saeworks.suite import load_suite

        looking = Looking(
            load_suite(self.suite),
            model=self.model,
            corpus=self.corpus,
            device=self.device,
            tokens=self.tokens,
            say=speaker(self.json),
        )
        sites, others = self._sites(looking)
        for latent in self.latent:
            looking.number(sites[0], latent)
        sentences = {} if self.text is None else looking.sentences(self.text, sites)
        records = [looking.latent(sites[0], latent) for latent in self.latent]
        if self.json:
            print_json(
                {
                    "text": {site: asdict(sentence) for site, sentence in sentences.items()},
                    "latents": [{"site": sites[0], **asdict(record)} for record, _ in records],
                }
            )
            return DONE
        self._print(looking, sites, others, sentences, records)
        return DONE

    def _check(self) -> None:
        if self.text is None and not self.latent:
            raise UserError(
                "give a sentence with --text, or the number of a latent with --latent (and its "
                "--site)"
            )
        for name, value in (("top", self.top), ("tokens", self.tokens)):
            if value < 1:
                raise UserError(f"--{name} {value}: give at least 1")

    def _sites(self, looking: "Looking") -> tuple[list[str], list[str]]:
        """The sites that are shown, and those that are not for want of room."""
        every = looking.suite.sites
        sites = looking.sites(self.site) if self.site else list(every)
        if self.latent and len(sites) > 1:
            raise UserError(
                f"--latent {self.latent[0]}: name its site with --site, one of {', '.join(sites)}"
            )
        if self.site or len(sites) <= FEW:
            return sites, []
        shown = [sites[0], sites[len(sites) // 2], sites[-1]]
        return shown, [site for site in sites if site not in shown]

    def _print(
        self,
        looking: "Looking",
        sites: list[str],
        others: list[str],
        sentences: dict[str, Any],
        records: list[tuple[Any, str]],
    ) -> None:
        from saeworks.cli.tables import terminal
        from saeworks.measure.looking.lines import latent_lines, sentence_lines
        from saeworks.measure.looking.session import NAMED

        width = terminal().width
        for site, sentence in sentences.items():
            say(f"{site}: {looking.sae(site)}")
            promoted = looking.promoted(site, sentence.strongest(NAMED))
            for line in sentence_lines(sentence, self.top, width, promoted):
                say(line)
            say()
        for record, about in records:
            effects = looking.effects(sites[0]).about
            for line in latent_lines(record, sites[0], about, effects, width):
                say(line)
            say()
        if others:
            say(f"Also: {', '.join(others)}; name them with --site")
        if sentences and not records:
            strongest = sentences[sites[-1]].strongest(1)
            if strongest:
                words = ["--site", sites[-1], "--latent", strongest[0]]
                say(f"Next: {command('latents', self.suite, *words)}")
        elif records:
            say(f"Next: {command('steer', self.suite, '--help')}")
