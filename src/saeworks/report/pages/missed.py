"""The page on what is missed: verdicts first, then the numbers behind them, figures and tables.

All of it is what `saeworks audit` left in results/audit.json. Figures are those that its sections
declare; here are the chapters in which they stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saeworks.files.seals import RESULTS
from saeworks.report import audit_widths as widths
from saeworks.report.figure_tables import lists_table, metrics_table
from saeworks.report.figures import Group, charts, groups
from saeworks.report.marks import Chart
from saeworks.report.numbers import count
from saeworks.report.page import CHARTS, OverviewVerdict, Page, Report
from saeworks.report.sources import FigureSource, declared, places
from saeworks.report.suites import SuiteData
from saeworks.report.tables import Cell, Column, Row, Table
from saeworks.results.audit import AuditResult
from saeworks.results.figure import Chapter
from saeworks.results.metric import Metric
from saeworks.results.names import AUDIT
from saeworks.results.section import Section

CHAPTERS: dict[Chapter, tuple[str, str]] = {
    "parts": (
        "What is lost, and of which kind",
        "FVU of each SAE, taken apart. Nonlinear: what no affine map of x gives back. Encoder: "
        "the share of it that pursuit finds with the same dictionary and L0 (of noise it would "
        "find some, too: see where the error may come from). Linear: what an "
        "affine map of x gives back; where several widths were audited together and a law could "
        "be told, what wider SAEs would recover of it stands apart as absent. Whiskers are 95% "
        "intervals of a part.",
    ),
    "widths": (
        "Over the widths",
        "SAEs of one architecture and about equal L0 on the same tokens, by their number of "
        "latents. The law FVU = c + a·W⁻ᵐ is drawn to four times the widest SAE; what it says "
        "there is an extrapolation, and where the widths do not tell c nothing is called absent. "
        "Per token: R² of ‖e‖ at one width from ‖e‖ at a smaller one, and with ‖u‖ added.",
    ),
    "layers": (
        "Over the layers",
        "The numbers that the verdicts rest on, a line per suite; of one layer alone, a point.",
    ),
    "shrinkage": (
        "Is it shrinkage?",
        "An SAE whose output is too small has an error that is linear in x for that reason alone. "
        "Each probe again at wider and wider recalibrations of x̂: what stays is no such artefact. "
        "R² of e ~ a·x is no measure of it: that is FVU for any SAE with α* = 1.",
    ),
    "norms": (
        "How large the error is",
        "The squared norm of the error as predicted from x by least squares, on test documents. "
        "In the scatter each point is a token, in units of the mean ‖x − x̄‖² (the actual ones "
        "average to FVU); the line is the mean of the actual ones in each tenth of the predicted.",
    ),
    "effects": (
        "What it does, and where it could be found",
        "Sites before: how much of e, ℓ and u is linear in what the site before knows. Pursuit: "
        "better codes from the same dictionary. SAEs trained on e, ℓ or u: the lower their FVU, "
        "the more of it a sparse code can say. Loss: how much of what the SAE costs the model "
        "comes back when ℓ or u is put back, beside how much of ‖e‖² it is; sites where that cost "
        "is not known to be above 0 are left out: their shares mean nothing.",
    ),
    "sources": (
        "Where it may come from",
        "FVU by what one correction after another takes away: each latent rescaled (scale), "
        "least-squares coefficients on the latents that the encoder chose (coefficients; the mark "
        "is what they would mend of noise), latents chosen anew with the same L0 (choice; its mark "
        "is where its bar would end if they were chosen for noise of the same size). The rest "
        "holds missing features, a dense part and wrong directions, and bounds none of them alone. "
        "Below: noise is put into activation and reconstruction and latents are left out; where "
        "the noise inferred is not the noise put in, missing features pass for noise.",
    ),
    "controls": (
        "Controls",
        "The same probe where there is nothing to find (errors of other tokens, and noise with "
        "the errors' norms): about minus the cost of the fit is right. What nonlinear extractors "
        "find of u by their capacity, and the error by position in the context.",
    ),
}
"""Questions, in the order of the page: a title and what to look for."""


@dataclass(frozen=True)
class Site:
    """The verdict at one site."""

    name: str
    degenerate: bool
    first: str
    rest: Sequence[str]


@dataclass(frozen=True)
class Verdicts:
    """What the numbers of one suite say."""

    suite: int
    label: str
    measured: str
    sites: list[Site]


@dataclass(frozen=True)
class Block:
    """One chapter: its figures and its tables."""

    id: Chapter
    title: str
    lead: str
    figures: list[Group]
    tables: list[Table]
    notes: list[str]

    @property
    def panels(self) -> bool:
        """Whether it shows one suite at a time."""
        return any("panel" in chart for group in self.figures for chart in group.charts)


@dataclass(frozen=True)
class Audits:
    """All that the page shows of the audits."""

    verdicts: list[Verdicts]
    assumptions: list[str]
    suites: list[tuple[int, str]]
    """Those to choose between, where not all are shown at once: number, label."""
    blocks: list[Block]

    def data(self) -> dict[str, list[Chart]]:
        """The charts, by the names of their groups."""
        return {group.id: group.charts for block in self.blocks for group in block.figures}


def page(report: Report) -> Page | None:
    """None if no suite was audited."""
    audits = audited(report.suites)
    if audits is None:
        return None
    data = audits.data()
    first = [chart for charts_ in data.values() for chart in charts_]
    return Page(
        "What is missed",
        "What the SAEs miss",
        "The error e = x − x̂ of every SAE, split into ℓ, its best affine prediction from the "
        "activation x, and u, the rest; fitted on some held-out documents, measured on others, "
        "with 95% intervals over those.",
        sections=[
            ("verdicts", "Verdicts"),
            *((block.id, block.title) for block in audits.blocks),
        ],
        context={"audit": audits},
        data=data,
        scripts=CHARTS,
        verdict=OverviewVerdict(_last(audits), next(iter(first), None)),
    )


def _last(audits: Audits) -> list[str]:
    """The first sentence of each suite's last site: the errors of early layers are small."""
    last = ((one, one.sites[-1]) for one in audits.verdicts if one.sites)
    return [f"{one.label}, {site.name}: {site.first}" for one, site in last][:3]


