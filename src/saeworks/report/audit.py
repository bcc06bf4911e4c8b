"""The audit's section: verdicts first, then the numbers behind them, each figure with its table.

All of it is what `saeworks audit` left in results/audit.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saeworks.report import audit_charts as charts
from saeworks.report import audit_controls as controls
from saeworks.report import audit_widths as widths
from saeworks.report.audit_inputs import Audited, read_audits
from saeworks.report.audit_tables import (
    Table,
    measured_at,
    of_sections,
    positions,
    tenths,
)
from saeworks.report.numbers import count
from saeworks.report.suites import SuiteData

Chart = dict[str, Any]

SHOWN_AT_ONCE = 4
"""Suites whose decompositions stand side by side; of more, one at a time."""


@dataclass(frozen=True)
class Site:
    """The verdict at one site."""

    name: str
    degenerate: bool
    first: str
    rest: Sequence[str]


@dataclass(frozen=True)
class Verdicts:
    """What was said of one suite."""

    suite: int
    label: str
    measured: str
    sites: list[Site]


@dataclass(frozen=True)
class Figures:
    """Charts with one legend, by their name in the page's data."""

    id: str
    style: str
    charts: list[Chart]


@dataclass(frozen=True)
class Block:
    """One question, its figures and its tables."""

    title: str
    lead: str
    figures: list[Figures]
    tables: list[Table]
    notes: list[str]


@dataclass(frozen=True)
class Section:
    """All that the page shows of the audits."""

    verdicts: list[Verdicts]
    assumptions: list[str]
    suites: list[tuple[int, str]]
    """Those to choose between, where not all are shown at once: number, label."""
    blocks: list[Block]

    @property
    def choice_at(self) -> int:
        """The block, from 1, before which a suite is chosen: the first that shows one at a time."""
        return next(
            (
                at
                for at, block in enumerate(self.blocks, start=1)
                if any("panel" in chart for figures in block.figures for chart in figures.charts)
            ),
            0,
        )

    def data(self) -> dict[str, list[Chart]]:
        """The charts, by the names of their figures."""
        return {f.id: f.charts for block in self.blocks for f in block.figures}


def section(suites: Sequence[SuiteData]) -> Section | None:
    """None where no suite was audited.

    Raises:
        UserError: if an audit.json is not what it should be.
    """
    audits = read_audits(suites)
    if not audits:
        return None
    makers = (_parts, _widths, _depth, _shrinkage, _norms, _effects, _sources, _controls)
    blocks = [make(audits) for make in makers]
    said = [
        line for audit in audits for v in audit.file.verdicts.values() for line in v.assumptions
    ]
    several = len(audits) > 1
    return Section(
        [_verdicts(audit) for audit in audits],
        list(dict.fromkeys(said)),
        [(audit.index, audit.label) for audit in audits] if several else [],
        [block for block in blocks if block.figures or block.tables],
    )


def _verdicts(audit: Audited) -> Verdicts:
    file = audit.file
    over = f"{count(file.tokens)} test tokens of {count(file.documents)} documents"
    fit = file.folds.get("fit")
    fitted = f"; fitted on {count(fit.tokens)} of {count(fit.documents)}" if fit else ""
    sites = [
        Site(name, one.degenerate is not None, one.sentences[0], one.sentences[1:])
        for name, one in file.verdicts.items()
        if one.sentences
    ]
    return Verdicts(audit.index, audit.label, f"{over}{fitted}", sites)


def _block(
    title: str,
    lead: str,
    figures: Sequence[Figures],
    tables: Sequence[Table | None],
    notes: Sequence[str] = (),
) -> Block:
    shown = [one for one in figures if one.charts]
    return Block(title, lead, shown, [one for one in tables if one is not None], list(notes))


def _parts(audits: Sequence[Audited]) -> Block:
    alone = len(audits) > SHOWN_AT_ONCE
    stacks = charts.stacks(audits, panels=alone)
    return _block(
        "What is lost, and of which kind",
        "FVU of each SAE, taken apart. Nonlinear: what no affine map of x gives back. Encoder: "
        "the share of it that pursuit finds with the same dictionary and L0 (of noise it would "
        "find some, too: see where the error may come from). Linear: what an "
        "affine map of x gives back; where several widths were audited together and a law could "
        "be told, what wider SAEs would recover of it stands apart as absent. Whiskers are 95% "
        "intervals of a part.",
        [Figures("audit_parts", "beside", stacks)],
        [of_sections(audits, "The parts of FVU", ("split",))],
    )


def _widths(audits: Sequence[Audited]) -> Block:
    found = widths.families(audits)
    return _block(
        "Over the widths",
        "SAEs of one architecture and about equal L0 on the same tokens, by their number of "
        "latents. The law FVU = c + a·W⁻ᵐ is drawn to four times the widest SAE; what it says "
        "there is an extrapolation, and where the widths do not tell c nothing is called absent. "
        "Per token: R² of ‖e‖ at one width from ‖e‖ at a smaller one, and with ‖u‖ added.",
        [
            Figures("audit_widths", "", widths.stacks(found)),
            Figures("audit_laws", "", widths.laws(found)),
            Figures("audit_tokens", "beside", widths.per_token(found)),
        ],
        [
            *widths.tables(found),
            of_sections(audits, "The law and its slopes", ("scaling",)),
        ],
        widths.notes(found),
    )


