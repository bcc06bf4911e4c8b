"""Suites beside their baseline, site by site, on one and the same resamples of the documents.

The difference of two suites on the same tokens varies much less with the choice of documents than
either value, so its interval comes from paired resamples: each draws the same documents for both.
Shapes: R documents; [D] as in `bootstrap`: of all of them, with each left out, of each resample.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saeworks.config import CompareConfig
from saeworks.errors import UserError
from saeworks.measure import bootstrap
from saeworks.measure.asked import ready_for_results
from saeworks.measure.comparing.alignment import align
from saeworks.measure.studies import reconstruction, splice
from saeworks.measure.sums import PerDocument, read_sums
from saeworks.results import regime
from saeworks.results.comparison import Comparison, Named, Paired
from saeworks.results.headlines import (
    COSINE,
    DELTA_CE,
    DELTA_CE_PERCENT,
    FVU,
    KL,
    L0,
    LOSS_RECOVERED_ZERO,
    MSE,
)
from saeworks.results.result import Result
from saeworks.suite import Suite, load_suite

COMPARED = {
    "reconstruction": (FVU, MSE, L0, COSINE),
    "splice": (DELTA_CE, DELTA_CE_PERCENT, LOSS_RECOVERED_ZERO, KL),
}
"""Metrics by the evaluation whose sums they come from."""
HEADLINE = (FVU, L0, DELTA_CE)
"""Metrics in the table of `saeworks compare`."""
RATIOS = (FVU,)
"""Metrics of which suite / baseline is given (MSE's would be FVU's again)."""

Arrays = dict[str, NDArray[np.float64]]


def compare(
    suite_paths: Sequence[Path],
    baseline_paths: Sequence[Path],
    config: CompareConfig | None = None,
    say: Callable[[str], None] | None = None,
    model: str | None = None,
) -> dict[Path, Comparison]:
    """Compare evaluated suites with a baseline and write `results/comparison.json` into each.

    Values, differences and ratios come from the sums by document that `evaluate` left, so all the
    suites must have been evaluated on the same held-out tokens. Only the alignment of the
    dictionaries runs the language model, once for all of them.

    Args:
        baseline_paths: the baseline, then the same trained with other seeds, which say how well
            dictionaries match that differ in nothing but their seed.
        say: where lines about progress go; None for silence.
        model: where the suites' language model is, if it has moved.

    Raises:
        UserError: if a suite is missing, corrupt or not evaluated, has no site of the baseline's,
            is of another language model, or was evaluated on other tokens.
    """
    config = config or CompareConfig()
    if not suite_paths or not baseline_paths:
        raise UserError("name at least one suite, and its baseline with --baseline")
    suites = [load_suite(path) for path in dict.fromkeys(suite_paths)]
    ready_for_results(suites)
    baseline, *seeds = [load_suite(path) for path in dict.fromkeys(baseline_paths)]
    for suite in (*seeds, *suites):
        _check(suite, baseline)
    compared = {suite.path: compared_with(suite, baseline, seeds, config) for suite in suites}
    if config.alignment:
        alignments = align(suites, baseline, seeds, config.tokens, config.device, say, model)
        for path, alignment in alignments.items():
            compared[path] = replace(compared[path], alignment=alignment)
    for path, comparison in compared.items():
        comparison.write(path)
    return compared


def _check(suite: Suite, baseline: Suite) -> None:
    """Refuse suites that have nothing to compare.

    Raises:
        UserError: if they are of different language models, or have no site in common.
    """
    of_suite, of_baseline = _fingerprint(suite), _fingerprint(baseline)
    if of_suite != of_baseline:
        raise UserError(
            f"{suite.path} and {baseline.path} are of different language models (fingerprints "
            f"{of_suite[:12]} and {of_baseline[:12]}), or one fingerprint is of an earlier version "
            "of saeworks; compare suites of one model, of one version"
        )
    if not set(suite.sites) & set(baseline.sites):
        raise UserError(
            f"{suite.path} and {baseline.path} have no site in common: {', '.join(suite.sites)} "
            f"against {', '.join(baseline.sites)}"
        )


def _fingerprint(suite: Suite) -> str:
    model = suite.meta["model"]
    return str(model.get("fingerprint") if isinstance(model, dict) else None)


def compared_with(
    suite: Suite, baseline: Suite, seeds: Sequence[Suite], config: CompareConfig
) -> Comparison:
    sites: dict[str, dict[str, Paired]] = {}
    mean: dict[str, Paired] = {}
    held_out, tokens, documents, intervals = {}, {}, {}, {}
    suite_results, baseline_results = _results(suite), _results(baseline)
    for evaluation in [
        name for name in COMPARED if name in suite_results and name in baseline_results
    ]:
        results = (suite_results[evaluation], baseline_results[evaluation])
        paired = _paired(evaluation, (suite, baseline), results, config)
        mean |= paired.pop("")
        for site, values in paired.items():
            sites.setdefault(site, {}).update(values)
        result = results[0]
        held_out[evaluation] = result.config["held_out"]
        tokens[evaluation], documents[evaluation] = result.tokens, result.documents
        intervals[evaluation] = bootstrap.describe(result.documents, config.bootstrap, config.seed)
    metrics = reconstruction.METRICS | splice.METRICS
    return Comparison(
        suite=_named(suite, suite),
        baseline=_named(baseline, suite),
        seeds=[_named(seed, suite) for seed in seeds],
        config={
            "model": dict(suite.meta["model"]),
            "held_out": held_out,
            "bootstrap": config.bootstrap,
            "seed": config.seed,
            "intervals": intervals,
        },
        tokens=tokens,
        documents=documents,
        metrics={name: metrics[name] for name in mean},
        sites=sites,
        mean=mean,
        notes=regime.differences(suite.meta, baseline.meta, _l0(mean)),
    )


def _l0(mean: Mapping[str, Paired]) -> tuple[float | None, float | None]:
    return (mean[L0].suite.value, mean[L0].baseline.value) if L0 in mean else (None, None)


def _named(suite: Suite, from_suite: Suite) -> Named:
    path = os.path.relpath(suite.path.resolve(), from_suite.path.resolve())
    return Named(Path(path).as_posix(), suite.variant, suite.meta.get("seed"))


def _results(suite: Suite) -> dict[str, Result]:
    """The suite's results by evaluation: always the reconstruction; the splice where it was run."""
    folder = suite.path / "results"
    evaluated = [name for name in COMPARED if (folder / f"{name}.json").is_file()]
    if "reconstruction" not in evaluated:
        raise UserError(f"{suite.path} is not evaluated yet: run `saeworks eval` on it")
    return {name: Result.read(folder / f"{name}.json") for name in evaluated}


