"""A study with the answers of all its raters, and what is counted of them.

A latent counts once, however many judged it: with the share of its raters who said yes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from saeworks.errors import UserError
from saeworks.people.raters import Answer, raters, read_answers
from saeworks.people.statistics import VERDICTS, Count, RaterAgreement, Ratings, difference
from saeworks.people.study import DrawnLatent, HumanStudy, study_digest
from saeworks.results.metric import Value


@dataclass(frozen=True)
class Judged:
    """A latent and what its raters said."""

    drawn: DrawnLatent
    answers: Mapping[str, Answer]
    """By rater; those who have not judged it are left out."""

    def share(self, verdicts: Sequence[str]) -> float:
        """Of its raters, those who said one of these."""
        return fmean(answer.verdict in verdicts for answer in self.answers.values())


@dataclass(frozen=True)
class Analysis:
    """A study with its answers.

    Attributes:
        raters: who has judged a latent.
        judged: all latents of the study, in its order.
        dropped: raters whose file ended amid a line.
    """

    study: HumanStudy
    digest: str
    raters: list[str]
    judged: list[Judged]
    dropped: list[str]

    def count(
        self, suite: int, sites: Sequence[str], verdicts: Sequence[str] = VERDICTS[:1]
    ) -> Count:
        """Of the judged latents of a suite at these sites, those with one of the verdicts."""
        shares = [
            latent.share(verdicts)
            for latent in self.judged
            if latent.drawn.suite == suite and latent.drawn.site in sites and latent.answers
        ]
        return Count(sum(shares), len(shares))

    def gap(self, suite: int, other: int, sites: Sequence[str]) -> Value:
        """The share of a suite minus that of another: the mean over those of the sites at which
        latents of both are judged."""
        pairs = [(self.count(suite, [site]), self.count(other, [site])) for site in sites]
        return difference([(a, b) for a, b in pairs if a.n and b.n])

    def agreement(
        self, statistic: Callable[[Ratings], RaterAgreement], names: Sequence[str]
    ) -> tuple[Value, int]:
        """A κ of some raters, and the number of latents that all of them judged."""
        ratings = [
            [str(latent.answers[name].verdict) for name in names]
            for latent in self.judged
            if all(name in latent.answers for name in names)
        ]
        return statistic(ratings).kappa(), len(ratings)


def read_analysis(folder: Path, study: HumanStudy) -> Analysis:
    """Read the answers of all raters.

    Raises:
        UserError: if nobody has judged a latent yet, or a file is broken or of another study.
    """
    of_rater = {name: read_answers(folder, study, name) for name in raters(folder)}
    judged = [
        Judged(
            drawn,
            {name: answers[at] for name, (answers, _) in of_rater.items() if at in answers},
        )
        for at, drawn in enumerate(study.latents)
    ]
    names = [name for name, (answers, _) in of_rater.items() if answers]
    if not names:
        raise UserError(
            f"{folder} has no answers yet; judge its latents with `saeworks study {folder}`"
        )
    dropped = [name for name, (_, cut) in of_rater.items() if cut]
    return Analysis(study, study_digest(folder), names, judged, dropped)


def sites_of_group(study: HumanStudy, suite: int, site: str) -> list[str]:
    """The studied sites of a suite that have the same SAE as this one."""
    groups = study.suites[suite].groups
    return [other for other in study.sites if groups[other] == groups[site]]
