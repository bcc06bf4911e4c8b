"""The page with what another person needs: commands, configuration, versions, checksums."""

from collections.abc import Sequence
from dataclasses import asdict
from shlex import quote

import yaml

from saeworks.report.numbers import count
from saeworks.report.page import MANY, Page, Report, short
from saeworks.report.suites import SuiteData
from saeworks.results import regime
from saeworks.results.names import CIRCUITS, command


def page(report: Report) -> Page:
    """Always there."""
    commands = _commands(report.suites)
    files = [(suite.label, suite.meta.files) for suite in report.suites if suite.meta.files]
    sections = [("facts", "What was trained")]
    sections += [("commands", "Commands")] if commands else []
    sections += [("checksums", "Checksums")] if files else []
    return Page(
        "Reproduce",
        "How to get the same again",
        sections=sections,
        context={"facts": facts(report), "commands": commands, "files": files},
        scripts=("tables.js",),
    )


def facts(report: Report) -> list[tuple[str, str]]:
    """Models, texts and training of the suites; where they differ, each value once."""
    suites, sites = report.suites, report.sites
    metas = [suite.meta for suite in suites]
    evaluated = [
        f"{count(r.tokens)} tokens of {count(r.documents)} documents ({r.evaluation})"
        for suite in suites
        for r in suite.results.values()
        if r.tokens
    ] + [
        f"{count(s.audit.tokens)} tokens of {count(s.audit.documents)} documents (audit)"
        for s in suites
        if s.audit is not None
    ]
    versions = [", ".join(f"{k} {v}" for k, v in m.versions.items() if v) for m in metas]
    rows = [
        ("Model", [_model(suite) for suite in suites]),
        ("Text", [short(str(m.text.get("source", "–"))) for m in metas]),
        ("Trained on", [_trained(suite) for suite in suites]),
        (
            "Sites",
            [f"{len(sites)}: {', '.join(sites)}" if len(sites) <= MANY else _ends(sites)],
        ),
        ("SAEs", [m.arch for m in metas]),
        ("Variants", _few([suite.label for suite in suites])),
        ("Evaluated on", evaluated),
        ("Seed", [str(m.seed) for m in metas if m.seed is not None]),
        ("Versions", versions),
    ]
    return [(name, "; ".join(dict.fromkeys(filter(None, v)))) for name, v in rows if any(v)]


def _few(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= MANY else [_ends(names)]


def _ends(sites: Sequence[str]) -> str:
    return f"{len(sites)}: {sites[0]} … {sites[-1]}"


def _model(suite: SuiteData) -> str:
    model = suite.meta.model
    layers = f", {model.layers} layers" if model.layers else ""
    revision = f", revision {model.revision}" if model.revision else ""
    print_ = f" (fingerprint {model.fingerprint[:12]})" if model.fingerprint else ""
    return f"{short(model.name)}{layers}{revision}{print_}"


def _trained(suite: SuiteData) -> str:
    meta = suite.meta
    steps = f" in {meta.steps:,} steps" if meta.steps else ""
    epochs = f", {meta.epochs:.3g} epochs of the text" if meta.epochs else ""
    each = regime.described(regime.of_groups(asdict(meta)).values())
    per_latent = f", {each}" if each else ""
    return f"{count(meta.tokens)} tokens{steps}{epochs}{per_latent}" if meta.tokens else ""


def _commands(suites: Sequence[SuiteData]) -> list[tuple[str, str, str]]:
    """(name, text, the commands that use it) of every different configuration."""
    by_config: dict[str, list[SuiteData]] = {}
    for suite in suites:
        if suite.meta.config:
            text = yaml.safe_dump(suite.meta.config, sort_keys=False, allow_unicode=True)
            by_config.setdefault(text, []).append(suite)
    out = []
    for number, (config, of_run) in enumerate(by_config.items(), start=1):
        name = "run" if len(by_config) == 1 else f"run-{number}"
        lines = [f"saeworks train {name}.yaml --out {name}", *_measured(name, of_run)]
        out.append((f"{name}.yaml", config, "\n".join([*lines, f"saeworks report {name}"])))
    return out


def _measured(run: str, suites: Sequence[SuiteData]) -> list[str]:
    """The commands that left the suites' results, to be pasted: names come from outside."""
    lines = {f"saeworks eval {run}": None}
    for suite in suites:
        if suite.audit:
            lines[f"saeworks audit {run}"] = None
        if suite.comparison:
            baseline = quote(f"{run}/{suite.comparison.baseline.variant}")
            lines[f"saeworks compare {run} --baseline {baseline}"] = None
        for evaluation in suite.studies:
            task = evaluation.partition("_")[2] if evaluation.startswith(CIRCUITS) else ""
            lines[f"{command(evaluation)} {run}{f' --task {quote(task)}' if task else ''}"] = None
    return list(lines)
