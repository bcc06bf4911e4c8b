"""Every study's modules import, in no circle, and its tables come out of the committed JSON."""

import ast
import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from experiments.criteria import NOT, PART, REPRODUCED, Claim, Number, Part
from experiments.runs import lines, rounded

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "experiments"
NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(HERE.rglob("*.py"))
}
BOTH = ("embedded", "real")
SETTINGS: dict[str, tuple[str, ...]] = {
    "darkmatter": BOTH,
    "frontier": BOTH,
    "groups": BOTH,
    "interp": BOTH,
}
STUDIES = [*sorted(path.parent.name for path in HERE.glob("*/__main__.py")), "intervals.coverage"]
MADE = {"table": "*.md", "figures": "*.svg"}
"""Step of a study → what it writes from the JSON."""
RESULTS = [
    pytest.param(study, setting, step, id=f"{study} {setting} {step}".replace("  ", " "))
    for study in STUDIES
    for setting in SETTINGS.get(study, ("",))
    for step, files in MADE.items()
    if any((HERE / study.partition(".")[0] / "results").glob(files))
]


def imported(path: Path) -> Iterator[str]:
    """The modules of the studies that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports(name: str) -> None:
    if "matplotlib" in NAMES[name].read_text():
        pytest.importorskip("matplotlib")
    importlib.import_module(name)


def test_no_two_modules_import_each_other() -> None:
    below = {name: set(imported(path)) for name, path in NAMES.items()}
    assert below["experiments.runs"] == set(), "runs.py is a leaf"
    done: set[str] = set()
    while len(done) < len(below):
        ready = {name for name, others in below.items() if others <= done} - done
        assert ready, f"a circle among {sorted(set(below) - done)}"
        done |= ready


def test_a_study_imports_no_other() -> None:
    for name, path in NAMES.items():
        study = name.split(".")[1]
        others = {other for other in imported(path) if len(other.split(".")) > 2}
        assert all(other.split(".")[1] == study for other in others), (name, others)


@pytest.mark.parametrize(("study", "setting", "step"), RESULTS)
def test_results_come_out_of_their_json(
    study: str, setting: str, step: str, tmp_path: Path
) -> None:
    path = HERE / study.partition(".")[0]
    if step == "figures":
        pytest.importorskip("matplotlib")
    for file in (path / "results").glob("*.json"):
        shutil.copy(file, tmp_path)
    module = study if "." in study else f"{study}.__main__"
    main = importlib.import_module(f"experiments.{module}").main
    main([*([setting] if setting else []), step, "--results", str(tmp_path)])
    written = [file for file in tmp_path.iterdir() if file.suffix in (".md", ".svg")]
    assert written
    for file in written:
        assert file.read_text() == (path / "results" / file.name).read_text(), file.name


def test_numbers_in_json_keep_what_their_interval_carries() -> None:
    wide = {"value": 0.123456789, "low": 0.1, "high": 0.2}
    assert rounded(wide) == {"value": 0.123457, "low": 0.1, "high": 0.2}
    assert rounded([0.123456789, 0.123456, 0.1234570]) == [0.12345679, 0.123456, 0.123457]
    assert rounded({"seeds": [0, 1, 123456789], "low": None}) == {
        "seeds": [0, 1, 123456789],
        "low": None,
    }


def test_json_has_a_line_for_what_is_short_enough() -> None:
    record = {"name": "x" * 100, "value": [1.5, None]}
    text = lines({"records": [record, record, record], "empty": {}})
    assert json.loads(text) == {"records": [record] * 3, "empty": {}}
    assert len(text.splitlines()) == 8


def test_together_is_judged_from_its_json(tmp_path: Path) -> None:
    study = importlib.import_module("experiments.together.__main__")
    runs = {
        str(seed): {
            name: {"fvu": fvu, "dead_share": 0.0, "delta_ce": fvu, "vectors": 1e6, "flops": 1e15}
            for name, fvu in zip(study.ARMS, (0.05, *[0.04 + 0.001 * seed] * 8), strict=True)
        }
        for seed in range(3)
    }
    found = {"command": "python experiments/together.py", "runs": runs}
    (tmp_path / "together.json").write_text(json.dumps(found))
    study.main(["table", "--results", str(tmp_path)])
    text = (tmp_path / "together.md").read_text()
    assert "beat one TopK SAE per layer: **reproduced**." in text
    assert "better than even ones: +0.0%, **not reproduced**." in text
    assert text.count("**no different**") == 2


NEAR = {"value": 0.1, "low": 0.09, "high": 0.12}


def test_advice_is_judged_from_its_json(tmp_path: Path) -> None:
    study = importlib.import_module("experiments.advice.__main__")

    def arm(true: float) -> dict[str, object]:
        sites = {"layers.0": {"fvu": NEAR, "delta_ce": NEAR}}
        sizes = {"groups": 1, "width": 256, "experts": 1, "k": 16, "tokens": 10_000}
        rest = {"fvu": NEAR, "seconds": NEAR, "flops": 1e12, "sites": sites}
        came = {"layers.0": {"fvu": true, "delta_ce": 0.1}}
        return {"advised": {**sizes, **rest}, "true": came, "seconds": 3.0, "cost": {}}

    before = {"what": "", "site": "", "metric": "fvu", "predicted": NEAR, "true": 0.1}
    rest = {"tokens": 1000, "seconds": 1.0, "share_of_budget": 0.1}
    about = {"known": [before], "budget": "1e12flops", "scatter": 0.1}
    models = {
        name: {"pilots": {"flops": flops, **rest}, "arms": {"best": arm(true)}, **about}
        for name, flops, true in (("embedded", 9e10, 0.1), ("a", 2e11, 0.1), ("b", 1e10, 0.2))
    }
    (tmp_path / "advice.json").write_text(json.dumps({"models": models}))
    study.main(["table", "--results", str(tmp_path)])
    text = (tmp_path / "advice.md").read_text()
    assert "FVU 1 of 2 sites, ΔCE 2 of 2 sites; the mean FVU of 1 of 2 runs: **in part**" in text
    assert "at most 20.0% of the run's operations: **not reproduced**" in text
    assert text.count("0.2000 **no**") == 1
    assert "3 of 3 numbers hold" in text


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        (Part("half the paper's", Number(0.06, 0.04, 0.08), paper=0.12), "reproduced"),
        (Part("less", Number(0.05, 0.04, 0.06), paper=0.12), "smaller"),
        (Part("holds 0", Number(0.06, -0.01, 0.13), paper=0.12), "not"),
        (Part("the other way", Number(-0.06, -0.08, -0.04), paper=0.12), "not"),
        (Part("not predicted", Number(-0.06, -0.08, -0.04)), "different"),
        (Part("small enough", Number(0.01, -0.01, 0.03), within=0.02), "reproduced"),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else value,
)
def test_a_number_is_judged_beside_the_papers(part: Part, verdict: str) -> None:
    assert part.verdict == verdict


def test_a_claim_is_reproduced_by_all_of_its_parts() -> None:
    all_, less, none = (
        Part("", Number(value, low, 1.0), paper=0.1)
        for value, low in ((0.1, 0.05), (0.04, 0.01), (0.1, -0.1))
    )
    beside = Part("", none.found, paper=0.1, judged=False)
    marks = [
        Claim(1, "", parts).verdict for parts in ([all_, beside], [all_, none], [less], [none])
    ]
    assert marks == [REPRODUCED, PART, PART, NOT]


def seeds_of(value: float) -> list[float]:
    """Three seeds that differ little."""
    return [value, value * 1.001, value * 0.999]


def write_found(study: str, setting: str, found: Mapping[str, object], folder: Path) -> str:
    """A study's Markdown from what it would have measured."""
    head = {"command": f"python -m experiments.{study} {setting}", "setting": setting}
    (folder / f"{setting}.json").write_text(json.dumps({**head, "seeds": [0, 1, 2], **found}))
    main = importlib.import_module(f"experiments.{study}.__main__").main
    main([setting, "table", "--results", str(folder)])
    return (folder / f"{setting}.md").read_text()


