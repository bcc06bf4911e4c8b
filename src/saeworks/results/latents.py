"""`results/latents.json`, latent by latent: there may be a hundred thousand of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saeworks.errors import UserError
from saeworks.files.access import inside, is_file
from saeworks.files.seals import RESULTS, SEAL, check_seal
from saeworks.files.streaming import Place, read_long
from saeworks.results.records import parse, parse_file
from saeworks.results.result import Result
from saeworks.results.series import CHOICE, Choice, Latent

LATENTS = "latents.json"


def size_of_latents(suite: Path) -> int:
    """The bytes of a suite's latents; 0 where it has none."""
    file = inside(suite, f"{RESULTS}/{LATENTS}")
    return file.stat().st_size if is_file(file) else 0


def read_latents(
    suite: Path,
    again: str,
    take: Callable[[str, Latent], None],
    advance: Callable[[int], None] = lambda read: None,
) -> tuple[Result, dict[str, Choice]]:
    """Read a suite's latents without holding them.

    Args:
        again: what to run for a new file.
        take: called with the site and every latent in turn.
        advance: called with the number of characters that were just read, of `size_of_latents`.

    Returns:
        The result without them, and how each site's latents were chosen.

    Raises:
        UserError: if there is no such file, or it is not what was written.
    """
    file, way_out = inside(suite, f"{RESULTS}/{LATENTS}"), f"run `{again}` again"
    if not is_file(file):
        raise UserError(f"{suite} has no {RESULTS}/{LATENTS}; run `{again}`")
    check_seal(file, "result", again)

    def is_long(place: Place) -> bool:
        return len(place) == 3 and place[0] == "series" and place[2] == "latents"

    def took(place: Place, item: Any) -> None:
        take(place[1], parse(Latent, item, str(file), way_out, *place))

    data = read_long(file, "result", is_long, took, advance)
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if key != SEAL}
    result = parse_file(Result, data, file, "result", again)
    choices = {
        site: parse(Choice, series[CHOICE], str(file), way_out, "series", site, CHOICE)
        for site, series in result.series.items()
        if CHOICE in series
    }
    return result, choices
