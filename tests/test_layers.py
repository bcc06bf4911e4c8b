"""Imports point down only; some libraries have one importer; the light paths stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from inspect import isclass
from pathlib import Path
from pkgutil import walk_packages

import pytest

from saeworks import measure
from saeworks.results.metric import Metric

SRC = Path(__file__).resolve().parent.parent / "src" / "saeworks"

LEAVES = {"errors", "config", "files", "results", "lm.device", "cost.machine", "cost.progress"}
"""What every part may import."""

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "config": {"errors", "files"},
    "results": {"errors", "config", "files"},
    "lm.device": {"errors"},
    "cost.machine": {"errors"},
    "cost.progress": set(),
    "dictionary": LEAVES,
    "embedded": LEAVES,
    "lm": LEAVES | {"embedded"},
    "activations": LEAVES | {"lm", "dictionary"},
    "groups": LEAVES | {"activations", "lm"},
    "suite": LEAVES | {"dictionary"},
    "interop": LEAVES | {"dictionary", "suite"},
    "cost": LEAVES | {"dictionary"},
    "train": LEAVES | {"dictionary", "activations", "groups", "suite", "cost"},
    "measure": LEAVES | {"dictionary", "activations", "lm", "embedded", "suite"},
    "report": {"errors", "config", "files", "results"},
    "people": {"errors", "config", "files", "results", "cost.progress"},
    "cost.bench_step": LEAVES | {"dictionary", "train", "cost"},
    "cost.bench_floor": LEAVES | {"cost"},
    "cost.bench_lm": LEAVES | {"lm"},
    "cost.calibrate": LEAVES | {"dictionary", "lm", "activations", "train", "cost", "measure"},
    "train.error_target": LEAVES | {"dictionary", "lm", "activations", "suite", "measure"},
    "train.tensors": LEAVES | {"activations", "groups", "suite", "train", "measure"},
    "train.live_job": LEAVES
    | {"lm", "activations", "groups", "train", "measure", "cost", "cost.calibrate"}
    | {"train.error_target"},
    "train.cached_job": LEAVES
    | {"activations", "groups", "train", "measure", "cost", "cost.calibrate"},
    "train.caching": LEAVES
    | {"activations", "suite", "train", "measure", "train.cached_job", "train.live_job"},
    "train.job": LEAVES | {"train", "cost", "cost.calibrate", "train.cached_job", "train.live_job"},
    "advice": LEAVES
    | {"lm", "groups", "suite", "cost", "cost.calibrate", "train", "train.live_job"},
    "cli": LEAVES
    | {
        "advice",
        "dictionary",
        "lm",
        "groups",
        "suite",
        "measure",
        "report",
        "people",
        "interop",
        "cost",
    }
    | {"cost.calibrate", "cost.bench_floor", "cost.bench_step", "cost.bench_lm"}
    | {"train.job", "train.live_job", "train.cached_job", "train.caching"},
    "__main__": {"cli"},
}
"""What each part may import, besides itself and the package's version.

