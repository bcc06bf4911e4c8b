"""Reading what a report is made of: suite.json, metrics.jsonl and results/*.json."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from saeworks.errors import UserError, shown
from saeworks.files.access import (
    inside,
    is_file,
    open_regular,
    parse_json,
    read_json,
    read_shapes,
    real,
)
from saeworks.files.seals import (
    SUITE,
    check_seal,
    read_sealed,
    read_suite_json,
    verify_files,
)
from saeworks.report.streaming import Place, read_long
from saeworks.results.names import COMPARISON, FIRST, ON_EXPERTS

SCHEMA = 1
AGAIN = "saeworks eval, audit or compare"
"""The commands that write results, for messages."""

T = TypeVar("T")


class Record(BaseModel):
    """Keys that a report does not show are ignored, so that results may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Metric(Record):
    """What a number means."""

    title: str
    unit: str = ""
    description: str = ""
    better: str | None = None


class Value(Record):
    """A number with the ends of its 95% interval, where it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None


def check_described(values: Iterable[Iterable[str]], metrics: Mapping[str, Metric]) -> None:
    """Refuse values of which nobody says what they mean; for the validator of a record.

    Raises:
        ValueError: naming the first.
    """
    for unknown in (name for names in values for name in names if name not in metrics):
        raise ValueError(f"has {unknown!r}, which its metrics do not describe")


class Histogram(Record):
    """Counts between consecutive edges."""

    edges: list[float]
    counts: list[float]


class Neighbour(Record):
    """Another latent of the same SAE and the cosine of their decoder rows."""

    latent: int
    cosine: float | None


class TokenContext(Record):
    """A stretch of text with one latent's activation on each token."""

    tokens: list[str]
    activations: list[float | None]
    peak: int
    document: int | str | None = None
    kind: Literal["top", "quantile"] = "top"


class Latent(Record):
    """One latent of the browser."""

    latent: int
    frequency: float | None = None
    mean_activation: float | None = None
    max_activation: float | None = None
    histogram: Histogram | None = None
    neighbours: list[Neighbour] = []
    contexts: list[TokenContext] = []


class Choice(Record):
    """How the browser's latents were chosen, and among how many."""

    width: int
    live: int
    how: str


