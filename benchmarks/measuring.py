"""What `eval` and `audit` of a suite cost: passes of the language model, tokens encoded, seconds.

    .venv/bin/python benchmarks/measuring.py --before ../before/src     # beside another version
    .venv/bin/python benchmarks/measuring.py --rounds 1 --tokens 4000   # a trial, of this one alone

A suite with one TopK SAE on each of the embedded model's six blocks is trained once, by the older
version, whose suites the newer one reads, then measured by each version in processes of their own,
in turn. A version that has `evaluate_and_audit` measures both in shared sweeps; an older one has
two commands. Counted are forward calls of the language model, the tokens that go through its blocks
and its unembedding (in whole passes: of all tokens evaluated, through all blocks), and the tokens
that SAEs encode. The results of both versions are compared number by number.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN: dict[str, Any] = {
    "text": {"max_documents": 10_000},
    "saes": [{"arch": "topk", "width": 512, "k": 16}],
    "train": {"tokens": 200_000, "batch": 1024},
    "buffer": {"memory": "64MiB", "normaliser_tokens": 20_000},
    "device": "cpu",
}
RANDOM = "null"
"""The section of an audit whose draws depend on how the text is cut."""


def trained(out: Path) -> Path:
    """The suite that is measured, by the version that is on the path."""
    from saeworks.config import RunConfig, from_mapping
    from saeworks.suite import find_suites
    from saeworks.train.job import train_run

    train_run(from_mapping(RunConfig, RUN, "benchmark"), out, lambda line: None)
    (suite,) = find_suites(out)
    return suite


class Counts:
    """What the language model and the SAEs did, counted by wrapping their methods."""

    def __init__(self) -> None:
        from saeworks.dictionary.base import SAE
        from saeworks.lm.model import LanguageModel

        self.calls = self.block_tokens = self.logit_tokens = self.encoded_tokens = 0
        self.layers = 1
        self._watched: set[int] = set()
        run, encode = LanguageModel.run, SAE.encode_sparse

        def counted_run(lm: Any, tokens_BT: Any, *args: Any, **options: Any) -> Any:
            self._watch(lm)
            self.calls += 1
            return run(lm, tokens_BT, *args, **options)

        def counted_encode(sae: Any, x: Any) -> Any:
            self.encoded_tokens += x.numel() // x.shape[-1]
            return encode(sae, x)

        LanguageModel.run = counted_run  # type: ignore[method-assign, assignment]
        SAE.encode_sparse = counted_encode  # type: ignore[method-assign]

    def _watch(self, lm: Any) -> None:
        """Count inside the blocks: what is skipped of a pass does not run there."""
        if id(lm) in self._watched:
            return
        self._watched.add(id(lm))
        self.layers = lm.layers

        def in_block(_module: Any, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            self.block_tokens += first.shape[0] * first.shape[1]

        def in_head(_module: Any, _args: Any, logits: Any) -> None:
            self.logit_tokens += logits.shape[0] * logits.shape[1]

        for name in lm.attention:
            lm.block(name).register_forward_hook(in_block)
        lm.model.get_output_embeddings().register_forward_hook(in_head)

    def taken(self) -> dict[str, float]:
        """The counts so far, which start again from 0."""
        names = ("calls", "block_tokens", "logit_tokens", "encoded_tokens")
        found = {name: getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, 0)
        return {**found, "whole_passes_tokens": found.pop("block_tokens") / self.layers}


def worker(suite: Path, tokens: int, core: bool) -> dict[str, Any]:
    """One process: measure the suite once, with the version that is on the path."""
    from saeworks.config import EvalConfig
    from saeworks.measure import run
    from saeworks.measure.audit import run as audits

    counts = Counts()
    config = EvalConfig(tokens, splice_tokens=tokens // 4, consistency=True, dedup=0.9)
    left_out = dict.fromkeys(("mlp", "pursuit", "codes", "zeroing"), 0) if core else {}
    audit = audits.AuditConfig(tokens, downstream=tokens // 10, device="cpu", **left_out)
    found: dict[str, Any] = {}
    began = (perf_counter(), process_time())
    if hasattr(run, "evaluate_and_audit"):
        run.evaluate_and_audit([suite], config, audit)
        found["together"] = counts.taken()
    else:
        run.evaluate([suite], config)
        found["eval"] = counts.taken()
        audits.audit_suites([suite], audit)
        found["audit"] = counts.taken()
    found["seconds"] = {
        "wall": perf_counter() - began[0],
        "processor": process_time() - began[1],
    }
    return found


def measured(
    source: Path, suite: Path, tokens: int, core: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a version counts, and the results that it writes."""
    answer = by_version(source, "measure", suite, "--tokens", tokens, *(["--core"] if core else []))
    results = {
        file.stem: json.loads(file.read_text()) for file in (suite / "results").glob("*.json")
    }
    return json.loads(answer), results