A part is a package, a module at the root, or a module that this table names: what turns a
configuration into a run, or measures a run, stands above the training that it starts."""


def sources() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def part_of(names: Sequence[str]) -> str:
    """The part that a module belongs to: its first two names, where the table has them."""
    return ".".join(names[:2]) if ".".join(names[:2]) in ARROWS else names[0]


def part(path: Path) -> str:
    """The part that a file belongs to."""
    return part_of(path.relative_to(SRC).with_suffix("").parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, anywhere in it: (line, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the arrows"
            module = node.module or ""
            if module == "saeworks":  # `from saeworks import suite` imports saeworks.suite
                yield from ((node.lineno, f"saeworks.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return  # imports by name, when asked
    assert own in ARROWS, f"{own} is new: say in ARROWS what it may import"
    for line, module in imported(path):
        names = module.split(".")
        if names[0] != "saeworks" or module in {"saeworks", "saeworks.__version__"}:
            continue
        assert part_of(names[1:]) in ARROWS[own] | {own}, (
            f"{path}:{line}: {own} must not import {module}"
        )


def test_arrows_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {name for name, below in ARROWS.items() if below <= done} - done
        assert ready, f"a cycle among {sorted(set(ARROWS) - done)}"
        done |= ready


def importers(library: str) -> set[str]:
    return {
        part(path)
        for path in sources()
        for _, module in imported(path)
        if module.split(".")[0] == library
    }


def test_only_lm_imports_transformers() -> None:
    assert importers("transformers") == {"lm", "embedded"}


@pytest.mark.parametrize("library", ["transformer_lens", "nnsight", "pickle", "dill", "joblib"])
def test_nobody_imports(library: str) -> None:
    assert importers(library) == set()


ARCHS_FOLDER = SRC / "dictionary" / "archs"


def test_architectures_are_reached_through_archs() -> None:
    """Nobody imports an architecture's own file but another architecture; the registry names it."""
    for path in sources():
        for line, module in imported(path):
            if module.startswith("saeworks.dictionary.archs"):
                assert path.parent == ARCHS_FOLDER, f"{path}:{line}: {module} is an architecture"


ORDINARY = {"threshold", "coefficient", "router.threshold"}
"""Names of parameters and buffers that mean other things elsewhere."""


def own_parameters() -> set[str]:
    """Names of parameters and buffers that some architectures have and others have not."""
    import torch

    from saeworks.dictionary.registry import ARCHS

    names: set[str] = set()
    with torch.device("meta"):
        for arch in ARCHS.values():
            options = {"k": 1} if "k" in arch.Config.__dataclass_fields__ else {}
            names |= arch(4, arch.Config(width=32, **options)).state_dict().keys()
    return names - {"w_enc", "w_dec", "b_dec"} - ORDINARY


NAMES_ARCHITECTURES = {
    "config": "the default of a run and its presets",
    "interop": "what another library's architecture is here",
}
"""Parts that may name an architecture, and why."""


def test_no_architecture_is_named_outside_its_file() -> None:
    """Nor a parameter that only some have: the SAE declares what is needed of it."""
    from saeworks.dictionary.registry import ARCHS

    parameters, wrong = own_parameters(), []
    for path in sources():
        shared = part(path) == "dictionary"  # names its stages, and bases name what they add
        if part(path) in NAMES_ARCHITECTURES or path.parent == ARCHS_FOLDER:
            continue
        if shared and path.stem in {"registry", "penalised"}:
            continue
        words = parameters if shared else parameters | (set(ARCHS) - {"switch"})
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in words:
                wrong.append(f"{path}:{node.lineno}: {node.value!r}")
            elif isinstance(node, ast.Attribute) and node.attr in parameters and not shared:
                wrong.append(f"{path}:{node.lineno}: .{node.attr}")
    assert not wrong, "\n".join(wrong)


Class = tuple[Path, ast.ClassDef]


