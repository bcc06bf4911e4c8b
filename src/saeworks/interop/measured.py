"""Suites' results in other projects' formats."""

from collections.abc import Callable, Sequence
from pathlib import Path

from saeworks.errors import UserError
from saeworks.files.access import is_plain_name
from saeworks.files.seals import REPAIR, SUITE, read_suite_json
from saeworks.interop import neuronpedia, saebench
from saeworks.interop.base import folder_name, new_folder
from saeworks.results.records import parse
from saeworks.results.suite_meta import SuiteMeta

Writer = Callable[[Path, SuiteMeta, Path, Sequence[str], Callable[[str], None]], None]
WRITERS: dict[str, Writer] = {
    "neuronpedia": neuronpedia.export,
    "saebench": saebench.export,
}


def export(
    suites: Sequence[Path],
    to: str,
    out: Path,
    sites: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write what was measured of suites; the files.

    Args:
        to: one of WRITERS.
        out: gets the files, of several suites in a folder for each.
        sites: only these, by default all.
        say: prints a line of progress.

    Raises:
        UserError: if `out` has something in it, a suite lacks a site or results, or two have the
            same name. Nothing is written then.
    """
    metas = {
        path: parse(SuiteMeta, read_suite_json(path), str(path / SUITE), REPAIR) for path in suites
    }
    names = {path: path.resolve().name for path in suites} if len(suites) > 1 else {}
    if len(set(names.values())) < len(names):
        raise UserError("two of the suites have folders of the same name; export them one by one")
    for path, meta in metas.items():
        for site in sites or meta.sites:
            if site not in meta.sites:
                raise UserError(
                    f"suite {path} has no site {site!r}; it has {', '.join(meta.sites)}"
                )
            folder_name(site)
        if path in names and not is_plain_name(names[path]):
            raise UserError(f"{path} cannot be a folder's name everywhere; export it by itself")
    with new_folder(out) as folder:
        for path, meta in metas.items():
            WRITERS[to](path, meta, folder / names.get(path, ""), list(sites or meta.sites), say)
        files = sorted(file.relative_to(folder) for file in folder.rglob("*.json"))
    return [out / file for file in files]
