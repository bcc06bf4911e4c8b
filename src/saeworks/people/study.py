"""A human study on disk: the latents that are shown, without who shows them, and whose they are.

A folder of `study.json`, which is sealed and names each suite by the SHA-256 of its suite.json, and
`raters/NAME.jsonl`. The latents are drawn from the suites' `results/latents.json`.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.cost.progress import Progress
from saeworks.errors import UserError
from saeworks.files.access import LazyList, is_file, sha256
from saeworks.files.folders import owner
from saeworks.files.seals import (
    REPAIR,
    RESULTS,
    SUITE,
    read_suite_json,
    suite_digest,
    write_sealed,
)
from saeworks.people.config import HumanStudyConfig
from saeworks.results.latents import LATENTS, read_latents, size_of_latents
from saeworks.results.records import SCHEMA, parse, plain, read_record
from saeworks.results.series import Choice, Latent, TokenContext
from saeworks.results.suite_meta import SuiteMeta
from saeworks.results.tokens import legible

STUDY = "study.json"
"""Its name in the folder of a study, and in the results of each suite."""
MOST_SUITES = 20


@dataclass(frozen=True, config=STRICT)
class StudiedSuite:
    """A suite whose latents are shown."""

    label: str
    path: str
    digest: str
    """SHA-256 of its suite.json, and so of all its files."""
    groups: dict[str, str]
    """Site → the group whose SAE it has."""
    live: dict[str, int]
    """Site → latents that fired on the held-out tokens."""
    tokens: int
    """Held-out tokens that their contexts are from."""
    documents: int


@dataclass(frozen=True, config=STRICT)
class DrawnLatent:
    """A latent that is shown: whose it is, which the page is not told, and what it responds to."""

    suite: int
    """Place among the study's suites."""
    site: str
    latent: int
    largest: float
    """Its largest activation."""
    contexts: list[TokenContext]
    promoted: list[str] = field(default_factory=list)
    """Tokens whose logits it raises most."""
    suppressed: list[str] = field(default_factory=list)


@dataclass(frozen=True, config=STRICT)
class HumanStudy:
    """What is shown to every rater, in this order."""

    seed: int
    sites: list[str]
    each: int
    """Latents of each suite at each site."""
    how: str
    """How they were drawn."""
    suites: list[StudiedSuite]
    latents: list[DrawnLatent]
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        for drawn in self.latents:
            if not 0 <= drawn.suite < len(self.suites):
                raise ValueError(f"has a latent of suite {drawn.suite}, which it does not name")
            if drawn.site not in self.suites[drawn.suite].groups:
                raise ValueError(f"has a latent of {drawn.site!r}, which its suite has not")
        if not self.latents or not self.suites:
            raise ValueError("shows no latent")

    @property
    def of_each_suite(self) -> int:
        """Latents of a suite."""
        return self.each * len(self.sites)


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study."""
    return is_file(folder / STUDY) and not is_file(folder / SUITE)


def read_study(folder: Path) -> HumanStudy:
    """A study that was made before.

    Raises:
        UserError: if it is missing, or not what was written.
    """
    return read_record(HumanStudy, folder / STUDY, "study", "saeworks study SUITE… --out NEW")


def study_digest(folder: Path) -> str:
    """The SHA-256 of a study's file, which the files of its raters name."""
    return sha256(folder / STUDY)


