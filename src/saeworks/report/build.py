"""The report's one entrance: suites in, a folder that any browser opens from disk out."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from saeworks import __version__
from saeworks.errors import UserError
from saeworks.files.access import own_folder, replacing, write_text
from saeworks.report import (
    audit,
    baseline,
    charts,
    experts,
    frontier,
    over_seeds,
    studies,
    summary,
)
from saeworks.report import latents as browser
from saeworks.report.numbers import count
from saeworks.report.of_latents import LatentNotes, told
from saeworks.report.suites import PackedLatents, SuiteData, read_suites
from saeworks.results import regime

SCRIPTS = (
    "charts.js",
    "tables.js",
    "frontier.js",
    "training.js",
    "spread.js",
    "experts.js",
    "latent.js",
    "latents.js",
    "views.js",
    *(f"{view.name}.js" for view in studies.VIEWS),
)
MANY = 8
"""Suites, sites: of more, not all are named or drawn at once. As many as there are colours."""
_DATA_FILE = re.compile(
    r"(training-\d+|experts-\d+-\d+|latents-\d+-\d+(-(index-)?\d+)?|view(-\d+){4})\.js"
)


def write_report(suite_paths: Sequence[Path], out: Path) -> Path:
    """Write a static report of one suite, or of several side by side.

    Reads suite.json, metrics.jsonl and results/*.json of each suite; parts that are not there are
    left out. The report is `out/index.html` with `out/assets/` and `out/data/` beside it; it
    needs no server and no network.

    Returns:
        The path of index.html.

    Raises:
        UserError: if a folder is no suite, a file in it is broken, or `out` cannot be written.
    """
    try:
        page, data, latents = _made(read_suites([Path(path) for path in suite_paths]))
    except _UNFIT as error:
        raise UserError(
            f"report: what {', '.join(map(str, suite_paths))} say cannot be drawn "
            f"({type(error).__name__}: {str(error)[:200]}); run `saeworks eval`, audit or compare "
            "again"
        ) from error
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder for the report")
    try:
        write_assets(out / "assets", SCRIPTS)
        _write_data(out / "data", data, latents)
        write_text(out / "index.html", page)
    except OSError as error:
        raise UserError(f"could not write the report to {out}: {error.strerror or error}") from None
    return out / "index.html"


_UNFIT = (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, RecursionError)
"""What is left of files from outside that pass every check and still do not go together."""


Browsed = dict[str, tuple[PackedLatents, dict[int, LatentNotes]]]
"""A site's latents and what is told of them, by name of file, which is of numbers alone: a site's
name comes from outside."""


def _made(suites: Sequence[SuiteData]) -> tuple[str, dict[str, Any], Browsed]:
    """The page and the data that it loads."""
    sites = summary.all_sites(suites)
    shared = experts.section(suites)
    sections = studies.sections(suites)
    data = _curves(suites) | (shared.files if shared else {})
    for section in sections:
        data |= section.files
    latents = _latents(suites, sites)
    return _page(suites, sites, [*data, *latents], shared, sections), data, latents


def _curves(suites: Sequence[SuiteData]) -> dict[str, Any]:
    """Each suite's curves, by name of the file that is loaded when they are looked at."""
    by_file = ((f"training-{s}", charts.training(suite)) for s, suite in enumerate(suites))
    return {name: curves for name, curves in by_file if curves}


def _latents(suites: Sequence[SuiteData], sites: Sequence[str]) -> Browsed:
    return {
        f"latents-{s}-{i}": (suite.latents[site], told(suite, site))
        for s, suite in enumerate(suites)
        for i, site in enumerate(sites)
        if suite.latents.get(site)
    }


def _page(
    suites: Sequence[SuiteData],
    sites: Sequence[str],
    data: Sequence[str],
    shared: experts.ExpertsSection | None,
    sections: Sequence[studies.StudySection],
) -> str:
    headline = summary.columns(suites, headline=True)
    every = summary.columns(suites, headline=False)
    lines = frontier.lines(suites)
    line_of = {suite: at for at, line in enumerate(lines) for suite in line.suites}
    many = len(suites) > MANY
    audited = audit.section(suites)
    shown = _shown(suites, sites, data, lines)
    shown |= shared.data if shared else {}
    shown |= audited.data() if audited else {}
    for section in sections:
        shown |= section.data()
    beside_columns, beside_rows = baseline.table(suites)
    seeds_columns, seeds_rows = over_seeds.table(suites)
    frontier_columns, frontier_rows = frontier.table(suites)
    return (
        _environment()
        .get_template("index.html.jinja")
        .render(
            title=_title(suites),
            facts=_facts(suites, sites),
            commands=_commands(suites),
            comparison=[] if many and len(lines) > 1 else summary.comparison(suites),
            sentences=[(suite.label, summary.about(suite)) for suite in suites],
            caution=summary.caution(suites),
            suites=suites,
            count=count,
            short=_short,
            headline=headline,
            headline_rows=summary.rows(suites, headline),
            every=every,
            every_rows=summary.rows(suites, every),
            frontier_axes={a["id"]: a["title"] for c in shown["frontier"] for a in c["axes"]},
            frontier_columns=frontier_columns,
            frontier_rows=frontier_rows,
            beside_columns=beside_columns,
            beside_rows=beside_rows,
            seeds_columns=seeds_columns,
            seeds_rows=seeds_rows,
            baselines=list(dict.fromkeys(contest.name for contest in baseline.contests(suites))),
            audit=audited,
            experts=shared,
            studies=sections,
            many=many,
            line_inks=line_of,
            inks=line_of if many else {at: at for at in range(len(suites))},
            shown=shown,
            has_training=any(name.startswith("training") for name in data),
            has_latents=any(name.startswith("latents") for name in data),
            embedded=embedded_json(shown),
            scripts=SCRIPTS,
            version=__version__,
        )
    )


def _shown(
    suites: Sequence[SuiteData],
    sites: Sequence[str],
    data: Sequence[str],
    lines: Sequence[frontier.Line],
) -> dict[str, Any]:
    """The data of the page's own charts."""
    return {
        "suites": [suite.label for suite in suites],
        "sites": list(sites),
        "files": list(data),
        "by_layer": charts.by_layer(suites),
        "frontier": frontier.charts(suites),
        "lines": [asdict(line) for line in lines],
        "histograms": charts.histograms(suites),
        "baseline": baseline.charts(suites),
        "spread": baseline.spreads(suites),
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("saeworks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _title(suites: Sequence[SuiteData]) -> str:
    return ", ".join(dict.fromkeys(_short(suite.meta.model.name) for suite in suites))


def _short(name: str) -> str:
    """A model's id as it is; the last part of a folder's path."""
    return Path(name).name if name.startswith(("/", ".", "~")) or name.count("/") > 1 else name


def _facts(suites: Sequence[SuiteData], sites: Sequence[str]) -> list[tuple[str, str]]:
    """Models, texts and training of the suites; where they differ, each value once."""
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
        ("Text", [_short(str(m.text.get("source", "–"))) for m in metas]),
        ("Trained on", [_trained(suite) for suite in suites]),
        (
            "Sites",
            [f"{len(sites)}: {', '.join(sites)}" if len(sites) < 9 else _ends(sites)],
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
    return f"{_short(model.name)}{layers}{revision}{print_}"


def _trained(suite: SuiteData) -> str:
    meta = suite.meta
    steps = f" in {meta.steps:,} steps" if meta.steps else ""
    epochs = f", {meta.epochs:.3g} epochs of the text" if meta.epochs else ""
    each = regime.described(regime.of_groups(asdict(meta)).values())
    per_latent = f", {each}" if each else ""
    return f"{count(meta.tokens)} tokens{steps}{epochs}{per_latent}" if meta.tokens else ""


def _commands(suites: Sequence[SuiteData]) -> list[tuple[str, str, str]]:
    """(name, text, the commands that use it) of every different configuration."""
    configs: dict[str, None] = {}
    for suite in suites:
        if suite.meta.config:
            text = yaml.safe_dump(suite.meta.config, sort_keys=False, allow_unicode=True)
            configs[text] = None
    out = []
    for number, config in enumerate(configs, start=1):
        name = "run" if len(configs) == 1 else f"run-{number}"
        lines = f"saeworks train {name}.yaml --out {name}\nsaeworks eval {name}\n"
        out.append((f"{name}.yaml", config, f"{lines}saeworks report {name}"))
    return out


def embedded_json(value: object) -> str:
    """JSON that may stand inside a <script> element and in JavaScript: no <, >, &, line ends."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_assets(folder: Path, scripts: Sequence[str]) -> None:
    """Write what a page loads beside it: the style, our scripts, plotly.

    Raises:
        UserError: if the folder cannot be written.
    """
    own_folder(folder.parent, folder.name)
    ours = files("saeworks.report") / "assets"
    for name in ("report.css", *scripts):
        _copy(ours / name, folder / name)
    _copy(files("plotly") / "package_data" / "plotly.min.js", folder / "plotly.min.js")


def _copy(source: Traversable, target: Path) -> None:
    with as_file(source) as real, replacing(target) as temporary:
        shutil.copyfile(real, temporary)


def _write_data(folder: Path, data: Mapping[str, Any], latents: Browsed) -> None:
    if own_folder(folder.parent, folder.name).is_dir():
        for old in folder.iterdir():  # of an earlier report with more sites
            if _DATA_FILE.fullmatch(old.name):
                old.unlink()
    long = (file for name, of_site in latents.items() for file in browser.files(name, *of_site))
    for name, value in chain(data.items(), long):
        write_text(
            folder / f"{name}.js",
            f'saeworks.receive("{name}",{embedded_json(value)});\n',
        )
