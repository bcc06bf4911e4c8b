"""`saeworks export`: what was measured of suites, in the formats of Neuronpedia and SAEBench."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction

from saeworks.cli.arguments import Json, Suites
from saeworks.cli.printing import print_json, say, speaker
from saeworks.errors import DONE


@dataclass(frozen=True)
class Export:
    """Write the results of suites as Neuronpedia's dashboards of latents, or SAEBench's results.

    Only files of results are read: `saeworks eval` makes them (and `saeworks concepts` those of
    sparse probing). SAEs themselves are written by `saeworks convert`.
    """

    suites: Suites
    to: Literal["neuronpedia", "saebench"]
    """`neuronpedia`: batches as SAEDashboard writes them, a folder for each site. `saebench`: core
    and sparse probing, a file for each site."""
    out: Path
    """A new folder; of several suites it gets one for each."""
    site: Annotated[tuple[str, ...], UseAppendAction] = ()
    """Only these sites, as often as needed."""
    json: Json = False

    def __call__(self) -> int:
        """Run it; nothing is written unless all of it is."""
        from saeworks.interop.measured import export
        from saeworks.suite import find_all_suites

        suites, tell = find_all_suites(self.suites), speaker(self.json)
        written = export(suites, self.to, self.out, self.site, tell)
        if self.json:
            print_json({"format": self.to, "files": [str(file) for file in written]})
        else:
            say(f"{self.out}: {len(written)} file(s) for {self.to}")
        return DONE
