"""What the raters' answers amount to: shares judged interpretable, differences, agreement.

A latent counts once, however many judged it: with the share of its raters who said yes. Shares have
Wilson's intervals, differences Newcombe's over sites (`people.statistics`).
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import write_text
from saeworks.files.seals import RESULTS, check_own
from saeworks.people.raters import VERDICTS, Answer, raters, read_answers
from saeworks.people.statistics import (
    Count,
    cohen,
    detectable,
    difference,
    fleiss,
    over_latents,
    share,
    wilson,
)
from saeworks.people.study import STUDY, DrawnLatent, HumanStudy, study_digest
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import OF_LATENTS, LatentVerdict

YES, YES_OR_MAYBE, GROUP, DIFFERENCE, JUDGED = (
    "judged_interpretable",
    "judged_at_least_maybe",
    "judged_interpretable_group",
    "judged_interpretable_difference",
    "judged",
)
METRICS = {
    YES: Metric(
        "Judged interpretable",
        "Share of latents that people judged interpretable (yes), of those drawn at random from "
        "the live ones; a latent counts with the share of its raters. Wilson's interval.",
        better="higher",
    ),
    YES_OR_MAYBE: Metric(
        "At least maybe",
        "The same, for yes or maybe.",
        better="higher",
    ),
    GROUP: Metric(
        "In its group",
        "The same as judged interpretable, over all sites that share the SAE.",
        better="higher",
    ),
    DIFFERENCE: Metric(
        "Difference",
        "Share judged interpretable minus that of the study's first suite at the same site. "
        "Newcombe's interval.",
        better="higher",
    ),
    JUDGED: Metric("Latents judged", "Latents that at least one person judged.", "latents"),
}
FIGURES = (
    Figure(
        "human-study",
        "line",
        (Trace(metric=YES),),
        lines="suites",
        y=Axis(zero=True, least=(0.0, 1.0)),
        caption="The share of latents that people judged interpretable, without knowing whose they "
        "were, with Wilson's 95% interval.",
    ),
)
_FAIR, _SUBSTANTIAL = 0.4, 0.6
"""Values of κ below which agreement is called slight or fair, and from which substantial (Landis
and Koch 1977, in three steps)."""


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
        self, statistic: Callable[[Any], float | None], names: Sequence[str]
    ) -> tuple[Value, int]:
        """A κ of some raters, and the number of latents that all of them judged."""
        ratings = [
            [str(latent.answers[name].verdict) for name in names]
            for latent in self.judged
            if all(name in latent.answers for name in names)
        ]
        return over_latents(statistic, ratings), len(ratings)


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


def results(analysis: Analysis) -> list[Result]:
    """The result of each suite of the study."""
    study = analysis.study
    common = _common_findings(analysis)
    return [
        Result(
            evaluation=STUDY.removesuffix(".json"),
            title="What people say of the latents",
            config={
                "study": analysis.digest,
                "suites": [suite.digest for suite in study.suites],
                "raters": analysis.raters,
                "latents": study.of_each_suite,
                "seed": study.seed,
                "how": study.how,
            },
            tokens=suite.tokens,
            documents=suite.documents,
            metrics=METRICS,
            sites={site: _values(analysis, number, site) for site in study.sites},
            series={site: {OF_LATENTS: _verdicts(analysis, number, site)} for site in study.sites},
            figures=FIGURES,
            findings=(*_findings(analysis, number), *common),
        )
        for number, suite in enumerate(study.suites)
    ]


def write_results(analysis: Analysis, places: Sequence[Path | None]) -> list[Path]:
    """Write each suite's result into it, where it is to be found; the files."""
    written = []
    for result, place in zip(results(analysis), places, strict=True):
        if place is not None:
            file = place / RESULTS / STUDY
            check_own(file)
            result.write(file)
            written.append(file)
    return written


def _values(analysis: Analysis, suite: int, site: str) -> dict[str, Value]:
    count = analysis.count(suite, [site])
    if not count.n:
        return {JUDGED: Value(0.0)}
    values = {
        YES: share(count),
        YES_OR_MAYBE: share(analysis.count(suite, [site], VERDICTS[:2])),
        JUDGED: Value(float(count.n)),
    }
    sharing = sites_of_group(analysis.study, suite, site)
    if len(sharing) > 1:
        values[GROUP] = share(analysis.count(suite, sharing))
    if suite:
        values[DIFFERENCE] = analysis.gap(suite, 0, [site])
    return values