def test_switch_lengths_is_judged_from_its_json(tmp_path: Path) -> None:
    def arm(length: int, experts: int, fvu: float, **options: object) -> dict[str, object]:
        sizes = {"length": length, "width": 256 * experts, "experts": experts, "k": 16}
        metrics = ("fvu", "delta_ce", "dead_share", "duplicate_share")
        more = {"options": {"aux_coefficient": 0.03} | options, "flops": 1e5 * 4 ** (experts == 1)}
        return sizes | more | {metric: seeds_of(fvu) for metric in metrics}

    lengths = (300_000, 1_000_000, 3_000_000, 10_000_000)
    arms = [arm(length, 1, 0.1) for length in lengths]
    for experts in (2, 8):
        arms += [
            arm(length, experts, 0.1 * (1.1, 0.9, 0.8, 0.7)[i]) for i, length in enumerate(lengths)
        ]
    text = write_found("switch_lengths", "embedded", {"arms": arms}, tmp_path)
    assert "1. *At equal FLOPs Switch is better*: **reproduced**" in text
    # From 1.1 to 0.9 in logarithms of both, at 0.475 of the way from 0.3M to 1M tokens.
    assert "2 × 256, k 16: 1,038; 8 × 256, k 16: 259; the largest is 4.0 times" in text
    assert "falls from one length to the next in 6 of 6 steps" in text
    balances = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    parts = [
        arm(10_000_000, 8, 0.12 if balance < 0.01 else 0.1, balance=balance) for balance in balances
    ]
    parts.append(arm(10_000_000, 8, 0.13, balance=0.03, aux_coefficient=0.0))
    text = write_found("switch_lengths", "parts", {"arms": parts}, tmp_path)
    assert "7. *α matters only below a threshold*: **reproduced**" in text
    assert "+30.0%" in text and "| 0.001 | +20.0% [+20.0%, +20.0%] |" in text


