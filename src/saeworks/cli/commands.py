"""What `train`, `eval`, `report` and `demo` do: assemble the parts, print the outcome, return the
exit code. The other commands have modules of their own."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from saeworks.cli.printing import (
    cell,
    command,
    console,
    say,
    speaker,
)
from saeworks.config import (
    PRESETS,
    ErrorConfig,
    EvalConfig,
    GroupsConfig,
    RunConfig,
    describe_fields,
    from_mapping,
    merge,
    override,
    read_yaml,
)
from saeworks.dictionary.registry import ARCHS
from saeworks.errors import DONE, INTERRUPTED, UserError
from saeworks.files.access import own_folder
from saeworks.files.folders import make_ready, owner
from saeworks.files.seals import RESULTS
from saeworks.groups.plan import Plan
from saeworks.measure.asked import placed
from saeworks.measure.run import evaluate as evaluate_suites
from saeworks.measure.studies import outliers
from saeworks.report.build import write_report
from saeworks.results import regime
from saeworks.results.metric import Value
from saeworks.results.result import Result
from saeworks.suite import find_all_suites, find_suites
from saeworks.train.job import train_run


def run_config(
    path: Path | None,
    preset: str | None,
    named: Mapping[str, Any],
    overrides: Sequence[str],
    plan: Path | None = None,
) -> tuple[RunConfig, str]:
    """The run's configuration and a name for its folder.

    Order, later ones winning: defaults, preset, YAML file, plan (its sites and groups), named
    options, `--set`.

    Raises:
        UserError: for an unknown preset, an unreadable file, an unknown key or a wrong type.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f"--preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    data: dict[str, Any] = dict(PRESETS[preset]) if preset else {}
    if path is not None:
        data = merge(data, read_yaml(path))
        from_mapping(RunConfig, data, str(path))  # so that a message names the file
    if plan is not None:
        sites = Plan.read(plan).sites
        data = merge(data, {"sites": list(sites), "groups": [{"plan": str(plan)}]})
    data = merge(data, _given(named))
    for text in overrides:
        data = override(data, text)
    config = from_mapping(RunConfig, data, "options")
    model = Path(config.model.name).name
    name = path.stem if path else f"{preset}-{model}" if preset else model
    return config, name


def keys() -> int:
    """Print every key of a run, and the options of every architecture."""
    print(describe_fields(RunConfig))
    print("\ngroups[], other than per-site")
    print(describe_fields(GroupsConfig, "groups[]."))
    print("\nerror, where it is not null")
    print(describe_fields(ErrorConfig, "error."))
    for name, architecture in ARCHS.items():
        print(f"\nsaes[], arch: {name}")
        print(describe_fields(architecture.Config, "saes[]."))
    return DONE


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that were not given (None)."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        kept = _given(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            out[key] = kept
    return out


def train(config: RunConfig, out: Path, predict: bool = False, as_json: bool = False) -> int:
    """Train every variant on every site in one pass of the language model; with `predict`, first
    say how long that will take."""
    finished = train_run(config, out, speaker(as_json), predict)
    suites = [str(path) for path in find_suites(out)] if finished else []
    if as_json:
        print(json.dumps({"out": str(out), "finished": finished, "suites": suites}))
    elif finished and config.error is not None:  # stands for no site, so there is nothing to eval
        say(f"Next: {command('audit', config.error.suite, '--error-saes', out)}")
    elif finished:
        say(f"Next: {command('eval', out)} && {command('report', out)}")
    return DONE if finished else INTERRUPTED


def evaluate(
    paths: Sequence[Path],
    config: EvalConfig,
    model: str | None = None,
    text: str | None = None,
    as_json: bool = False,
) -> int:
    """Evaluate suites; prints a table per suite and leaves results/*.json in each."""
    suites = find_all_suites(paths)
    results = evaluate_suites(suites, config, say=speaker(as_json), model=model, text=text)
    if as_json:
        print(json.dumps({str(path): _values(found) for path, found in results.items()}))
        return DONE
    for path, suite_results in results.items():
        _print_table(path, suite_results)
    folders = {placed(r.config, model, text) for found in results.values() for r in found}
    if folders <= {Path(RESULTS)}:
        say(f"Next: {command('report', *paths)}")
    else:
        say(f"Results: {', '.join(f'{folder}/' for folder in sorted(folders))} in each suite")
    return DONE