def _verdicts(analysis: Analysis, suite: int, site: str) -> list[Any]:
    """What was said of each latent, for the report's browser."""
    return [
        plain(LatentVerdict(latent.drawn.latent, str(answer.verdict), answer.note, name))
        for latent in analysis.judged
        if (latent.drawn.suite, latent.drawn.site) == (suite, site)
        for name, answer in latent.answers.items()
    ]


def sites_of_group(study: HumanStudy, suite: int, site: str) -> list[str]:
    """The studied sites of a suite that have the same SAE as this one."""
    groups = study.suites[suite].groups
    return [other for other in study.sites if groups[other] == groups[site]]


def _findings(analysis: Analysis, suite: int) -> list[str]:
    """What is found of a suite, beside the first one or, for the first, beside the others."""
    others = range(1, len(analysis.study.suites)) if suite == 0 else (0,)
    gaps = [_gap_finding(analysis, suite, other) for other in others]
    return [*_share_findings(analysis, suite), *gaps]


def all_findings(analysis: Analysis) -> list[str]:
    """What is found of all suites, each thing once."""
    numbers = range(len(analysis.study.suites))
    return [
        *(sentence for number in numbers for sentence in _share_findings(analysis, number)),
        *(_gap_finding(analysis, number, 0) for number in numbers[1:]),
        *_common_findings(analysis),
    ]


def _share_findings(analysis: Analysis, suite: int) -> list[str]:
    """What share of a suite's latents is interpretable."""
    study = analysis.study
    label = study.suites[suite].label
    yes = analysis.count(suite, study.sites)
    maybe = analysis.count(suite, study.sites, VERDICTS[:2])
    if not yes.n:
        return [f"None of the {study.of_each_suite} latents of {label} is judged yet."]
    left = study.of_each_suite - yes.n
    told = (
        f"{label}: {_percent(share(yes))} of {yes.n} live latents judged interpretable, "
        f"{_percent(share(maybe))} at least maybe"
    )
    by_site = {site: share(analysis.count(suite, [site])) for site in study.sites}
    ranked = sorted((v.value, site) for site, v in by_site.items() if v.value is not None)
    if len(ranked) > 1:
        ends = [f"{_percent(by_site[site])} at {site}" for _, site in (ranked[0], ranked[-1])]
        told += f"; by site from {ends[0]} to {ends[1]}"
    return [told + (f"; {left} latents are not judged yet." if left else ".")]


def _gap_finding(analysis: Analysis, suite: int, other: int) -> str:
    labels = [analysis.study.suites[number].label for number in (suite, other)]
    sites = analysis.study.sites
    gap = analysis.gap(suite, other, sites)
    if gap.value is None or gap.low is None or gap.high is None:
        return f"{labels[0]} and {labels[1]} have no site at which latents of both are judged."
    over = f"the mean over {len(sites)} sites" if len(sites) > 1 else sites[0]
    told = f"{labels[0]} beside {labels[1]}: {_points(gap)} points, {over}"
    if gap.low > 0 or gap.high < 0:
        return f"{told}."
    n = min(analysis.count(number, sites).n for number in (suite, other))
    return f"{told}, which may be chance: {_power(n)}."


def power_sentence(study: HumanStudy) -> str:
    """What the study can find, before anybody has judged."""
    n = study.of_each_suite
    if len(study.suites) > 1:
        return _power(n)
    low, high = wilson(Count(n / 2, n))
    return f"with {n} latents a share of a half is known to ±{50 * (high - low):.0f} points"


def _power(n: int) -> str:
    gap = detectable(n)
    if gap is None:
        return f"with {n} latents per suite no difference is found with 80% probability"
    return (
        f"with {n} latents per suite a difference of {100 * gap:.0f} points is found with 80% "
        "probability"
    )


def _common_findings(analysis: Analysis) -> list[str]:
    """What holds of all suites."""
    return [
        *_agreement_findings(analysis),
        "Latents that never fired were not shown; and a pattern that people see in a latent is not "
        "yet one that the model uses.",
    ]


def _agreement_findings(analysis: Analysis) -> list[str]:
    names = analysis.raters
    if len(names) < 2:
        return [
            f"One person judged ({names[0]}), so nothing is known of agreement: another would "
            "perhaps say otherwise."
        ]
    sentences = []
    pairs = list(combinations(names, 2))
    for pair in pairs:
        value, latents = analysis.agreement(cohen, pair)
        sentences.append(_kappa("Cohen's", value, latents, f"{pair[0]} and {pair[1]}"))
    if len(names) > 2:
        value, latents = analysis.agreement(fleiss, names)
        sentences.insert(0, _kappa("Fleiss'", value, latents, f"{len(names)} raters"))
    return sentences