def test_groups_lengths_is_judged_from_its_json(tmp_path: Path) -> None:
    study = importlib.import_module("experiments.groups_lengths.__main__")
    fvu = dict.fromkeys([*study.arms("embedded"), study.FEWER], 0.12)
    fvu |= {"per layer": 0.1, "4 groups": 0.105, "3 groups": 0.11, "1 groups": 0.15}
    fvu |= {"2 even groups": 0.13, "fewer vectors": 0.11, "smaller SAEs": 0.14}
    lengths = {
        str(length): {
            name: {
                "fvu": seeds_of(value * (1 if name == "per layer" else grown)),
                "delta_ce": seeds_of(value),
                "dead_share": seeds_of(0.0),
                "tokens": length,
            }
            for name, value in fvu.items()
        }
        for length, grown in ((300_000, 1.0), (1_000_000, 1.1))
    }
    text = write_found("groups_lengths", "embedded", {"lengths": lengths}, tmp_path)
    assert "*FVU falls with G towards the baseline*: **reproduced** (8 of 8 steps)" in text
    assert "0.3M: +20.0%" in text and "From a length to the next: **grows**" in text
    assert "fewer vectors, 2 groups, smaller SAEs. The first study's order: **reproduced**" in text


def test_darkmatter_lengths_is_judged_from_its_json(tmp_path: Path) -> None:
    study = importlib.import_module("experiments.darkmatter_lengths.__main__")
    metrics = [metric for of in study.METRICS.values() for metric in of]

    def values(fvu: float) -> dict[str, list[float]]:
        parts = {"fvu": fvu, "fvu_linear": fvu - 0.02, "fvu_nonlinear": 0.02, "r2_error": fvu}
        return {metric: seeds_of(parts.get(metric, 0.5)) for metric in metrics}

    fvu = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    lengths = {str(n): values(at) for n, at in zip(study.LENGTHS, fvu, strict=True)}
    widths = {str(n): values(at) for n, at in zip(study.WIDTHS, fvu, strict=False)}
    errors = {str(of): {"l": seeds_of(0.5), "u": seeds_of(0.6)} for of in study.OF}
    found = {"lengths": lengths, "widths": widths, "errors": errors}
    text = write_found("darkmatter_lengths", "embedded", found, tmp_path)
    lines = dict(enumerate(line for line in text.splitlines() if line[:2] in ("1.", "3.", "7.")))
    assert "per latent 75%" in lines[0] and lines[0].endswith("**the linear part**.")
    assert lines[1].endswith("**reproduced**.")
    assert "FVU +0.10 [+0.10, +0.10] for u after 10M, **reproduced**" in lines[2]
