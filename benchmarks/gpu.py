"""All that needs a GPU, in one command of at most ten minutes, the most important first.

    python benchmarks/gpu.py                          # on one H100: some 7 minutes
    python benchmarks/gpu.py --seconds 220 --parts tests kernels step
    python benchmarks/gpu.py --device cpu --tiny      # a trial of every part, without a GPU

Each part is a process of its own with its own limit, and what it measured is written before the
next one starts: being cut off loses one part at most. A part for which the time is short is left
out. Peers are those of `make peers`, or of this interpreter, and are left out where neither has
them. The language model is `tinystories-neox-6L256` of SAEWORKS_REAL_DATA, or the embedded one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [str(ROOT / name) for name in ("benchmarks", "src", "tests")]
sys.path[:0] = FOLDERS

from pipelines import Pipeline  # noqa: E402
from step import measure, ratios  # noqa: E402
from trainers import Options, python_of  # noqa: E402

from saeworks.files.access import write_json  # noqa: E402

C = Options(d=768, width=24576, k=32, batch=8192, steps=10_000, lr=1e-4)
WIDE = {f"M {width}": replace(C, d=2304, width=width) for width in (65_536, 131_072)}
TINY = Options(d=16, width=64, k=4, batch=128, steps=10_000, lr=1e-4)
OURS = ("saeworks-bf16", "saeworks")
REAL = Path(os.environ.get("SAEWORKS_REAL_DATA", ROOT.parent / "shared" / "models"))


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A Python command in the repository; its errors are shown as they come."""
    path = os.pathsep.join([*FOLDERS[:2], os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )


def tests(device: str, tiny: bool) -> dict[str, Any]:
    """The tests that need a device; on a CPU they are only listed."""
    places = ["tests/test_cuda.py", "tests/dictionary/triton"]
    found = [place for place in places if (ROOT / place).exists()]
    listed = ["--collect-only"] if device == "cpu" else []
    done = run(["-m", "pytest", "-q", "-m", "cuda", *listed, *found])
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {
        "exit_code": done.returncode,
        "summary": lines[-1] if lines else "",
        "failed": failed[:50],
    }


def kernels(device: str, tiny: bool) -> dict[str, Any]:
    """The sparse primitives at the size of C: beside plain code in float64 on some rows, their
    seconds, and what they move, at the least, in a second."""
    import torch

    from helpers import eager_kernels as eager
    from saeworks.dictionary import kernels as ours

    o, checked = (TINY, 16) if tiny else (C, 256)
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(o.batch, o.d, generator=generator).to(device)
    table_MD = torch.randn(o.width, o.d, generator=generator).to(device)
    values = torch.rand(o.batch, o.k, generator=generator).to(device)
    indices = torch.randint(o.width, (o.batch, o.k), generator=generator).to(device)
    few = (values[:checked], indices[:checked], x_BD[:checked])
    pairs = ours.sort_pairs(indices, o.width)
    few_pairs = ours.sort_pairs(few[1], o.width)
    moved = 4 * o.batch * o.k * o.d
    work: dict[str, tuple[Callable[..., Any], Callable[[], Any], Callable[[], Any], float]] = {
        "gather_sum": (
            lambda: ours.gather_sum(values, indices, table_MD),
            lambda: ours.gather_sum(few[0], few[1], table_MD),
            lambda: eager.gather_sum(few[0].double(), few[1], table_MD.double()),
            moved,
        ),
        "gather_dot": (
            lambda: ours.gather_dot(x_BD, table_MD, indices),
            lambda: ours.gather_dot(few[2], table_MD, few[1]),
            lambda: eager.gather_dot(few[2].double(), table_MD.double(), few[1]),
            moved,
        ),
        "segment_outer": (
            lambda: ours.segment_outer(values, x_BD, pairs),
            lambda: ours.segment_outer(few[0], few[2], few_pairs),
            lambda: eager.segment_outer(few[0].double(), few[2].double(), few_pairs),
            moved + 4 * o.width * o.d,
        ),
        "sort_pairs": (lambda: ours.sort_pairs(indices, o.width), None, None, 8 * o.batch * o.k),
    }
    found = {}
    for name, (whole, part, plain, size) in work.items():
        seconds = timed(whole, device)
        found[name] = {"seconds": seconds, "bytes_per_second": size / seconds}
        if part and plain:
            expected = plain()
            error = (part().double() - expected).norm() / expected.norm()
            found[name]["relative_error"] = float(error)
    worst = max(one.get("relative_error", 0.0) for one in found.values())
    return {**asdict(o), "results": found, "exit_code": int(not worst < 1e-5)}


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one, of many after some to warm up."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    wait()
    began, times = perf_counter(), 0
    while times < 5 or (perf_counter() - began < 0.2 and times < 200):
        work()
        times += 1
    wait()
    return (perf_counter() - began) / times


def available(names: tuple[str, ...]) -> list[str]:
    """Those whose package is there."""
    there = []
    for name in names:
        try:
            python_of(name)
        except SystemExit as reason:
            print(reason, file=sys.stderr)
            continue
        there.append(name)
    return there


def beside(o: Options, names: tuple[str, ...], device: str) -> dict[str, Any]:
    """Steps of ours and of peers in turns; who fails is left out."""
    threads = min(4, os.cpu_count() or 1)
    results = measure(available(names), o, threads, 5, device=device, lenient=True)
    faster = {ours: ratios(results, ours) for ours in OURS}
    return {**asdict(o), "results": results, "faster_by": faster}


def step(device: str, tiny: bool) -> dict[str, Any]:
    """A TopK step at C."""
    peers = ("sparsify-signum", "sparsify-adam", "saelens-autocast", "saelens")
    return beside(TINY if tiny else C, (*OURS, *peers), device)


def wide(device: str, tiny: bool) -> dict[str, Any]:
    """A TopK step of wide dictionaries; of each peer the setting that is the faster."""
    sizes = {"M 128": replace(TINY, width=128)} if tiny else WIDE
    names = (*OURS, "sparsify-signum", "saelens-autocast")
    return {name: beside(o, names, device) for name, o in sizes.items()}


def floor(device: str, tiny: bool) -> dict[str, Any]:
    """A step by stage, beside the device's matmul and memory."""
    o = TINY if tiny else C
    sizes = {"--d": o.d, "--width": o.width, "--k": o.k, "--batch": o.batch}
    options = [str(part) for pair in sizes.items() for part in pair]
    command = ["-m", "saeworks", "bench", "floor", *options, "--device", device, "--json"]
    done = run(command)
    return json.loads(done.stdout) if done.returncode == 0 else {"exit_code": done.returncode}


def switch(device: str, tiny: bool) -> dict[str, Any]:
    """Switch SAEs beside TopK of their width, at C and at M 131072."""
    found = {}
    for o in [TINY] if tiny else [C, replace(C, width=131_072)]:
        sizes = {"d": o.d, "width": o.width, "k": o.k, "batch": o.batch, "rounds": 5}
        experts = ["2", "8"] if tiny else ["16", "64", "128"]
        command = ["benchmarks/switch.py", "--device", device, "--no-dense", "--experts", *experts]
        done = run([*command, *(part for n, v in sizes.items() for part in (f"--{n}", str(v)))])
        shown = json.loads(done.stdout) if done.returncode == 0 else {}
        found[f"M {o.width}"] = shown | {"exit_code": done.returncode}
    return found


def pipeline(device: str, tiny: bool) -> dict[str, Any]:
    """Whole trainings on a language model of six blocks, twice each."""
    from peers import material, over, train

    names = ("saeworks-bf16", "sparsify-signum", "saelens-autocast")
    with tempfile.TemporaryDirectory() as folder:
        real = REAL / "tinystories-neox-6L256"
        if real.is_dir():
            model, text = real, REAL / "text" / "tinystories_train.txt"
        else:
            model, text = material(Path(folder))
        o = Pipeline(str(model), str(text), 2**20, 2048, 32, 4096, device=device, buffer=131_072)
        if tiny:
            o = replace(o, tokens=4096, width=64, k=4, batch=1024, buffer=2048)
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in available(names)}
        failed = {}
        for _ in range(1 if tiny else 2):
            for name, seen in rounds.items():
                if name in failed:
                    continue
                try:
                    seen.append(train(name, o, min(8, os.cpu_count() or 1)))
                    print(f"{name:20} {seen[-1]['seconds']:.1f} s", file=sys.stderr)
                except SystemExit as failure:
                    failed[name] = {"failed": str(failure)[-2000:]}
    results = {name: failed.get(name) or over(seen) for name, seen in rounds.items()}
    about = asdict(replace(o, model=model.name, text=text.name))
    return {**about, "results": results, "faster_by": ratios(results, "saeworks-bf16")}