def by_version(source: Path, work: str, suite: Path, *options: object) -> str:
    """The last line that a process of another version prints."""
    command = [sys.executable, __file__, "--worker", work, "--suite", suite, *options]
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    return done.stdout.splitlines()[-1]


def over_rounds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts, which are the same every time, and the seconds of every round."""
    seconds = {
        kind: [round(run["seconds"][kind], 2) for run in runs] for kind in runs[0]["seconds"]
    }
    parts = [value for key, value in runs[0].items() if key != "seconds"]
    total = {key: sum(part[key] for part in parts) for key in parts[0]}
    return {**runs[0], "total": total, "seconds": seconds, "rounds": len(runs)}


def differences(before: Any, after: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Place and relative difference of every number that was there before; infinite where structure
    or text differ. What came since is not compared."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            yield from differences(before[key], after.get(key), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (a, b) in enumerate(zip(before, after, strict=True)):
            yield from differences(a, b, f"{place}/{at}")
    elif isinstance(before, int | float) and isinstance(after, int | float):
        yield place, abs(before - after) / max(abs(before), abs(after), 1.0)
    else:
        yield place, 0.0 if before == after else float("inf")


def compared(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """How many numbers there are, and the largest difference, of each result."""
    found = {}
    for name in sorted(before.keys() | after.keys()):
        numbers = [
            (place, difference)
            for place, difference in differences(before.get(name), after.get(name))
            if not place.startswith(("/seal", "/config/sums"))
        ]
        apart = [one for one in numbers if f"/{RANDOM}/" not in one[0]]
        place, most = max(apart, key=lambda one: one[1])
        found[name] = {"numbers": len(apart), "largest_difference": most, "at": place}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", type=Path, help="instead of one that is trained here")
    parser.add_argument("--before", type=Path, help="the src folder of another version")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--core", action="store_true", help="without what the audit fits to some tokens"
    )
    parser.add_argument("--worker", choices=["train", "measure"], help=argparse.SUPPRESS)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "measuring.json")
    args = parser.parse_args()
    if args.worker == "train":
        print(trained(args.suite))
        return
    if args.worker:
        print(json.dumps(worker(args.suite, args.tokens, args.core)))
        return
    from saeworks.cost.machine import Neighbours, processor
    from saeworks.files.access import write_json

    neighbours = Neighbours()
    versions = {"before": args.before} if args.before else {}
    versions["after"] = ROOT / "src"
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    written: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        older = next(iter(versions.values()))
        suite = args.suite or Path(by_version(older, "train", Path(folder)))
        for _ in range(args.rounds):
            for name, source in versions.items():
                counts, written[name] = measured(source, suite, args.tokens, args.core)
                runs[name].append(counts)
                print(name, json.dumps(counts), flush=True)
    found: dict[str, Any] = {
        "what": "eval, with consistency and dedup, and audit of six TopK SAEs",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "quiet": neighbours.verdict()[0],
        "tokens": args.tokens,
        "core": args.core,
        **{name: over_rounds(of) for name, of in runs.items()},
    }
    if args.before:
        found["differences"] = compared(written["before"], written["after"])
    write_json(args.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
