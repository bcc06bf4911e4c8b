"""`saeworks demo`: the other commands, one after the other, on the embedded model."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from saeworks.cli.arguments import Json, SameAs
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import PRESETS, Device, TrainConfig
from saeworks.cost.progress import duration
from saeworks.errors import DONE, INTERRUPTED, UserError
from saeworks.files.access import is_file, read_json, write_json
from saeworks.files.folders import make_ready
from saeworks.files.seals import RESULTS
from saeworks.results.headlines import DELTA_CE, FVU
from saeworks.results.names import COMPARISON, CONCEPTS

RECORD = "demo.json"
"""In the demo's folder: the command lines that are over, with the seconds of each."""
LOG = "demo.log"
"""What the commands print."""
BASELINE, TOGETHER = "topk-w256-k16", "switch-w1024-k16-experts4-g2-complete"
"""Of the four suites that without groups and experts, and that with both."""
PLAN = ("--tokens", 30_000, "--max-documents", 1500)
EVAL = ("--tokens", 30_000, "--splice-tokens", 10_000, "--latents", 64)
AUDIT = ("--tokens", 20_000, "--pursuit", 1024, "--mlp", 0, "--zeroing", 0, "--codes", 2048,
         "--downstream", 4000)  # fmt: skip
COMPARE = ("--tokens", 20_000)
CIRCUITS = ("--task", "ioi", "--prompts", 32, "--attribution", "plain", "--exact", 0)
KNOWN = ("--tokens", 15_000, "--k", 1)


@dataclass(frozen=True)
class Phase:
    """A command of the demo.

    Attributes:
        title: what it is for.
        seconds: what it takes on two quiet cores, with the default number of tokens.
        words: the command line, without `saeworks`.
    """

    title: str
    seconds: int
    words: Sequence[object]

    @property
    def line(self) -> str:
        """As a shell takes it."""
        return command(*self.words)


@dataclass(frozen=True)
class Demo:
    """Plan, train, evaluate, audit, compare, report on the embedded model: offline, in minutes.

    Four suites from one pass: an SAE per layer or per group of layers, TopK or Switch. Ends with a
    report whose first page says what groups and experts save, what the SAEs miss, and whether
    latents match known concepts. Prints each command, so that any can be repeated by itself.
    """

    out: Path = Path("runs/demo")
    """Folder of everything; the same command goes on where it ended or was killed."""
    tokens: Annotated[int, SameAs(TrainConfig, "tokens")] = PRESETS["demo"]["train"]["tokens"]
    device: Device = "auto"
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        make_ready(self.out)
        phases, seconds, tell = self.phases(), self._seconds(), speaker(self.json)
        for at, phase in enumerate(phases, 1):
            if phase.line in seconds:
                continue
            tell(f"[{at}/{len(phases)}] {phase.title}, {left(phases, seconds)}: {phase.line}")
            began, busy = time.monotonic(), time.process_time()
            if self._run(phase) != DONE:
                tell("Interrupted; the same command goes on from here.")
                return INTERRUPTED
            seconds[phase.line] = time.monotonic() - began
            write_json(self.out / RECORD, {"seconds": seconds})
            tell(
                f"    {seconds[phase.line]:.0f} s, {time.process_time() - busy:.0f} s of processor"
            )
        self._conclude(seconds)
        return DONE

    def phases(self) -> list[Phase]:
        """All commands, in their order."""
        out, plan, on = self.out, self.out / "plan", ("--device", self.device)
        groups = json.dumps(["per-site", {"plan": str(plan / "plan.json")}])
        train = ["--preset", "demo", "--model", "embedded", "--text", "embedded"]
        train += ["--plan", str(plan / "plan.json"), "--set", f"groups={groups}"]
        train += ["--set", f"train.tokens={self.tokens}", "--set", f"device={self.device}"]
        together, beside = out / TOGETHER, ("--baseline", out / BASELINE)
        return [
            Phase("Which layers are alike", 8, ("plan", *PLAN, "--out", plan, *on)),
            Phase("Four suites in one pass", 100, ("train", *train, "--out", out)),
            Phase("What SAEs reconstruct", 25, ("eval", out, *EVAL, *on)),
            Phase("What they miss", 30, ("audit", out, *AUDIT, *on)),
            Phase("Suites beside the baseline", 10, ("compare", out, *beside, *COMPARE, *on)),
            Phase("A circuit", 15, ("circuits", together, *beside, *CIRCUITS, *on)),
            Phase("Known concepts", 45, (CONCEPTS, together, out / BASELINE, *KNOWN, *on)),
            Phase("Report", 12, ("report", out)),
        ]  # fmt: skip

    def _run(self, phase: Phase) -> int:
        """The command, whose words go to the log."""
        from saeworks.cli.parsing import parse

        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log):
            say(f"$ {phase.line}")
            try:
                return parse([str(word) for word in phase.words])()
            except KeyboardInterrupt:
                return INTERRUPTED

    def _seconds(self) -> dict[str, float]:
        """Command line → seconds, of those that are over."""
        if not is_file(path := self.out / RECORD):
            return {}
        record: Any = read_json(path, "demo")
        seconds = record.get("seconds") if isinstance(record, dict) else None
        if not isinstance(seconds, dict) or not all(isinstance(s, float) for s in seconds.values()):
            raise UserError(f"{path} is not what `saeworks demo` wrote; delete it")
        return seconds

    def _conclude(self, seconds: Mapping[str, float]) -> None:
        """What came out, and where it can be read."""
        from saeworks.suite import find_suites

        page = self.out / "report" / "index.html"
        means = {
            path.name: read_json(path / RESULTS / COMPARISON, "comparison")["mean"]
            for path in find_suites(self.out)
            if path.name != BASELINE
        }
        if self.json:
            print_json({"report": str(page), "seconds": seconds, "means": means})
            return
        say(f"FVU and ΔCE, mean over the layers, against {BASELINE}:")
        for name, mean in means.items():
            say(f"  {name}: FVU {change(mean[FVU])}, ΔCE {change(mean[DELTA_CE])}")
        say(f"All that was printed: {self.out / LOG}")
        say(f"Report: {page}")


def left(phases: Sequence[Phase], seconds: Mapping[str, float]) -> str:
    """How long the phases that are not over will take, at the pace of those that are."""
    over = [phase for phase in phases if phase.line in seconds]
    expected = sum(phase.seconds for phase in over)
    pace = sum(seconds[phase.line] for phase in over) / expected if over else 1.0
    rest = sum(phase.seconds for phase in phases if phase not in over)
    return f"about {duration(pace * rest)} left"


def change(pair: Mapping[str, Any]) -> str:
    """`0.0372 (−27%)` of a suite's metric beside the baseline's."""
    suite, baseline = pair["suite"]["value"], pair["baseline"]["value"]
    return f"{suite:.3g} ({suite / baseline - 1:+.0%})"