class Latents(Sequence[Latent]):
    """The latents of one site, each compressed until it is asked for, to a twentieth in memory."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self.choice: Choice | None = None

    def add(self, latent: Latent) -> None:
        """Put one at the end."""
        self._packed.append(zlib.compress(latent.model_dump_json().encode(), 1))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._unpacked(packed) for packed in self._packed[at]]
        return self._unpacked(self._packed[at])

    @staticmethod
    def _unpacked(packed: bytes) -> Latent:
        return Latent.model_validate_json(zlib.decompress(packed))


class Result(Record):
    """One file of results/."""

    evaluation: str
    title: str
    config: dict[str, Any] = {}
    tokens: int | None = None
    documents: int | None = None
    metrics: dict[str, Metric] = {}
    sites: dict[str, dict[str, Value]] = {}
    series: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _described(self) -> Self:
        check_described(self.sites.values(), self.metrics)
        return self


class Paired(Record):
    """A metric of a suite and of its baseline, with intervals from the same resamples."""

    suite: Value
    baseline: Value
    difference: Value
    ratio: Value | None = None


class Matched(Record):
    """How well the baseline's latents are matched by another SAE's."""

    mmcs: float | None
    mmco: float | None


class SiteAlignment(Record):
    """The dictionaries at one site."""

    suite: Matched
    seeds: list[Matched] = []
    live: int
    silent: int


class Spread(Record):
    """Over which of its sites the latents of a shared SAE fire."""

    sites: list[str]
    live: int
    silent: int
    lives_at: list[int]
    effective: float | None
    share: list[list[float]]
    latents: list[int]
    lives: float

    @model_validator(mode="after")
    def _one_column_per_site(self) -> Self:
        if any(len(row) != len(self.sites) for row in self.share):
            raise ValueError("a row of the spread has not one share per site")
        if len(self.share) != len(self.latents) or len(self.lives_at) != len(self.sites):
            raise ValueError("the spread has not one number per row or site")
        return self


class Alignment(Record):
    """How the dictionaries of a suite and its baseline correspond."""

    tokens: int
    metrics: dict[str, Metric]
    sites: dict[str, SiteAlignment]
    spread: dict[str, Spread] = {}


class Named(Record):
    """Which suite, from the folder of the one that was compared."""

    path: str
    variant: str
    seed: int | None = None


class Comparison(Record):
    """results/comparison.json."""

    baseline: Named
    seeds: list[Named] = []
    metrics: dict[str, Metric]
    sites: dict[str, dict[str, Paired]]
    mean: dict[str, Paired]
    alignment: Alignment | None = None
    notes: list[str] = []

    @model_validator(mode="after")
    def _described(self) -> Self:
        check_described([*self.sites.values(), self.mean], self.metrics)
        return self


class Model(Record):
    """The language model of a suite."""

    name: str
    revision: str | None = None
    fingerprint: str | None = None
    layers: int | None = None


class Meta(Record):
    """suite.json."""

    model: Model
    text: dict[str, Any] = {}
    variant: str
    arch: str = ""
    sites: dict[str, dict[str, Any]]
    tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None
    config: dict[str, Any] = {}
    train: dict[str, Any] = {}
    seed: int | None = None
    versions: dict[str, str | None] = {}
    groups: dict[str, dict[str, Any]] = {}
    grouping: dict[str, Any] = {}
    seconds: float | None = None
    lm_tokens: int | None = None
    cost: dict[str, Any] = {}


class Logged(Record):
    """One line of metrics.jsonl."""

    kind: str
    step: int
    tokens: int
    site: str
    loss: dict[str, float | None] = Field(default_factory=dict)
    fvu: float | None = None
    l0: float | None = None
    dead: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    flops: float | None = None
    step_seconds: float | None = None
    held_out_fvu: float | None = None
    delta_ce: float | None = None


@dataclass(frozen=True)
class SuiteData:
    """All that a report knows of one suite."""

    path: Path
    label: str
    """The variant's name, made longer where two suites share it."""
    meta: Meta
    results: dict[str, Result]
    logged: list[Logged]
    histograms: dict[str, dict[str, Histogram]]
    """site → name of the series → histogram."""
    latents: dict[str, Latents]
    """site → latents of the browser."""
    options: dict[str, Any] = field(default_factory=dict)
    """The architecture's options at the first site; empty where they are not told."""
    comparison: Comparison | None = None
    """Its values beside its baseline's."""
    parameters: dict[str, int] = field(default_factory=dict)
    """site → numbers in the weights of its SAE, where they are on the disk."""

    def metrics(self) -> dict[str, Metric]:
        """Every metric of every evaluation that has no section of its own, in the order of the
        results."""
        return {
            key: metric
            for result in self.results.values()
            if result.evaluation not in ON_EXPERTS
            for key, metric in result.metrics.items()
        }

    def value(self, site: str, metric: str) -> Value | None:
        """A site's number, or None where it was not measured or is not finite."""
        for result in self.results.values():
            found = result.sites.get(site, {}).get(metric)
            if found is not None and found.value is not None:
                return found
        return None


def read_suites(paths: Sequence[Path]) -> list[SuiteData]:
    """Read the suites, each with a label that is its own.

    Raises:
        UserError: if there is none, a folder holds no suite, or a file is not what it should be.
    """
    if not paths:
        raise UserError("report: no suite given; name at least one suite folder")
    if len({real(path) for path in paths}) < len(paths):
        raise UserError("report: the same suite is named twice; name each suite once")
    metas = [_read_meta(path) for path in paths]
    labels = [shown(label) for label in _labels(paths, metas)]
    return [
        _read_suite(path, label, meta)
        for path, label, meta in zip(paths, labels, metas, strict=True)
    ]


def _read_meta(path: Path) -> Meta:
    if not is_file(path / SUITE):
        raise UserError(
            f"{path} holds no finished suite (no suite.json); name a folder that "
            "`saeworks train` has finished"
        )
    data = read_suite_json(path)
    verify_files(path, data)
    return _parse(Meta, data, path / SUITE)


def _labels(paths: Sequence[Path], metas: Sequence[Meta]) -> list[str]:
    folders = [path.resolve().name for path in paths]
    choices = [
        [meta.variant for meta in metas],
        [f"{meta.variant} seed {meta.seed}" for meta in metas],
        [f"{meta.model.name} {meta.variant}" for meta in metas],
        [f"{meta.variant} ({name})" for meta, name in zip(metas, folders, strict=True)],
        [f"{meta.variant} ({path})" for meta, path in zip(metas, paths, strict=True)],
    ]
    return next((labels for labels in choices if len(set(labels)) == len(labels)), choices[-1])


def _read_suite(path: Path, label: str, meta: Meta) -> SuiteData:
    histograms: dict[str, dict[str, Histogram]] = {}
    latents: dict[str, Latents] = {}
    results = {}
    for file in sorted((path / "results").glob("[!.]*.json"), key=_result_order):
        if file.name == COMPARISON:
            continue
        result = _read_result(file, latents)
        results[result.evaluation] = result
        if result.evaluation in ON_EXPERTS:
            continue
        for site, series in result.series.items():
            for name, value in series.items():
                if isinstance(value, dict) and {"edges", "counts"} <= value.keys():
                    histograms.setdefault(site, {})[name] = _parse(Histogram, value, file)
    log, options = _read_log(path), _read_options(path, meta)
    comparison = read_record(Comparison, path / "results" / COMPARISON, "comparison")
    return SuiteData(
        path,
        label,
        meta,
        results,
        log,
        histograms,
        latents,
        options,
        comparison,
        _read_parameters(path, meta),
    )


