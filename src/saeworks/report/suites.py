"""What a report is made of: suites with their results, log and comparison."""

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from saeworks.errors import UserError, shown
from saeworks.files.access import inside, is_file, read_json, read_shapes, real, what_is
from saeworks.files.seals import (
    REPAIR,
    RESULTS,
    SEAL,
    SUITE,
    check_seal,
    read_suite_json,
    verify_files,
)
from saeworks.files.streaming import Place, read_long
from saeworks.results.audit import AuditResult
from saeworks.results.comparison import Comparison
from saeworks.results.log import LogLine, read_log
from saeworks.results.metric import Metric, Value
from saeworks.results.names import AUDIT, COMPARISON, FIRST, LOG, ON_EXPERTS, command, question
from saeworks.results.records import parse, parse_file, parse_text, to_text
from saeworks.results.result import Result
from saeworks.results.series import CHOICE, Choice, Latent
from saeworks.results.suite_meta import SuiteMeta

T = TypeVar("T")

AGAIN = "saeworks eval"
WAY_OUT = f"run `{AGAIN}` again"


class PackedLatents(Sequence[Latent]):
    """The latents of one site, each compressed until it is asked for, to a twentieth in memory."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self.choice: Choice | None = None

    def add(self, text: str) -> None:
        """Append a latent, given as its JSON."""
        self._packed.append(zlib.compress(text.encode(), 1))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._unpacked(packed) for packed in self._packed[at]]
        return self._unpacked(self._packed[at])

    @staticmethod
    def _unpacked(packed: bytes) -> Latent:
        return parse_text(Latent, zlib.decompress(packed), "latents", WAY_OUT)


@dataclass(frozen=True)
class SuiteData:
    """All that a report knows of one suite."""

    path: Path
    label: str
    """The variant's name, made longer where two suites share it."""
    meta: SuiteMeta
    results: dict[str, Result]
    """What is measured of SAEs, by name of the evaluation."""
    studies: dict[str, Result]
    """What its latents mean and do (`results.names.ON_LATENTS`), likewise, in the order of that
    list. Their sites and the keys of their metrics stand for themselves."""
    logged: list[LogLine]
    latents: dict[str, PackedLatents]
    """site → latents of the browser."""
    options: dict[str, Any] = field(default_factory=dict)
    """The architecture's options at the first site; empty where they are not told."""
    comparison: Comparison | None = None
    """Its values beside its baseline's."""
    audit: AuditResult | None = None
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
        """A site's number, or None where it was not measured or is undefined."""
        for result in self.results.values():
            value = result.sites.get(site, {}).get(metric)
            if value is not None and value.value is not None:
                return value
        return None

    def series(self, evaluation: str, site: str, name: str, cls: type[T]) -> T | None:
        """A series of a result, or None where it was not measured.

        Raises:
            UserError: if it is not what `cls` says.
        """
        series = self._series(evaluation, site, name)
        if series is None:
            return None
        return parse(cls, series, *self._where(evaluation), "series", site, name)

    def listed(self, evaluation: str, site: str, name: str, cls: type[T]) -> Iterator[T]:
        """The records of a series that is a list of them; none where it was not measured.

        Raises:
            UserError: if it is not a list, or one is not what `cls` says.
        """
        series = self._series(evaluation, site, name) or []
        file, way_out = self._where(evaluation)
        if not isinstance(series, list):
            raise UserError(
                f"{file}: 'series.{site}.{name}' must be a list, not a {type(series).__name__}; "
                f"{way_out}"
            )
        for place, item in enumerate(series):
            yield parse(cls, item, file, way_out, "series", site, name, str(place))

    def _series(self, evaluation: str, site: str, name: str) -> Any:
        result = self.results.get(evaluation) or self.studies.get(evaluation)
        return None if result is None else result.series.get(site, {}).get(name)

    def _where(self, evaluation: str) -> tuple[str, str]:
        """A result's file and what to do where it is broken, for messages."""
        return str(self.path / RESULTS / f"{evaluation}.json"), f"run `{command(evaluation)}` again"


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


def _read_meta(path: Path) -> SuiteMeta:
    if not is_file(path / SUITE):
        raise UserError(
            f"{path} holds no finished suite (no suite.json); name a folder that "
            "`saeworks train` has finished"
        )
    data = read_suite_json(path)
    verify_files(path, data)
    return parse(SuiteMeta, data, str(path / SUITE), REPAIR)