PARTS: dict[str, tuple[Callable[[str, bool], dict[str, Any]], int]] = {
    "tests": (tests, 120),
    "kernels": (kernels, 60),
    "step": (step, 120),
    "pipeline": (pipeline, 180),
    "switch": (switch, 90),
    "wide": (wide, 150),
    "floor": (floor, 60),
}
"""What is measured, in this order, and at most for so many seconds."""


def measured(part: str, device: str, tiny: bool, limit: float) -> dict[str, Any]:
    """A part in a process of its own, ended at its limit."""
    began = perf_counter()
    command = [__file__, "--part", part, "--device", device, *(["--tiny"] if tiny else [])]
    with tempfile.TemporaryFile("w+") as answer:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=answer, start_new_session=True, text=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with what it started
            process.wait()
            code = None
        answer.seek(0)
        lines = answer.read().splitlines()
    seconds = {"took_seconds": perf_counter() - began}
    if code is None:
        return {"left_out": f"took more than {limit:.0f} s"} | seconds
    if code or not lines:
        return {"exit_code": code or 1} | seconds
    found: dict[str, Any] = json.loads(lines[-1])
    return found | seconds


def about(device: str) -> dict[str, Any]:
    import torch

    from saeworks.cost.machine import processor

    cuda = device != "cpu"
    return {
        "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}".strip(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=560, help="for all parts together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a trial")
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results / "gpu.json")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part][0](args.device, args.tiny)))
        return
    if args.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit(
                f"gpu.py needs a CUDA device; torch {torch.__version__} finds none here"
            )
    began = perf_counter()
    report = about(args.device)
    for part in args.parts:
        left = args.seconds - (perf_counter() - began)
        limit = min(left, PARTS[part][1] * (5 if args.device == "cpu" else 1))
        if limit < 20:
            report[part] = {"left_out": f"{left:.0f} s were left"}
        else:
            print(f"== {part} ({limit:.0f} s at most)", file=sys.stderr, flush=True)
            report[part] = measured(part, args.device, args.tiny, limit)
        write_json(args.out, report)
        print(part, json.dumps(report[part])[:1500], flush=True)
    failed = [part for part in args.parts if report[part].get("exit_code")]
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
