"""All that a CUDA device is needed for, in one command: device tests, steps, a real training.

python benchmarks/gpu.py                       # refuses, in one line, where there is no CUDA
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from saeworks.files.access import write_json  # noqa: E402

SWITCH = {
    "M 24576": ["--experts", "4", "16", "64"],
    "M 131072": ["--width", "131072", "--experts", "64"],
}
"""Rows of benchmarks/switch.py, each beside TopK and beside computing every expert and masking; at
M = 131072 the latter needs some 30 GiB."""
SIZES = {"A": (288, 4608, 4096), "B": (512, 16384, 4096), "C": (768, 24576, 8192)}
REAL = Path(os.environ.get("SAEWORKS_REAL_DATA", ROOT.parent / "shared" / "models"))


def command(arguments: list[str], **environment: str) -> tuple[int, str, float]:
    """Exit code, stdout and seconds of a Python command in the repository."""
    began = perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
    )
    return done.returncode, done.stdout, perf_counter() - began


def tests() -> dict[str, Any]:
    code, shown, seconds = command(["-m", "pytest", "-q", "-m", "cuda", "tests"])
    lines = [line for line in shown.splitlines() if line.strip()]
    return {"exit_code": code, "summary": lines[-1] if lines else "", "seconds": seconds}


def step(d: int, width: int, batch: int) -> dict[str, Any]:
    sizes = {"--d": d, "--width": width, "--k": 32, "--batch": batch}
    options = [str(part) for pair in sizes.items() for part in pair]
    code, shown, _ = command(
        ["-m", "saeworks", "bench", "step", "--arch", "topk", *options, "--device", "cuda"]
    )
    return json.loads(shown) if code == 0 else {"exit_code": code}


def switch(options: list[str], device: str = "cuda") -> dict[str, Any]:
    """The arms in one process, interleaved; without dense-and-mask where that does not fit."""
    found: dict[str, Any] = {}
    for extra in ([], ["--no-dense"]):
        arguments = ["benchmarks/switch.py", "--device", device, *options, *extra]
        code, shown, seconds = command(arguments)
        if code == 0:
            return json.loads(shown) | {"seconds": seconds, **found}
        found = {"with_dense_and_mask": {"exit_code": code}}
    return found


def training(tokens: int) -> dict[str, Any]:
    """SAEs on every layer of a real model (the embedded one where there is no real one)."""
    model, text = REAL / "tinystories-neox-6L256", REAL / "text" / "tinystories_train.txt"
    found = model.is_dir() and text.is_file()
    where = ["--model", str(model), "--text", str(text)] if found else []
    with tempfile.TemporaryDirectory() as out:
        run = ["-m", "saeworks", "train", "--preset", "quick", *where, "--out", f"{out}/run"]
        run += ["--device", "cuda", "--set", f"train.tokens={tokens}", "--json"]
        code, shown, seconds = command(run)
        lines = [
            json.loads(line)
            for path in Path(out).rglob("metrics.jsonl")
            for line in path.read_text().splitlines()
        ]
    held_out = {r["site"]: r for r in lines if r.get("kind") == "held_out"}  # the last per site
    rates = [r["tokens_per_second"] for r in lines if r.get("kind") == "train"]
    return {
        "model": model.name if found else "embedded",
        "tokens": tokens,
        "exit_code": code,
        "seconds": seconds,
        "tokens_per_second_last": rates[-1] if rates else None,
        "held_out": held_out,
        "stdout": shown[-2000:],
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=3_000_000)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "gpu.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"gpu.py needs a CUDA device; torch {torch.__version__} finds none here")
    report = {
        "command": f"python benchmarks/gpu.py --tokens {args.tokens}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "tests": tests(),
        "step": {name: step(*size) for name, size in SIZES.items()},
        "switch": {name: switch(options) for name, options in SWITCH.items()},
        "training": training(args.tokens),
    }
    write_json(args.out, report)
    print(json.dumps(report, indent=1))
    failed = report["tests"]["exit_code"] != 0 or report["training"]["exit_code"] != 0
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