def _labels(paths: Sequence[Path], metas: Sequence[SuiteMeta]) -> list[str]:
    folders = [path.resolve().name for path in paths]
    choices = [
        [meta.variant for meta in metas],
        [f"{meta.variant} seed {meta.seed}" for meta in metas],
        [f"{meta.model.name} {meta.variant}" for meta in metas],
        [f"{meta.variant} ({name})" for meta, name in zip(metas, folders, strict=True)],
        [f"{meta.variant} ({path})" for meta, path in zip(metas, paths, strict=True)],
    ]
    return next((labels for labels in choices if len(set(labels)) == len(labels)), choices[-1])


def _read_suite(path: Path, label: str, meta: SuiteMeta) -> SuiteData:
    latents: dict[str, PackedLatents] = {}
    files = [
        file for file in (path / RESULTS).glob("[!.]*.json") if file.name not in (AUDIT, COMPARISON)
    ]
    results = [_read_result(file, latents) for file in sorted(files, key=_result_order)]
    places = {result.evaluation: question(result.evaluation) for result in results}
    studies = [result for result in results if places[result.evaluation] is not None]
    studies.sort(key=lambda result: (places[result.evaluation] or 0, result.evaluation))
    log = inside(path, LOG)
    return SuiteData(
        path,
        label,
        meta,
        {r.evaluation: r for r in results if places[r.evaluation] is None},
        {result.evaluation: result for result in studies},
        read_log(log) if is_file(log) else [],
        latents,
        _read_options(path, meta),
        Comparison.read(path) if _is_there(path / RESULTS / COMPARISON) else None,
        AuditResult.read(path / RESULTS / AUDIT) if _is_there(path / RESULTS / AUDIT) else None,
        _read_parameters(path, meta),
    )


def _is_there(path: Path) -> bool:
    """Whether anything is at the path, even if it is not a file: reading it then reports that."""
    return what_is(path) != "none"


def _read_parameters(path: Path, meta: SuiteMeta) -> dict[str, int]:
    """Parameters of each site's SAE, from the headers of the weights that are there."""
    sizes: dict[str, int] = {}
    for group in {site.group for site in meta.sites.values()}:
        file = inside(path, f"groups/{group}/weights.safetensors")
        with suppress(UserError):
            sizes[group] = sum(math.prod(shape) for shape in read_shapes(file).values())
    return {name: sizes[site.group] for name, site in meta.sites.items() if site.group in sizes}


def _read_options(path: Path, meta: SuiteMeta) -> dict[str, Any]:
    """The options in the first group's config.json, if the suite has one."""
    group = next((site.group for site in meta.sites.values()), "")
    file = inside(path, f"groups/{group}/config.json")
    if not is_file(file):
        return {}
    config = read_json(file, "SAE")
    options = config.get("options") if isinstance(config, dict) else None
    return options if isinstance(options, dict) else {}


def _read_result(file: Path, latents: dict[str, PackedLatents]) -> Result:
    """A result; the latents of the browser, which may be many, are put into `latents`."""
    again = command(file.stem)
    way_out = f"run `{again}` again"

    def take(place: Place, item: Any) -> None:
        number = len(latents.get(place[1], ()))
        text = to_text(item, str(file), way_out)
        parse_text(Latent, text, str(file), way_out, *place, str(number))
        latents.setdefault(place[1], PackedLatents()).add(text)

    def is_long(place: Place) -> bool:
        return len(place) == 3 and place[0] == "series" and place[2] == "latents"

    check_seal(file, "result", again)
    data = read_long(file, "result", is_long, take)
    if isinstance(data, dict):
        data.pop(SEAL, None)
    result = parse_file(Result, data, file, "result", again)
    for site, series in result.series.items():
        if not isinstance(listed := series.get("latents", []), list):
            raise UserError(
                f"{file}: latents must be a list, not a {type(listed).__name__}; {way_out}"
            )
        if site in latents and CHOICE in series:
            place = ("series", site, CHOICE)
            latents[site].choice = parse(Choice, series[CHOICE], str(file), way_out, *place)
    return result


def _result_order(file: Path) -> tuple[int, str]:
    place = FIRST.index(file.stem) if file.stem in FIRST else len(FIRST)
    return place, file.name
