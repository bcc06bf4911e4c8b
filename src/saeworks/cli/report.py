"""`saeworks report`: a static HTML report of suites."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saeworks.cli.arguments import Json, Suites
from saeworks.cli.printing import print_json, say
from saeworks.errors import DONE, UserError
from saeworks.files.access import own_folder
from saeworks.files.folders import make_ready, owner


@dataclass(frozen=True)
class Report:
    """Write a static HTML report of one suite, or of several side by side."""

    suites: Suites
    out: Path | None = None
    """Folder of the report: `report` in the first folder given, by default."""
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.report.build import write_report
        from saeworks.suite import find_all_suites

        suites = find_all_suites(self.suites)
        folder = self._folder(suites)
        for part in ("", "assets", "data"):
            make_ready(own_folder(folder, part))
        page = write_report(suites, folder)
        if self.json:
            print_json({"report": str(page)})
        else:
            say(f"Report: {page}")
        return DONE

    def _folder(self, suites: Sequence[Path]) -> Path:
        """Where the report goes: never among the files of a suite or run, nor anywhere in one that
        the report is not of.

        Raises:
            UserError: if it would.
        """
        if self.out is None:
            return own_folder(self.suites[0], "report")
        within = owner(self.out)
        if within is None:
            return self.out
        place = Path(os.path.abspath(self.out)).relative_to(within).parts
        given = {Path(os.path.abspath(path)) for path in (*self.suites, *suites)}
        ours = any(path.is_relative_to(within) or within.is_relative_to(path) for path in given)
        if not ours or not place or place[0] in ("groups", "results", "checkpoints"):
            raise UserError(
                f"--out {self.out} is in {within}, a run's or suite's folder: its files might be "
                "overwritten; choose another --out, or leave it out"
            )
        return self.out