def _kappa(name: str, kappa: Value, latents: int, who: str) -> str:
    if kappa.value is None:
        return f"{name} κ of {who} is not defined on the {latents} latents that all of them judged."
    if kappa.value >= _SUBSTANTIAL:
        words = "substantial agreement"
    elif kappa.value >= _FAIR:
        words = "moderate agreement"
    else:
        words = "little agreement: a verdict depends on who gives it"
    return (
        f"{name} κ of {who}: {kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f}) on {latents} "
        f"latents, {words}."
    )


NOT_JUDGED = "–"
"""In a table: nothing was judged."""


def _percent(value: Value) -> str:
    """`61% (51 to 70)`."""
    if value.value is None or value.low is None or value.high is None:
        return NOT_JUDGED
    return f"{100 * value.value:.0f}% ({100 * value.low:.0f} to {100 * value.high:.0f})"


def _points(value: Value, absent: str = "") -> str:
    """`+5 (−9 to +19)`."""
    if value.value is None or value.low is None or value.high is None:
        return absent
    numbers = (f"{100 * number:+.0f}" for number in (value.value, value.low, value.high))
    told = "{} ({} to {})".format(*numbers)
    return told.replace("-", "−")


def summary_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """A table's heads and rows: each suite's sites, then groups of several sites, then all."""
    study = analysis.study
    heads = [METRICS[key].title for key in (YES, YES_OR_MAYBE)]
    rows: list[list[str]] = []
    for number, suite in enumerate(study.suites):
        groups = {suite.groups[site]: sites_of_group(study, number, site) for site in study.sites}
        places = {site: [site] for site in study.sites}
        places |= {f"{group} ({len(s)} sites)": s for group, s in groups.items() if len(s) > 1}
        if len(study.sites) > 1:
            places[f"all {len(study.sites)} sites"] = study.sites
        for place, sites in places.items():
            count = analysis.count(number, sites)
            gap = analysis.gap(number, 0, sites) if number else Value(None)
            shares = (share(count), share(analysis.count(number, sites, VERDICTS[:2])))
            rows.append(
                [suite.label, place, str(count.n), *map(_percent, shares), _points(gap, NOT_JUDGED)]
            )
    return ["suite", "site", JUDGED, *heads, "Points above the first"], rows


_WHOSE = ("place", "suite", "site", "group", "latent", "largest_activation")
_TOLD = ("rater", "verdict", "note", "seconds", "at")


def write_csv(analysis: Analysis, path: Path) -> int:
    """Write a row per answer, unblinded; the number of rows.

    Cells that a spreadsheet would take for a formula get an apostrophe before them.

    Raises:
        UserError: if the name does not end with .csv, or it cannot be written.
    """
    if path.suffix != ".csv":
        raise UserError(f"--export {path}: the name of a table ends with .csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*_WHOSE, *_TOLD])
    rows = 0
    for place, latent in enumerate(analysis.judged):
        drawn, suite = latent.drawn, analysis.study.suites[latent.drawn.suite]
        whose = (place, suite.label, drawn.site, suite.groups[drawn.site], drawn.latent)
        for name, answer in latent.answers.items():
            told = (name, answer.verdict, answer.note, answer.seconds, answer.at)
            writer.writerow([_harmless(cell) for cell in (*whose, drawn.largest, *told)])
            rows += 1
    write_text(path, text.getvalue())
    return rows


def _harmless(cell: object) -> object:
    """A cell that no spreadsheet runs."""
    if isinstance(cell, str) and cell.lstrip()[:1] in tuple("=+-@\t\r"):
        return f"'{cell}"
    return cell


def as_plain(analysis: Analysis) -> dict[str, Any]:
    """All numbers, for a machine."""
    study = analysis.study
    numbers = range(len(study.suites))
    return {
        "raters": {
            name: sum(name in latent.answers for latent in analysis.judged)
            for name in analysis.raters
        },
        "suites": {
            study.suites[number].label: {
                "path": study.suites[number].path,
                YES: asdict(share(analysis.count(number, study.sites))),
                YES_OR_MAYBE: asdict(share(analysis.count(number, study.sites, VERDICTS[:2]))),
                DIFFERENCE: asdict(analysis.gap(number, 0, study.sites)) if number else None,
                "sites": result.values(),
                "findings": list(result.findings),
            }
            for number, result in zip(numbers, results(analysis), strict=True)
        },
        "agreement": {
            "cohen": {
                f"{a}, {b}": asdict(analysis.agreement(cohen, (a, b))[0])
                for a, b in combinations(analysis.raters, 2)
            },
            "fleiss": asdict(analysis.agreement(fleiss, analysis.raters)[0]),
        },
    }
