"""`saeworks audit`: what every SAE of a suite misses, and a verdict in words."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, OtherModel, OtherText, Suites
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import AuditConfig
from saeworks.errors import DONE, shown
from saeworks.files.seals import RESULTS
from saeworks.results.names import AUDIT

if TYPE_CHECKING:
    from saeworks.measure.audit.study import AuditStudy
    from saeworks.results.audit import AuditResult

SENTENCES = 3
"""Sentences of each verdict that are printed; all are in the file and in the report."""


@dataclass(frozen=True)
class Audit:
    """Decompose the error of every SAE into what is linear in the activation and what is not.

    Fits on some held-out documents and measures on others; with controls for shrinkage, and a
    verdict in words for every site. Leaves results/audit.json in each suite.
    """

    suites: Suites
    error_saes: tuple[Path, ...] = ()
    """Folders of suites, or of runs, that were trained on the error of these (`saeworks train
    --preset error`): their FVU on what they were trained on."""
    model: OtherModel = None
    text: OtherText = None
    json: Json = False
    audit: Annotated[AuditConfig, OmitArgPrefixes] = field(default_factory=AuditConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.asked import placed
        from saeworks.measure.audit.run import audit_suites
        from saeworks.suite import find_all_suites

        suites = find_all_suites(self.suites)
        error_saes = find_all_suites(self.error_saes) if self.error_saes else []
        results = audit_suites(
            suites, self.audit, speaker(self.json), error_saes, model=self.model, text=self.text
        )
        if self.json:
            print_json({str(path): values_of(result) for path, result in results.items()})
            return DONE
        print_audits(results)
        folders = {p: placed(r.config, self.model, self.text) for p, r in results.items()}
        for path, folder in folders.items():
            say(f"Audit: {path / folder / AUDIT}")
        if set(folders.values()) == {Path(RESULTS)}:  # what a report shows
            say(f"Next: {command('report', *self.suites)}")
        return DONE


def values_of(result: "AuditResult") -> dict[str, Any]:
    """Values by section and site, and the verdicts."""
    sections = {name: asdict(section)["sites"] for name, section in result.sections.items()}
    verdicts = {site: asdict(verdict) for site, verdict in result.verdicts.items()}
    return {"sections": sections, "verdicts": verdicts}


def print_audits(results: "Mapping[Path, AuditResult]") -> None:
    """Every suite's table and verdicts, and what they rest on."""
    for path, result in results.items():
        print_audit(path, result)
    _print_assumptions(list(results.values()))


def print_audit(path: Path, result: "AuditResult") -> None:
    """A row per site, and the first sentences of its verdict."""
    from saeworks.cli.tables import Cell, print_table

    columns = [(study.name, *column) for study in _studies() for column in study.headline.items()]
    rows: list[list[Cell]] = [
        [site, *(result.value(site, section, metric) for section, metric, _ in columns)]
        for site in result.verdicts
    ]
    about = f"{result.tokens:,} test tokens of {result.documents:,} documents"
    for line in ("", str(path), f"{about}; ± half of the 95% interval", *_fewer(result), ""):
        say(line)
    print_table(["site", *(head for _, _, head in columns)], rows)
    say()
    for site, verdict in result.verdicts.items():
        say(site)
        _print_list(verdict.sentences[:SENTENCES])


def _studies() -> "list[type[AuditStudy]]":
    """Those in the table, in the order of its columns."""
    from saeworks.measure.audit.norm import NormProbeOfError
    from saeworks.measure.audit.shrinkage import ShrinkageLadder
    from saeworks.measure.audit.split import FvuSplit
    from saeworks.measure.audit.vector import VectorProbe

    return [FvuSplit, VectorProbe, ShrinkageLadder, NormProbeOfError]


def _fewer(result: "AuditResult") -> list[str]:
    """Which parts of the verdicts are measured on some of the test tokens."""
    used: dict[str, int] = {}
    for name in ("pursuit", "downstream"):
        section = result.sections.get(name)
        for series in section.series.values() if section is not None else ():
            tokens = series.get("tokens")
            tokens = tokens.get("test") if isinstance(tokens, dict) else tokens
            used[name] = max(used.get(name, 0), tokens or 0)
    parts = [f"{name} on {count:,}" for name, count in used.items() if count < result.tokens]
    return [f"(of them, {', '.join(parts)})"] if parts else []


def _print_assumptions(results: "Sequence[AuditResult]") -> None:
    lines = [line for r in results for v in r.verdicts.values() for line in v.assumptions]
    say()
    say("What this rests on")
    _print_list(list(dict.fromkeys(lines)))
    say()


def _print_list(lines: Sequence[str]) -> None:
    """Items of a list, wrapped."""
    from saeworks.cli.tables import terminal

    width = min(terminal().width, 100)
    for line in lines:
        wrapped = textwrap.wrap(shown(line), width, initial_indent="  - ", subsequent_indent="    ")
        for part in wrapped:
            say(part)