def _depth(audits: Sequence[Audited]) -> Block:
    return _block(
        "Over the layers",
        "The numbers that the verdicts rest on, a line per suite; of one layer alone, a point.",
        [Figures("audit_depth", "", charts.depth(audits))],
        [
            of_sections(audits, "R² of e, rank and condition", ("vector",)),
        ],
    )


def _shrinkage(audits: Sequence[Audited]) -> Block:
    return _block(
        "Is it shrinkage?",
        "An SAE whose output is too small has an error that is linear in x for that reason alone. "
        "Each probe again at wider and wider recalibrations of x̂: what stays is no such artefact. "
        "R² of e ~ a·x is no measure of it: that is FVU for any SAE with α* = 1.",
        [Figures("audit_ladder", "", charts.shrinkage(audits))],
        [of_sections(audits, "The shrinkage ladder", ("shrinkage",))],
    )


def _norms(audits: Sequence[Audited]) -> Block:
    return _block(
        "How large the error is",
        "The squared norm of the error as predicted from x by least squares, on test documents. "
        "In the scatter each point is a token, in units of the mean ‖x − x̄‖² (the actual ones "
        "average to FVU); the line is the mean of the actual ones in each tenth of the predicted.",
        [
            Figures("audit_scatter", "small", charts.scatter(audits)),
            Figures("audit_baselines", "", charts.norm_baselines(audits)),
            Figures("audit_norms", "", charts.norm_ladder(audits)),
        ],
        [
            tenths(audits),
            of_sections(audits, "The norm probe and its baselines", ("norm",)),
            of_sections(audits, "The norm ladder", ("ladder",)),
        ],
    )


def _effects(audits: Sequence[Audited]) -> Block:
    return _block(
        "What it does, and where it could be found",
        "Loss: how much of what the SAE costs the model comes back when ℓ or u is put back, beside "
        "how much of ‖e‖² it is; sites where that cost is not known to be above 0 are left out: "
        "their shares mean nothing. Pursuit: better codes from the same dictionary. Sites before: "
        "how much of e, ℓ and u is linear in what the site before knows. SAEs trained on e, ℓ or "
        "u: the lower their FVU, the more of it a sparse code can say.",
        [
            Figures("audit_loss", "", charts.downstream(audits)),
            Figures("audit_gaps", "", charts.gaps(audits)),
            Figures("audit_pursuit_change", "", charts.pursuit_change(audits)),
            Figures("audit_pursuit", "", charts.pursuit(audits)),
            Figures("audit_adjacent", "", charts.adjacent(audits)),
            Figures("audit_error_saes", "", charts.error_saes(audits)),
        ],
        [
            of_sections(audits, "The model's loss", ("downstream",)),
            of_sections(audits, "Pursuit", ("pursuit",)),
            of_sections(audits, "Adjacent sites", ("adjacent",)),
            of_sections(audits, "SAEs trained on the error", ("error_saes",)),
        ],
    )


def _sources(audits: Sequence[Audited]) -> Block:
    return _block(
        "Where it may come from",
        "FVU by what one correction after another takes away: each latent rescaled (scale), "
        "least-squares coefficients on the latents that the encoder chose (coefficients; the mark "
        "is what they would mend of noise), latents chosen anew with the same L0 (choice; its mark "
        "is where its bar would end if they were chosen for noise of the same size). The rest "
        "holds missing features, a dense part and wrong directions, and bounds none of them alone. "
        "Below: noise is put into activation and reconstruction and latents are left out; where "
        "the noise inferred is not the noise put in, missing features pass for noise.",
        [
            Figures("audit_attribution", "", controls.attribution(audits)),
            Figures("audit_zeroing", "small", controls.zeroing(audits)),
        ],
        [
            of_sections(audits, "Attribution of the error", ("attribution",)),
            controls.zeroing_table(audits),
            of_sections(audits, "Equivalent noise", ("synthetic", "zeroing")),
        ],
    )


def _controls(audits: Sequence[Audited]) -> Block:
    return _block(
        "Controls",
        "The same probe where there is nothing to find (errors of other tokens, and noise with "
        "the errors' norms): about minus the cost of the fit is right. What nonlinear extractors "
        "find of u by their capacity, and the error by position in the context.",
        [
            Figures("audit_null", "", charts.null(audits)),
            Figures(
                "audit_nonlinear",
                "",
                [*controls.extractors(audits), *charts.positions(audits)],
            ),
        ],
        [
            of_sections(audits, "Null targets", ("null",)),
            of_sections(audits, "What else predicts u: an MLP", ("mlp",)),
            of_sections(audits, "What else predicts u: a wide SAE", ("wide",)),
            positions(audits),
            measured_at(audits),
        ],
    )