def make_study(
    paths: Sequence[Path],
    folder: Path,
    config: HumanStudyConfig,
    say: Callable[[str], None] = lambda line: None,
) -> HumanStudy:
    """Draw latents of the suites and write the study; where it is there already, read it.

    Args:
        say: prints a line of progress.

    Raises:
        UserError: if a suite has no latents, or not enough at a site; the folder has a study of
            other suites or other options, or lies in a suite or run; a suite is named twice.
    """
    if is_file(folder / STUDY):
        study = read_study(folder)
        _check_same(study, paths, folder, config)
        return study
    if (other := owner(folder)) is not None:
        raise UserError(f"--out {folder} lies in {other}, a run or suite; choose another folder")
    if not 1 <= len(paths) <= MOST_SUITES:
        raise UserError(f"a study is of 1 to {MOST_SUITES} suites, not of {len(paths)}")
    metas = [_meta(path) for path in paths]
    sites = _sites(paths, metas, config.site)
    each = -(-config.latents // len(sites))
    suites: list[StudiedSuite] = []
    strata: dict[tuple[int, str], list[DrawnLatent]] = {}
    how = ""
    for number, (path, meta) in enumerate(zip(paths, metas)):
        with Progress(f"latents of {path}", size_of_latents(path), say, unit="bytes") as progress:
            drawn, choices, text = _draw(number, path, sites, each, config.seed, progress.add)
        strata |= {(number, site): latents for site, latents in drawn.items()}
        how = f"{each} at random of those in each suite's {LATENTS} at each site; there: "
        how += "; ".join(dict.fromkeys(choice.how for choice in choices.values()))
        suites.append(
            StudiedSuite(
                _label(meta, path, metas),
                str(path.resolve()),
                suite_digest(path),
                {site: meta.sites[site].group for site in sites},
                {site: choice.live for site, choice in choices.items()},
                *text,
            )
        )
    if len({suite.digest for suite in suites}) < len(suites):
        raise UserError("the same suite is named twice; name each suite once")
    study = HumanStudy(config.seed, sites, each, how, suites, _order(strata, config.seed))
    shown = LazyList(len(study.latents), lambda place: plain(study.latents[place]))
    write_sealed(folder / STUDY, plain(study) | {"latents": shown})
    return study


def locate(study: HumanStudy, paths: Sequence[Path]) -> list[Path | None]:
    """Where each suite of the study is: among `paths`, or where it was; None where it has gone.

    Raises:
        UserError: if one of `paths` is no suite of this study, or a suite has changed.
    """
    by_digest = {suite_digest(path): path for path in paths}
    digests = {suite.digest for suite in study.suites}
    for digest, path in by_digest.items():
        if digest not in digests:
            raise UserError(
                f"{path} is no suite of this study, which is of "
                f"{', '.join(suite.label for suite in study.suites)}; make a study of it with "
                "`saeworks study SUITE… --out NEW`"
            )
    located: list[Path | None] = []
    for suite in study.suites:
        path = by_digest.get(suite.digest, Path(suite.path))
        if not is_file(path / SUITE):
            located.append(None)
        elif suite_digest(path) != suite.digest:
            raise UserError(
                f"{path} is another suite than the study's {suite.label}, or was trained anew; "
                "name the folder in which that one is now after the study's"
            )
        else:
            located.append(path)
    return located


def _check_same(
    study: HumanStudy, paths: Sequence[Path], folder: Path, config: HumanStudyConfig
) -> None:
    """Refuse to go on with a study that is not the one asked for."""
    digests = [suite_digest(path) for path in paths]
    if digests != [suite.digest for suite in study.suites]:
        named = ", ".join(suite.path for suite in study.suites)
        raise UserError(
            f"{folder / STUDY} is of other suites, or in another order: {named}; choose another "
            f"--out, or go on with `saeworks study {folder}`"
        )
    asked = -(-config.latents // len(study.sites))
    if (
        study.seed != config.seed
        or study.each != asked
        or (config.site and list(config.site) != study.sites)
    ):
        raise UserError(
            f"{folder / STUDY} was made with --latents {study.of_each_suite} --seed {study.seed} "
            f"at {', '.join(study.sites)}; choose another --out, or go on with "
            f"`saeworks study {folder}`"
        )


def _meta(path: Path) -> SuiteMeta:
    return parse(SuiteMeta, read_suite_json(path), str(path / SUITE), REPAIR)


def _label(meta: SuiteMeta, path: Path, metas: Sequence[SuiteMeta]) -> str:
    """The variant, with the folder where two suites share it."""
    alike = [other for other in metas if other.variant == meta.variant]
    return meta.variant if len(alike) == 1 else f"{meta.variant} ({path})"


def _sites(paths: Sequence[Path], metas: Sequence[SuiteMeta], asked: Sequence[str]) -> list[str]:
    """The sites whose latents are shown, in the order of the model.

    Raises:
        UserError: if a suite lacks one, or they have none in common.
    """
    for site in asked:
        for path, meta in zip(paths, metas):
            if site not in meta.sites:
                raise UserError(
                    f"suite {path} has no site {site!r}; it has {', '.join(meta.sites)}"
                )
    shared = [site for site in metas[0].sites if all(site in meta.sites for meta in metas)]
    if not shared:
        raise UserError(
            f"{', '.join(map(str, paths))} have no site in common, so a difference would be one of "
            "sites; make a study of each"
        )
    return [site for site in shared if site in asked] if asked else shared


def _draw(
    number: int,
    path: Path,
    sites: Sequence[str],
    each: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, list[DrawnLatent]], dict[str, Choice], tuple[int, int]]:
    """`each` latents of every site of a suite, how its file had chosen those that it has, and its
    tokens and documents.

    They are those with the smallest SHA-256 of seed, suite, site and number, which any latent is as
    likely to have as another. The file is read latent by latent, however long it is.
    """
    digest, again = suite_digest(path), f"saeworks eval {path} --latents {max(64, each)}"
    drawn: dict[str, list[tuple[int, DrawnLatent]]] = {site: [] for site in sites}

    def take(site: str, latent: Latent) -> None:
        if site not in drawn or not latent.contexts:
            return
        lot = hashlib.sha256(f"{seed}/{digest}/{site}/{latent.latent}".encode()).digest()
        shown = DrawnLatent(
            number,
            site,
            latent.latent,
            latent.max_activation or 0.0,
            latent.contexts,
            [effect.token for effect in latent.promoted],
            [effect.token for effect in latent.suppressed],
        )
        entry = (-int.from_bytes(lot), shown)
        if len(drawn[site]) < each:
            heapq.heappush(drawn[site], entry)
        else:
            heapq.heappushpop(drawn[site], entry)

    result, choices = read_latents(path, again, take, advance)
    for site, entries in drawn.items():
        _check_enough(path, site, len(entries), each, choices.get(site), again)
    return (
        {site: [latent for _, latent in entries] for site, entries in drawn.items()},
        {site: choices[site] for site in sites},
        (result.tokens, result.documents),
    )


def _check_enough(
    path: Path, site: str, latents: int, each: int, choice: Choice | None, again: str
) -> None:
    """Refuse a suite whose file has fewer latents of a site than are to be shown."""
    if choice is None:
        raise UserError(f"{path}: {RESULTS}/{LATENTS} has no latents of {site}; run `{again}`")
    if latents >= each:
        return
    way_out = f"run `{again}`"
    if choice.live < each:
        way_out = f"only {choice.live} fire there: lower --latents"
    raise UserError(
        f"{path}: {RESULTS}/{LATENTS} has {latents} latents of {site} and {each} are needed; "
        f"{way_out}"
    )


def _order(strata: Mapping[tuple[int, str], Sequence[DrawnLatent]], seed: int) -> list[DrawnLatent]:
    """All latents at random, in blocks with one of each suite and site, so that a rater who stops
    early has judged as many of each."""
    rng = random.Random(f"saeworks study {seed}")
    shuffled = [rng.sample(sorted(s, key=lambda d: d.latent), len(s)) for s in strata.values()]
    order: list[DrawnLatent] = []
    for block in zip(*shuffled, strict=True):
        order += rng.sample(block, len(block))
    return order


def as_shown(study: HumanStudy, place: int) -> dict[str, Any]:
    """A latent for the page, which is told neither whose it is nor its number or scale, and its
    effects only where all latents of the study have them: else these would tell."""
    drawn = study.latents[place]
    contexts = [
        {
            "kind": context.kind,
            "tokens": [legible(token) for token in context.tokens],
            "activations": [(a or 0.0) / (drawn.largest or 1.0) for a in context.activations],
            "peak": context.peak,
        }
        for context in drawn.contexts
    ]
    effects = {"promoted": drawn.promoted, "suppressed": drawn.suppressed}
    if not all(latent.promoted for latent in study.latents):
        effects = {}
    return {
        "place": place,
        "contexts": contexts,
        **{name: [legible(token) for token in tokens] for name, tokens in effects.items()},
    }
