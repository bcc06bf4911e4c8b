"""`saeworks compare`: suites beside their baseline, site by site."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes

from saeworks.cli.arguments import Json, Suites
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import CompareConfig
from saeworks.errors import DONE, UserError
from saeworks.results.headlines import MMCO, MMCS
from saeworks.results.names import COMPARISON, MEAN

if TYPE_CHECKING:
    from saeworks.results.comparison import Comparison, Paired, SiteAlignment
    from saeworks.results.metric import Value


@dataclass(frozen=True)
class Compare:
    """Compare evaluated suites with a baseline, site by site, on the same held-out documents.

    Differences have intervals from paired resamples. Leaves results/comparison.json in each suite.
    """

    suites: Suites
    baseline: tuple[Path, ...] = ()
    """The suite to compare with; after it, the same trained with other seeds: how well their
    latents match the first one's is shown beside how well the suites' do."""
    model: str | None = None
    """Where the suites' language model is, if it has moved: a Hugging Face id or a folder."""
    json: Json = False
    comparison: Annotated[CompareConfig, OmitArgPrefixes] = field(default_factory=CompareConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.measure.comparing.compare import compare

        baselines = [_suite(path) for path in self.baseline]
        suites = _without(self.suites, baselines[:1])
        comparisons = compare(
            suites, baselines, self.comparison, say=speaker(self.json), model=self.model
        )
        if self.json:
            print_json({str(path): asdict(found) for path, found in comparisons.items()})
            return DONE
        for path, comparison in comparisons.items():
            print_comparison(path, comparison)
            if comparison.notes:
                say(f"The ratio is also of this: {'; '.join(comparison.notes)}.")
        say(f"Comparisons: results/{COMPARISON} in each suite")
        say(f"Next: {command('report', *self.suites)}")
        return DONE


def _without(paths: Sequence[Path], baseline: Sequence[Path]) -> list[Path]:
    """Every suite in the folders given; of a run, all but the baseline."""
    from saeworks.suite import find_suites

    same = {path.resolve() for path in baseline}
    suites: dict[Path, None] = {}
    for path in paths:
        below = find_suites(path)
        others = [suite for suite in below if suite.resolve() not in same]
        suites |= dict.fromkeys(others or below)
    return list(suites)


def _suite(path: Path) -> Path:
    """The only suite in a folder."""
    from saeworks.suite import find_suites

    suites = find_suites(path)
    if len(suites) > 1:
        names = ", ".join(suite.name for suite in suites)
        raise UserError(f"--baseline {path} holds several suites; name one of {names}")
    return suites[0]


def print_comparison(path: Path, comparison: "Comparison") -> None:
    """A row per site: value, difference from the baseline, ratio; how latents are matched."""
    from saeworks.cli.tables import print_table
    from saeworks.measure.comparing.compare import HEADLINE

    heads, metrics = ["site"], [name for name in HEADLINE if name in comparison.metrics]
    for name in metrics:
        title = comparison.metrics[name].title
        heads += [title, f"{title}\ndifference"]
        heads += [] if comparison.mean[name].ratio is None else [f"{title}\nratio"]
    aligned = comparison.alignment.sites if comparison.alignment else {}
    scale = "\n(other seeds)" if comparison.seeds else ""
    heads += [f"{head}{scale}" for head in ("MMCS", "MMCO") if aligned]
    rows = []
    for site, values in [*comparison.sites.items(), (MEAN, comparison.mean)]:
        cells = [cell for name in metrics for cell in _cells(values[name])]
        matched = list(aligned.values()) if site == MEAN else [aligned[site]] if aligned else []
        cells += [_matched(name, matched) for name in (MMCS, MMCO) if matched]
        rows.append([site, *cells])
    say(
        f"{path} − {comparison.baseline.variant} on the same held-out documents [95% interval of "
        "the difference, of paired resamples]"
    )
    print_table(heads, rows)


def _cells(pair: "Paired") -> list[str]:
    """The suite's value, its difference from the baseline, and the ratio where there is one."""
    from saeworks.cli.tables import number

    cells = [number(pair.suite.value), _difference(pair.difference)]
    return cells if pair.ratio is None else [*cells, number(pair.ratio.value)]


def _difference(value: "Value") -> str:
    """`+0.012 [+0.011, +0.013]`."""
    if value.value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.value:+.3g}"
    return f"{value.value:+.3g} [{value.low:+.3g}, {value.high:+.3g}]"


def _matched(name: str, sites: "Sequence[SiteAlignment]") -> str:
    """The suite's mean over the sites, and in brackets that of the baseline's other seeds."""
    from saeworks.cli.tables import number

    suite = [value for site in sites if (value := getattr(site.suite, name)) is not None]
    matches = [match for site in sites for match in site.seeds]
    seeds = [value for match in matches if (value := getattr(match, name)) is not None]
    text = number(fmean(suite) if suite else None)
    return f"{text} ({number(fmean(seeds))})" if seeds else text