def _paired(
    evaluation: str,
    suites: tuple[Suite, Suite],
    results: tuple[Result, Result],
    config: CompareConfig,
) -> dict[str, dict[str, Paired]]:
    """Site → metric → values, for every site that both have; the mean over them under ""."""
    sums = [read_sums(s.path / "results", r) for s, r in zip(suites, results, strict=True)]
    if results[0].config.get("held_out") != results[1].config.get("held_out"):
        raise UserError(
            f"{suites[0].path} and {suites[1].path} were evaluated on different held-out tokens "
            f"({evaluation}); run `saeworks eval {suites[0].path} {suites[1].path}`, with suites "
            "of the same text, seed and buffer.exclude_norm_above"
        )
    sites = [site for site in suites[0].sites if all(site in of_suite for of_suite in sums)]
    widths = {site: int(suites[0].meta["sites"][site]["d"]) for site in sites}
    try:
        (suite_statistics, documents), (baseline_statistics, _) = (
            _statistics(evaluation, of_suite, widths, config) for of_suite in sums
        )
    except (KeyError, ValueError):
        raise UserError(
            f"the {evaluation} sums of {suites[0].path} or {suites[1].path} are not whole; run "
            "`saeworks eval` on both again"
        ) from None
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is null in the result
        return {
            site: {
                name: _pair(
                    name, suite_statistics[site][name], baseline_statistics[site][name], documents
                )
                for name in suite_statistics[site]
            }
            for site in suite_statistics
        }


def _statistics(
    evaluation: str, sums: PerDocument, widths: Mapping[str, int], config: CompareConfig
) -> tuple[dict[str, Arrays], int]:
    """Site → metric → [D], and "" → those of the mean over sites; and of how many documents.

    Each suite's sums are resampled in one matrix product of the same shape and the same draws, so
    that equal suites come out equal to the bit.
    """
    columns = {(site, name): sums[site][name] for site in widths for name in sorted(sums[site])}
    n_R = sums[next(iter(widths))]["n"]
    drawn = bootstrap.resampled(columns, n_R > 0, config.bootstrap, config.seed)
    out: dict[str, Arrays] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for site, d in widths.items():
            at_site = {name: values for (at, name), values in drawn.sums.items() if at == site}
            known = splice.STATISTICS if evaluation == "splice" else reconstruction.statistics(d)
            out[site] = {name: known[name](at_site) for name in COMPARED[evaluation]}
    out[""] = {
        name: np.mean([out[site][name] for site in widths], axis=0) for name in COMPARED[evaluation]
    }
    return out, drawn.documents


def _pair(
    name: str, suite_D: NDArray[np.float64], baseline_D: NDArray[np.float64], documents: int
) -> Paired:
    return Paired(
        bootstrap.interval(suite_D, documents),
        bootstrap.interval(baseline_D, documents),
        bootstrap.interval(suite_D - baseline_D, documents),
        bootstrap.interval(suite_D / baseline_D, documents) if name in RATIOS else None,
    )
