"""`saeworks study`: people judge latents, without knowing whose they are."""

import getpass
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Annotated

from typing_extensions import Doc
from tyro.conf import OmitArgPrefixes, Positional

from saeworks.cli.arguments import Json
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.cost.progress import Progress
from saeworks.errors import DONE, INTERRUPTED, UserError
from saeworks.files.folders import make_ready
from saeworks.people.config import HumanStudyConfig

if TYPE_CHECKING:
    from saeworks.people.judged import Analysis
    from saeworks.people.server import RatingServer
    from saeworks.people.study import HumanStudy


@dataclass(frozen=True)
class Study:
    """Have people judge latents of suites, which are mixed and without names, on a local page.

    The page shows contexts from the suites' results/latents.json (`saeworks eval`). A verdict and a
    note are given by keyboard, and each is saved at once; the same command goes on with a study
    that was left. Afterwards `--analyse` says what share is interpretable, with intervals, and how
    far raters agree, and leaves results/study.json in each suite.
    """

    folders: Annotated[
        tuple[Path, ...],
        Positional,
        Doc(
            "Folders of suites, or of runs (all their suites); or the folder of a study, and after "
            "it those of its suites that have moved."
        ),
    ]
    out: Path | None = None
    """Folder of a new study, or of the one to go on with."""
    rater: str | None = None
    """Who judges; answers are kept apart by this name. By default the name of the login."""
    port: int = 0
    """Port of the page on 127.0.0.1; 0 for one that is free."""
    analyse: bool = False
    """Of a study: say what its answers amount to, and write it into the suites."""
    export: Path | None = None
    """Of a study: write its answers, a row each, to this .csv; it says whose each latent is."""
    json: Json = False
    study: Annotated[HumanStudyConfig, OmitArgPrefixes] = field(default_factory=HumanStudyConfig)

    def __call__(self) -> int:
        """Run it."""
        from saeworks.people.study import is_study, locate, read_study
        from saeworks.suite import find_all_suites

        if not self.folders:
            raise UserError("name at least one folder of a suite, of a run, or of a study")
        folder, after = self.folders[0], self.analyse or self.export is not None
        if not is_study(folder):
            if after:
                raise UserError(f"{folder} is no study, and --analyse and --export are of one")
            return self._judge(*self._new())
        if self.out is not None or self.study != HumanStudyConfig():
            raise UserError(
                f"{folder} is a study, whose latents are drawn: --out, --latents, --site and "
                "--seed are of a new one"
            )
        study = read_study(folder)
        moved = find_all_suites(self.folders[1:]) if self.folders[1:] else []
        places = locate(study, moved)
        if not after:
            return self._judge(folder, study)
        self._tell(folder, study, places)
        return DONE

    def _new(self) -> "tuple[Path, HumanStudy]":
        """The folder of the study of these suites, and the study, made if it is not there."""
        from saeworks.people.findings import power_sentence
        from saeworks.people.study import make_study
        from saeworks.suite import find_all_suites

        if self.out is None:
            raise UserError("a new study needs --out FOLDER, where its answers are kept")
        suites = find_all_suites(self.folders)
        make_ready(self.out)
        tell = speaker(self.json)
        study = make_study(suites, self.out, self.study, tell)
        tell(
            f"{self.out}: {len(study.latents)} latents, {study.of_each_suite} of each of "
            f"{len(study.suites)} suite(s), {study.each} at each of {len(study.sites)} site(s)"
        )
        tell(f"Drawn: {study.how}")
        tell(f"Power: {power_sentence(study)}")
        return self.out, study

    def _judge(self, folder: Path, study: "HumanStudy") -> int:
        """Serve the page until Ctrl-C."""
        from saeworks.people.raters import open_answers
        from saeworks.people.server import RatingServer

        rater = self.rater if self.rater is not None else _login()
        tell, latents = speaker(self.json), len(study.latents)
        with (
            open_answers(folder, study, rater) as answers,
            RatingServer(study, answers, rater, self.port) as server,
        ):
            if answers.dropped:
                tell("Note: the last line of the answers was cut off; that latent is asked again.")
            if self.json:
                print_json({"url": server.url, "rater": rater, "judged": len(answers.answers)})
            else:
                say(f"{len(answers.answers)} of {latents} judged by {rater}. Open {server.url}")
                say("Every answer is saved at once. Ctrl-C ends the program.")
            _serve(server, latents)
            left = latents - len(answers.answers)
        if left:
            tell(
                f"{left} latents are left; go on with {command('study', folder, '--rater', rater)}"
            )
            return INTERRUPTED
        tell(f"All judged. Next: {command('study', folder, '--analyse')}")
        return DONE

    def _tell(self, folder: Path, study: "HumanStudy", places: "Sequence[Path | None]") -> None:
        """Write and print what the answers amount to."""
        from saeworks.people.analysis import as_plain, write_results
        from saeworks.people.judged import read_analysis
        from saeworks.people.table import write_csv

        analysis, tell = read_analysis(folder, study), speaker(self.json)
        for name in analysis.dropped:
            tell(f"Note: the last line of {name}'s answers is cut off; it is left out.")
        if self.export is not None:
            rows = write_csv(analysis, self.export)
            tell(f"{self.export}: {rows} answers")
        if not self.analyse:
            if self.json:
                print_json({"export": str(self.export), "answers": rows})
            return
        written = write_results(analysis, places)
        for suite, place in zip(study.suites, places):
            if place is None:
                tell(f"Note: {suite.label} is no longer in {suite.path}; name its folder, too.")
        if self.json:
            print_json(as_plain(analysis))
            return
        print_analysis(analysis)
        if written:
            say(f"Results: {', '.join(map(str, written))}")
            say(f"Next: {command('report', *(file.parents[1] for file in written))}")


def _serve(server: "RatingServer", latents: int) -> None:
    """Until Ctrl-C, with the progress of the rater on the terminal."""
    judged = len(server.answers.answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        with Progress("judged", latents, speaker(as_json=True), unit="latents") as progress:
            progress.begin(judged)
            while True:
                sleep(0.5)
                if (now := len(server.answers.answers)) != judged:
                    judged = now
                    progress.advance(judged)
    except KeyboardInterrupt:
        pass
    finally:
        server.shutdown()


def _login() -> str:
    """The name of the login, in characters that a file's name may have."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = ""
    return re.sub(r"[^A-Za-z0-9_.@-]", "", name).lstrip(".@-")[:64] or "rater"


def print_analysis(analysis: "Analysis") -> None:
    """A row per suite and site, and what they say."""
    from saeworks.cli.tables import print_table
    from saeworks.people.analysis import summary_rows
    from saeworks.people.findings import all_findings

    say("Share of live latents that people judged interpretable, with its 95% interval")
    print_table(*summary_rows(analysis), words=2)
    for finding in all_findings(analysis):
        say(f"- {finding}")