def audited(suites: Sequence[SuiteData]) -> Audits | None:
    """What the audits say; None if no suite was audited.

    Raises:
        UserError: if what a figure draws is not what it should be.
    """
    audits = [suite.audit for suite in suites if suite.audit]
    sources = sources_of(suites)
    if not sources:
        return None
    assumptions = (
        line
        for audit in audits
        for verdict in audit.verdicts.values()
        for line in verdict.assumptions
    )
    blocks = [_block(key, sources) for key in CHAPTERS]
    blocks[-1].tables.append(_measured_at(sources, audits))
    return Audits(
        [_verdicts(source, audit) for source, audit in zip(sources, audits, strict=True)],
        list(dict.fromkeys(assumptions)),
        [(source.index, source.label) for source in sources] if len(sources) > 1 else [],
        [block for block in blocks if block.figures or block.tables],
    )


def sources_of(suites: Sequence[SuiteData]) -> list[FigureSource]:
    """The sources of the figures, one for each suite that was audited."""
    return [
        FigureSource(
            index,
            suite.label,
            list(suite.audit.verdicts),
            suite.audit.sections,
            suite.path / RESULTS / AUDIT,
        )
        for index, suite in enumerate(suites)
        if suite.audit
    ]


def _verdicts(source: FigureSource, audit: AuditResult) -> Verdicts:
    over = f"{count(audit.tokens)} test tokens of {count(audit.documents)} documents"
    fit = audit.folds.get("fit")
    fitted = f"; fitted on {count(fit.tokens)} of {count(fit.documents)}" if fit else ""
    sites = [
        Site(name, verdict.degenerate is not None, first, rest)
        for name, verdict in audit.verdicts.items()
        for first, *rest in [verdict.sentences]
    ]
    return Verdicts(source.index, source.label, f"{over}{fitted}", sites)


def _block(chapter: Chapter, sources: Sequence[FigureSource]) -> Block:
    chapters = {
        name: section.chapter
        for source in sources
        for name, section in source.sections.items()
        if isinstance(section, Section)
    }
    here = [(n, f) for n, f in declared(sources) if (f.chapter or chapters[n]) == chapter]
    drawn = [(f, charts(name, f, sources)) for name, f in here if f.kind != "table"]
    tables = [metrics_table(n, sources) for n, place in chapters.items() if place == chapter]
    tables += [lists_table(name, f, sources) for name, f in here if f.kind == "table"]
    told = widths.families(sources) if chapter == "widths" else []
    return Block(
        chapter,
        *CHAPTERS[chapter],
        widths.drawn(told) + groups("audit", drawn),
        widths.tables(told) + [table for table in tables if table],
        widths.notes(told),
    )


def _measured_at(sources: Sequence[FigureSource], audits: Sequence[AuditResult]) -> Table:
    """How many tokens and documents each fold has."""
    names = ("fit", "second", "test")
    columns = [Column(name, Metric(f"{name} fold", "", "tokens")) for name in names]
    folds = {
        source.index: [audit.folds.get(name) for name in names]
        for source, audit in zip(sources, audits, strict=True)
    }
    rows = [
        Row(
            place.site,
            place.order,
            place.suite,
            place.label,
            [
                Cell(count(fold.tokens), f"{count(fold.documents)} documents", float(fold.tokens))
                if fold
                else Cell("–", "", None)
                for fold in folds[place.suite]
            ],
        )
        for place, _ in places(sources)
    ]
    return Table("What was fitted and measured on", columns, rows)
