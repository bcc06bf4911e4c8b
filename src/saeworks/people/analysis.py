"""What the raters' answers amount to, as results of the suites.

Shares have Wilson's intervals, differences Newcombe's over sites (`people.statistics`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from saeworks.files.seals import RESULTS, check_own
from saeworks.people.findings import NOT_JUDGED, common_findings, suite_findings
from saeworks.people.judged import Analysis, sites_of_group
from saeworks.people.statistics import VERDICTS, cohen, fleiss, share
from saeworks.people.study import STUDY
from saeworks.results.figure import Axis, Figure, Trace
from saeworks.results.metric import Metric, Value
from saeworks.results.records import plain
from saeworks.results.result import Result
from saeworks.results.series import OF_LATENTS, LatentVerdict
from saeworks.results.words import percent, points

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


def results(analysis: Analysis) -> list[Result]:
    """The result of each suite of the study."""
    study = analysis.study
    common = common_findings(analysis)
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
            findings=(*suite_findings(analysis, number), *common),
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
            told = [percent(value, NOT_JUDGED) for value in shares]
            rows.append([suite.label, place, str(count.n), *told, points(gap, NOT_JUDGED)])
    return ["suite", "site", JUDGED, *heads, "Points above the first"], rows


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