def _read_parameters(path: Path, meta: Meta) -> dict[str, int]:
    """Parameters of each site's SAE, from the headers of the weights that are there."""
    sizes: dict[str, int] = {}
    for group in {str(site.get("group", "")) for site in meta.sites.values()} - {""}:
        file = inside(path, f"groups/{group}/weights.safetensors")
        with suppress(UserError):
            sizes[group] = sum(math.prod(shape) for shape in read_shapes(file).values())
    return {
        name: sizes[group]
        for name, site in meta.sites.items()
        if (group := str(site.get("group", ""))) in sizes
    }


def read_record(cls: type[T], file: Path, what: str) -> T | None:
    """A file of our schema as a record, or None where there is no such file.

    Raises:
        UserError: if it is not JSON, of another schema, or not what `cls` says.
    """
    if not is_file(file):
        return None
    return _parse(cls, _checked(read_sealed(file, what, AGAIN), file), file)


def _read_options(path: Path, meta: Meta) -> dict[str, Any]:
    """Of the first group's config.json, if the suite has one."""
    group = next((str(site.get("group", "")) for site in meta.sites.values()), "")
    file = inside(path, f"groups/{group}/config.json")
    if not group or not is_file(file):
        return {}
    config = read_json(file, "SAE")
    options = config.get("options") if isinstance(config, dict) else None
    return options if isinstance(options, dict) else {}


def _read_result(file: Path, latents: dict[str, Latents]) -> Result:
    """A result; its latents, which may be many, are put into `latents`."""

    def take(place: Place, item: Any) -> None:
        latent = _parse(Latent, item, file)
        _check_contexts(latent, place[1], file)
        latents.setdefault(place[1], Latents()).add(latent)

    def is_long(place: Place) -> bool:
        return len(place) == 3 and place[0] == "series" and place[2] == "latents"

    check_seal(file, "result", AGAIN)
    data = read_long(file, "result", is_long, take)
    result = _parse(Result, _checked(data, file), file)
    for site, series in result.series.items():
        if not isinstance(found := series.get("latents", []), list):
            raise UserError(
                f"{file}: latents must be a list, not a {type(found).__name__}; write it anew"
            )
        if site in latents and "choice" in series:
            latents[site].choice = _parse(Choice, series["choice"], file)
    return result


def _check_contexts(latent: Latent, site: str, file: Path) -> None:
    for context in latent.contexts:
        fault = ""
        if len(context.tokens) != len(context.activations):
            fault = f" and {len(context.activations)} activations"
        elif not 0 <= context.peak < len(context.tokens):
            fault = f" with its peak at {context.peak}"
        if fault:
            raise UserError(
                f"{file}: latent {latent.latent} of {site} has a context of "
                f"{len(context.tokens)} tokens{fault}; run `saeworks eval` again"
            )


def _result_order(file: Path) -> tuple[int, str]:
    place = FIRST.index(file.stem) if file.stem in FIRST else len(FIRST)
    return place, file.name


def _read_log(path: Path) -> list[Logged]:
    """The log's lines in order; where a step was logged again after a resumption, the last."""
    file = inside(path, "metrics.jsonl")
    if not is_file(file):
        return []
    lines = {(line.kind, line.site, line.step): line for line in _parse_lines(file)}
    return sorted(lines.values(), key=lambda line: line.step)


def _parse_lines(file: Path) -> Iterator[Logged]:
    adapter = TypeAdapter(Logged)
    try:
        with open_regular(file) as opened:
            text = opened.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it or remove it") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield adapter.validate_python(parse_json(line))
        except ValidationError as error:
            raise UserError(f"{file}, line {number}: {explain(error)}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{file}, line {number} is not valid JSON ({error}); remove the line"
            ) from None


def _checked(data: Any, file: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{file} must hold a JSON object, not a {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise UserError(
            f"{file} has schema {data.get('schema')!r} and this saeworks reads {SCHEMA}; "
            "use the saeworks that wrote it, or write it anew"
        )
    return data


def _parse(cls: type[T], data: Any, file: Path) -> T:
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}; restore it or write it anew") from None


def explain(error: ValidationError, *place: str) -> str:
    """The first thing that is wrong with a record, which stands at `place` in its file."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, (*place, *first["loc"])))
    return f"{key!r}: {first['msg'].lower()}"
