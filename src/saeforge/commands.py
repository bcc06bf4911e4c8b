"""What each command does: assembles the parts, prints the outcome, returns the exit code."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from saeforge import regime
from saeforge.commands_train import Job, train_run
from saeforge.config import (
    PRESETS,
    ErrorConfig,
    EvalConfig,
    GroupsConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    describe_fields,
    from_mapping,
    merge,
    override,
    read_yaml,
)
from saeforge.cost import predicted
from saeforge.device import choose_device
from saeforge.dictionary.registry import ARCHS
from saeforge.errors import DONE, INTERRUPTED, UserError
from saeforge.eval import outliers
from saeforge.eval.asked import check_fingerprint, placed
from saeforge.eval.result import Result, Value
from saeforge.eval.run import evaluate as evaluate_suites
from saeforge.files import own_folder
from saeforge.folders import make_ready, owner
from saeforge.groups.distances import angular_distances, choose_sites
from saeforge.groups.partition import Method, Objective, check_method, diameters
from saeforge.groups.plan import Plan, make_plan
from saeforge.integrity import RESULTS
from saeforge.interop.base import check_new_folder
from saeforge.lm.documents import check_file
from saeforge.lm.model import LanguageModel
from saeforge.printing import cell, command, console, say, speaker
from saeforge.report.build import write_report
from saeforge.report.plan import write_plan_page
from saeforge.suite import find_all_suites, find_suites, load_suite


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


def plan(
    model: str,
    text: str,
    out: Path,
    *,
    sites: Sequence[str],
    last: bool,
    tokens: int,
    groups: int | None,
    threshold: float,
    method: Method,
    objective: Objective | None,
    matrix: Literal["raw", "centred"],
    context: int,
    seed: int,
    device: str,
    as_json: bool = False,
) -> int:
    """Distances between a model's sites and the groups that follow: plan.json and its page."""
    check_method(method, objective)  # before anything is measured
    if groups is not None and groups < 1:
        raise UserError(f"--groups {groups}: at least 1")
    if not threshold > 0:
        raise UserError(f"--threshold {threshold}: it must be above 0, as 0.2 is")
    make_ready(out)
    lm = LanguageModel.load(ModelConfig(name=model), choose_device(device))
    among = choose_sites(lm, sites, last=last)
    if groups is not None and groups > len(among):
        raise UserError(f"--groups {groups}: there are {len(among)} sites, {', '.join(among)}")
    say = speaker(as_json)
    if left_out := lm.left_out(sites):
        say(left_out)
    distances = angular_distances(
        lm,
        TextConfig(source=text, context=context),
        sites,
        tokens,
        last=last,
        seed=seed,
        tick=_tenths(say),
    )
    made = make_plan(
        distances,
        groups,
        method=method,
        objective=objective,
        threshold=threshold,
        matrix=matrix,
    )
    made = _with_savings(made, lm)
    path = out / "plan.json"
    made.write(path)
    page = write_plan_page(path, out)
    if as_json:
        curve = [point.amad for point in made.curve]
        found = {"groups": made.groups, "curve": curve, "saving": made.saving}
        print(json.dumps({"plan": str(path), "page": str(page), **found}))
        return DONE
    _print_groups(made)
    say(f"Plan: {path}")
    say(f"Page: {page}")
    return DONE


def _with_savings(plan: Plan, lm: LanguageModel) -> Plan:
    """The plan with what every number of groups saves, for the SAEs of a run's defaults."""
    config = RunConfig(
        model=ModelConfig(name=lm.name), sites=plan.sites, train=TrainConfig(eval_every=0)
    )
    try:
        work = Job.prepare(config, lm).work
    except UserError:  # a model too small for those SAEs
        return plan
    (sae,) = config.saes
    return replace(
        plan,
        saving=tuple(group.saving for group in predicted(work).groups),
        saving_of=f"{sae['arch']}, {sae['expansion']}×, k {sae['k']}",
    )


def _tenths(say: Callable[[str], None]) -> Callable[[float], None]:
    """Says at every tenth of the work how far it is."""
    said = 0

    def tick(share: float) -> None:
        nonlocal said
        if int(10 * share) > said:
            said = int(10 * share)
            say(f"distances: {10 * said}%")

    return tick


def _print_groups(plan: Plan) -> None:
    """A row per group, and what is known of every number of groups."""
    curve = plan.curve
    table = Table(
        title=f"{cell(plan.model)}: {len(plan.groups)} groups by {plan.method}, over "
        f"{plan.tokens:,} tokens of {plan.documents:,} documents",
        title_justify="left",
    )
    for head in ("group", "sites", "largest distance"):
        table.add_column(head)
    largest = diameters(plan.measured, plan.partition)
    for name, distance in zip(plan.groups, largest, strict=True):
        table.add_row(name, cell(", ".join(plan.groups[name])), f"{distance:.3f}")
    console().print(table)
    print("AMAD by number of groups: " + ", ".join(f"{p.groups}: {p.amad:.3f}" for p in curve))
    if plan.saving is not None:
        saved = ", ".join(f"{g}: {share:.0%}" for g, share in enumerate(plan.saving, 1))
        print(f"operations saved against one SAE per site ({plan.saving_of}): {saved}")


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


def convert(
    source: Path,
    out: Path,
    to: str,
    *,
    model: str | None = None,
    text: str | None = None,
    sites: Sequence[str] = (),
    as_json: bool = False,
) -> int:
    """A suite into another library's folders, or those into a suite; nothing is written unless
    all of it is."""
    if to != "saeforge" and text is not None:
        raise UserError("--text is for --to saeforge; a suite's own text goes with it")
    check_new_folder(out)
    if to == "saeforge" and (other := owner(out.parent)) is not None:
        raise UserError(f"{out} lies in {other}, another run or suite; choose another destination")
    if to == "saeforge":
        written = _import(source, out, model, text, list(sites) or None)
    else:
        written = _export(source, out, to, model, list(sites) or None)
    if as_json:
        print(json.dumps({"out": str(out), "format": to, "sites": written}))
        return DONE
    say(f"{out}: {len(written)} SAE(s): {', '.join(written)}")
    if to == "saeforge":
        say(f"Next: {command('eval', out)} && {command('report', out)}")
    return DONE


def _export(
    source: Path, out: Path, to: str, model: str | None, patterns: list[str] | None
) -> list[str]:
    """The sites of a suite that were written in another format."""
    from saeforge.interop import suites

    suite = load_suite(source)
    run = from_mapping(RunConfig, suite.meta["config"], f"{source / 'suite.json'}: config")
    lm = LanguageModel.load(
        run.model if model is None else replace(run.model, name=model, revision=None)
    )
    if model is None:
        check_fingerprint(suite, lm)
    return list(suites.export(suite, out, to, lm, lm.sites(patterns) if patterns else None))


def _import(
    source: Path,
    out: Path,
    model: str | None,
    text: str | None,
    patterns: list[str] | None,
) -> list[str]:
    """The sites of another library's SAEs that were written as a suite."""
    from saeforge.interop import suites

    found = suites.read_all(source)
    config = suites.model_of(found) if model is None else ModelConfig(name=model)
    lm = LanguageModel.load(config)
    if model is None:
        suites.check_model(found, lm)
    for one in found:
        if one.note:
            speaker(as_json=True)(f"saeforge: note: {one.path} {one.note}")
    own_text = suites.text_of(found, text, lm)
    if text is not None:
        check_file(own_text)
    return suites.write(found, out, lm, config, own_text, patterns)


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