def classes() -> dict[str, Class]:
    """Every class of the package, by module and name."""
    return {
        f"{'.'.join(path.relative_to(SRC).with_suffix('').parts)}.{node.name}": (path, node)
        for path in sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def bases(path: Path, node: ast.ClassDef, known: dict[str, Class]) -> Iterator[Class]:
    """The classes of ours from which one is derived, however far up."""
    module = ".".join(path.relative_to(SRC).with_suffix("").parts)
    sites = {
        alias.asname or alias.name: f"{statement.module}.{alias.name}".removeprefix("saeworks.")
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    for base in node.bases:
        name = ast.unparse(base).split("[")[0]
        above = known.get(sites.get(name, f"{module}.{name}"))
        if above is not None:
            yield above
            yield from bases(*above, known)


def does_something(function: ast.FunctionDef) -> bool:
    """Whether a method is neither abstract nor empty: a docstring and, at most, an empty answer."""
    if any("abstractmethod" in ast.unparse(line) for line in function.decorator_list):
        return False
    for statement in function.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        empty = {"None", "False", "''", "()", "{}", "[]", "self"}
        if (
            isinstance(statement, ast.Return)
            and ast.unparse(statement.value or ast.Constant(None)) in empty
        ):
            continue
        return True
    return False


def test_no_method_that_does_something_is_overridden() -> None:
    """A class is abstract or final: an override adds to nothing and takes nothing away."""
    known = classes()
    wrong = []
    for name, (path, node) in known.items():
        methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        for _, above in bases(path, node, known):
            for item in above.body:
                if (
                    isinstance(item, ast.FunctionDef)
                    and item.name in methods - {"__init__"}
                    and does_something(item)
                ):
                    wrong.append(f"{name}.{item.name} overrides that of {above.name}")
    assert not wrong, "\n".join(wrong)


def test_no_eager_pickle() -> None:
    """torch.load reads pickles; so does numpy with allow_pickle."""
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


def metric_keys() -> set[str]:
    """The keys of every mapping of metrics that a module of `measure`, or a class in it, has."""
    keys: set[str] = set()
    for module in walk_packages(measure.__path__, "saeworks.measure."):
        content = vars(import_module(module.name))
        for holder in (content, *(vars(item) for item in content.values() if isclass(item))):
            for item in holder.values():
                if isinstance(item, Mapping) and any(isinstance(v, Metric) for v in item.values()):
                    keys |= set(item)
    return keys


READERS = {"cli", "measure", "report", "results"}
"""The parts that see results: below them the same word is another thing, such as a loss term."""

OTHERWISE = {
    ("choice", "results/series.py"),  # the key of how the latents of a page were chosen
    ("encoder", "measure/audit/pursuit.py"),  # whose codes: the SAE's own, beside those of pursuit
    ("l1", "report/frontier.py"),  # the option of training that weighs the penalty
    ("nonlinear", "measure/audit/positions.py"),  # the heading of a column
}
"""Key, file: there the word names something else, in JSON or in a config, so it has to stay."""


def test_a_metrics_key_is_a_literal_in_one_file() -> None:
    keys = metric_keys()
    assert len(keys) > 100
    files: dict[str, set[str]] = {key: set() for key in keys}
    for path in sources():
        if path.relative_to(SRC).parts[0] in READERS:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    files.get(node.value, set()).add(str(path.relative_to(SRC)))
    for key, file in OTHERWISE:
        files[key].remove(file)
    twice = {key: sorted(files[key]) for key in sorted(keys) if len(files[key]) > 1}
    assert not twice, f"a metric's key in several files; import it from one: {twice}"


HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy", "pandas")


@pytest.mark.parametrize(
    "code",
    [
        "import saeworks; saeworks.__version__; dir(saeworks)",
        "import saeworks.config",
        "import saeworks.report.build",
        "from saeworks.dictionary.registry import ARCHS; list(ARCHS)",
        "import sys; sys.argv = ['saeworks', '--help']\n"
        "from saeworks.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass",
    ],
    ids=["package", "config", "report", "archs", "help"],
)
def test_light_paths_import_no_torch(code: str) -> None:
    check = f"\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr


def defined() -> Iterator[tuple[str, str, Path]]:
    """What the package defines by name: ("class" or the value of a constant, its name, the file).

    Commands are left out: each has the name that stands on the command line.
    """
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if part(path) != "cli":
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    yield "class", node.name, path
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                targets, value = statement.targets, statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets, value = [statement.target], statement.value
            else:
                continue
            literal = isinstance(value, ast.Constant) and isinstance(value.value, str | int | float)
            for target in targets:
                if literal and isinstance(target, ast.Name) and target.id.isupper():
                    yield ast.unparse(value), target.id.lstrip("_"), path


def test_no_two_places_define_the_same() -> None:
    """A record, a class or a constant is defined in one place; what is another thing has a name of
    its own."""
    places: dict[tuple[str, str], list[Path]] = {}
    for kind, name, path in defined():
        places.setdefault((kind, name), []).append(path.relative_to(SRC))
    twice = [f"{n}: {', '.join(map(str, p))}" for (_, n), p in places.items() if len(p) > 1]
    assert not twice, "defined twice:\n" + "\n".join(twice)