def report(paths: Sequence[Path], out: Path | None, as_json: bool = False) -> int:
    """Write the HTML report of the suites and name it."""
    suites = find_all_suites(paths)
    folder = _report_folder(out, paths, suites)
    for part in ("", "assets", "data"):
        make_ready(own_folder(folder, part))
    page = write_report(suites, folder)
    say(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")
    return DONE


def _report_folder(out: Path | None, paths: Sequence[Path], suites: Sequence[Path]) -> Path:
    """Where a report goes: `report` in the first folder, unless it is said. Never among the files
    of a suite or run, nor anywhere in one that the report is not of.

    Raises:
        UserError: if it would.
    """
    if out is None:
        return own_folder(Path(paths[0]), "report")
    within = owner(out)
    if within is None:
        return out
    place = Path(os.path.abspath(out)).relative_to(within).parts
    shown = {Path(os.path.abspath(path)) for path in (*paths, *suites)}
    ours = any(path.is_relative_to(within) or within.is_relative_to(path) for path in shown)
    if not ours or not place or place[0] in ("groups", "results", "checkpoints"):
        raise UserError(
            f"--out {out} is in {within}, a run's or suite's folder: its files might be "
            "overwritten; choose another --out, or leave it out"
        )
    return out


def demo(out: Path, tokens: int, device: str, as_json: bool = False) -> int:
    """The main job on the embedded model: train every layer, evaluate, report."""
    tell = speaker(as_json)
    data = merge(PRESETS["quick"], {"train": {"tokens": tokens}, "device": device})
    config = from_mapping(RunConfig, data, "demo")
    if not train_run(config, out, tell):
        return INTERRUPTED
    suites = find_suites(out)
    results = evaluate_suites(suites, EvalConfig(device=device, **DEMO_EVALUATION), say=tell)
    page = write_report(suites, own_folder(out, "report"))
    if as_json:
        values = {str(path): _values(found) for path, found in results.items()}
        print(json.dumps({"out": str(out), "report": str(page), "results": values}))
        return DONE
    for path, suite_results in results.items():
        _print_table(path, suite_results)
    say(f"Report: {page}")
    return DONE


DEMO_EVALUATION: dict[str, Any] = {"tokens": 100_000, "splice_tokens": 30_000}


def _values(results: Sequence[Result]) -> dict[str, Any]:
    """Plain data of a suite's results, by evaluation."""
    return {result.evaluation: result.values() for result in results if result.sites}


def _print_table(path: Path, results: Sequence[Result]) -> None:
    """A row per site: the values that `TABLE_METRICS` names."""
    table = Table(
        title=f"{cell(str(path))} on held-out documents: value ± half of the 95% interval",
        title_justify="left",
    )
    table.add_column("site", no_wrap=True)
    columns = [
        (result, metric)
        for evaluation, metrics in TABLE_METRICS.items()
        for result in results
        if result.evaluation == evaluation
        for metric in metrics
        if metric in result.metrics
    ]
    for result, metric in columns:
        table.add_column(cell(result.metrics[metric].title), justify="right")
    sites = list(dict.fromkeys(site for result in results for site in result.sites))
    for site in sites:
        cells = [_cell(result.sites.get(site, {}).get(metric)) for result, metric in columns]
        table.add_row(cell(site), *cells)
    console().print(table)
    seen = [v.get("tokens_per_latent") for result in results for v in result.sites.values()]
    if few := regime.caution(value.value for value in seen if value is not None):
        print(f"Note: {few}.")
    for note in outliers.notes(results):
        print(f"Note: {note}.")


def _cell(value: Value | None) -> str:
    """`0.123 ±0.002`, or a dash where nothing was measured."""
    if value is None or value.value is None:
        return "–"
    text = f"{value.value:.4g}"
    if value.low is None or value.high is None or value.low == value.high:
        return text
    return f"{text} ±{(value.high - value.low) / 2:.1g}"


TABLE_METRICS = {
    "reconstruction": ("fvu", "l0", "fvu_without_outliers", "dead_share", "tokens_per_latent"),
    "splice": ("delta_ce", "loss_recovered_zero", "kl"),
    "dedup": ("fvu_tied_ratio", "fvu_merged_ratio"),
    "consistency": ("queen",),
}
"""What the terminal shows, by evaluation."""
