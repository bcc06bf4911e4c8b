"""What a study found, in sentences with their numbers."""

from itertools import combinations

from saeworks.people.judged import Analysis
from saeworks.people.statistics import VERDICTS, Count, cohen, detectable, fleiss, share, wilson
from saeworks.people.study import HumanStudy
from saeworks.results.metric import Value
from saeworks.results.words import decimal, percent, points

_FAIR, _SUBSTANTIAL = 0.4, 0.6
"""Values of κ below which agreement is called slight or fair, and from which substantial (Landis
and Koch 1977, in three steps)."""
NOT_JUDGED = "–"
"""In a table: nothing was judged."""


def suite_findings(analysis: Analysis, suite: int) -> list[str]:
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
        *common_findings(analysis),
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
        f"{label}: {percent(share(yes))} of {yes.n} live latents judged interpretable, "
        f"{percent(share(maybe))} at least maybe"
    )
    by_site = {site: share(analysis.count(suite, [site])) for site in study.sites}
    ranked = sorted((v.value, site) for site, v in by_site.items() if v.value is not None)
    if len(ranked) > 1:
        ends = [f"{percent(by_site[site])} at {site}" for _, site in (ranked[0], ranked[-1])]
        told += f"; by site from {ends[0]} to {ends[1]}"
    return [told + (f"; {left} latents are not judged yet." if left else ".")]


def _gap_finding(analysis: Analysis, suite: int, other: int) -> str:
    labels = [analysis.study.suites[number].label for number in (suite, other)]
    sites = analysis.study.sites
    gap = analysis.gap(suite, other, sites)
    if gap.value is None or gap.low is None or gap.high is None:
        return f"{labels[0]} and {labels[1]} have no site at which latents of both are judged."
    over = f"the mean over {len(sites)} sites" if len(sites) > 1 else sites[0]
    told = f"{labels[0]} beside {labels[1]}: {points(gap)} points, {over}"
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


def common_findings(analysis: Analysis) -> list[str]:
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
    return f"{name} κ of {who}: {decimal(kappa)} on {latents} latents, {words}."
