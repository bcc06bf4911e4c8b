"""The page on groups: which sites share an SAE, what that saves and loses, which latents they
share."""

from dataclasses import dataclass

from saeworks.report import baseline
from saeworks.report.beside import beside, compared, routed, sentences, shares
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report


@dataclass(frozen=True)
class SharedSae:
    """Sites that share an SAE."""

    suite: int
    label: str
    name: str
    sites: list[str]
    width: int | None


def page(report: Report) -> Page | None:
    """None where every site has an SAE of its own."""
    suites = report.suites
    groups = [
        SharedSae(at, suite.label, name, group.sites, group.width)
        for at, suite in enumerate(suites)
        if shares(suite)
        for name, group in suite.meta.groups.items()
    ]
    if not groups:
        return None
    sharing = {group.suite for group in groups}
    told = [one for one in beside(suites) if one.index in sharing]
    plain = sentences([one for one in told if not routed(one.suite)])
    drawn = compared(suites, sharing)
    spread = baseline.spreads(suites)
    sections = [("groups", "Which sites share an SAE")]
    sections += [("costs", "What sharing costs")] if drawn else []
    sections += [("spread", "Shared latents")] if spread else []
    return Page(
        "Groups",
        "Layers that share an SAE",
        sections=sections,
        context={"groups": groups, "sentences": sentences(told)},
        data={"group_ratios": drawn, "spread": spread},
        scripts=(*CHARTS, "spread.js"),
        verdict=OverviewVerdict(plain or [_counts(report)], next(iter(drawn), None)),
    )


def _counts(report: Report) -> str:
    some = [suite for suite in report.suites if shares(suite)]
    counts = ", ".join(
        f"{len(suite.meta.groups)} for {len(suite.meta.sites)} sites ({suite.label})"
        for suite in some
    )
    return f"SAEs are shared by neighbouring layers: {counts}."
