"""What SAEs miss, over the length of training and over widths at equal tokens per latent, judged by
criteria.md.

    python -m experiments.darkmatter_lengths {embedded,real} [{all,train,audit,collect,table}]

Trains SETTING.yaml at every length and width once per seed, and SAEs on both parts of two of their
errors; each run resumes if it was interrupted. Writes results/SETTING.json, .md and .svg.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.darkmatter_lengths.table import markdown
from experiments.lengths import Trained
from experiments.runs import Found, Given, read, saeworks, study
from saeworks.results.names import AUDIT

HERE = Path(__file__).parent
BATCHES = {25_600: 256, 102_400: 512, 307_200: 1024, 1_024_000: 4096, 3_072_000: 4096}
LENGTHS = BATCHES | {10_240_000: 4096}
RECONSTRUCTION = "results/reconstruction.json"
WIDTHS, PER_LATENT = (128, 256, 512, 1024, 2048), 4000
K = {"embedded": 16, "real": 32}
PARTS, ERROR_WIDTH, ERROR_TOKENS, OF = ("l", "u"), 512, 3_072_000, (1_024_000, 10_240_000)
AUDIT_OPTIONS = ("--tokens", "300000", "--pursuit", "8192", "--mlp", "65536",
                 "--downstream", "20000", "--json")  # fmt: skip
METRICS = {
    "split": ("fvu", "fvu_linear", "fvu_nonlinear"),
    "vector": ("r2_error", "r2_error_per_dimension"),
    "norm": ("r2_error_norm",),
    "shrinkage": ("alpha", "artefact_affine"),
    "pursuit": ("fvu_change",),
    "mlp": ("r2_u_best",),
    "null": ("r2_shuffled",),
}


def sae(setting: str, width: int) -> str:
    return f"saes=[{{arch: topk, width: {width}, k: {K[setting]}}}]"


def by_length(setting: str, seed: int) -> list[Trained]:
    yaml = HERE / f"{setting}.yaml"
    return [Trained(yaml, length, batch, seed) for length, batch in LENGTHS.items()]


def by_width(setting: str, seed: int) -> list[Trained]:
    return [
        Trained(HERE / f"{setting}.yaml", PER_LATENT * width, 4096, seed,
                (sae(setting, width),), f"w{width}")
        for width in WIDTHS
    ]  # fmt: skip


def on_errors(setting: str, seed: int) -> Iterator[tuple[int, str, Trained]]:
    """Length of the SAE whose error it is, part of the error, and the run."""
    for run in by_length(setting, seed):
        if run.length in OF:
            for part in PARTS:
                of = (f"error.suite={run.folder}", f"error.component={part}")
                named = f"{part}-of-{run.length}"
                yield run.length, part, Trained(
                    run.config, ERROR_TOKENS, 4096, seed,
                    (*of, sae(setting, ERROR_WIDTH)), named,
                )  # fmt: skip


def train_all(given: Given) -> None:
    for seed in given.seeds:
        for run in (*by_length(given.setting, seed), *by_width(given.setting, seed)):
            run.train()
        for _, _, run in on_errors(given.setting, seed):
            run.train()
            if not (run.folder / RECONSTRUCTION).exists():
                saeworks("eval", run.folder, "--tokens", "100000", "--no-geometry")


def audit(given: Given) -> None:
    """Every SAE on activations that is not audited yet, a seed's together."""
    for seed in given.seeds:
        every = (*by_length(given.setting, seed), *by_width(given.setting, seed))
        left = [run.folder for run in every if not audited(run)]
        if left:
            saeworks("audit", *left, *AUDIT_OPTIONS)


def audited(run: Trained) -> bool:
    return (run.folder / "results" / AUDIT).exists()


def collect(given: Given) -> Found:
    """Metric → a value for each seed, by length, by width and of the SAEs on errors."""
    seeds = [s for s in given.seeds if all(map(audited, by_length(given.setting, s)))]
    errors: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        for length, part, run in on_errors(given.setting, seed):
            (site,) = read(run.folder / RECONSTRUCTION)["sites"].values()
            errors.setdefault(str(length), {}).setdefault(part, []).append(site["fvu"]["value"])
    lengths: dict[str, list[Trained]] = {str(length): [] for length in LENGTHS}
    widths: dict[str, list[Trained]] = {str(width): [] for width in WIDTHS}
    for seed in seeds:
        for run in by_length(given.setting, seed):
            lengths[str(run.length)].append(run)
        for run in by_width(given.setting, seed):
            widths[str(run.length // PER_LATENT)].append(run)
    return {
        "setting": given.setting,
        "seeds": seeds,
        "lengths": {name: values(runs) for name, runs in lengths.items()},
        "widths": {name: values(runs) for name, runs in widths.items()},
        "errors": errors,
    }


def values(runs: Sequence[Trained]) -> dict[str, list[float]]:
    """Metric → a value for each run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        sections = read(run.folder / "results" / AUDIT)["sections"]
        for section, metrics in METRICS.items():
            (site,) = sections[section]["sites"].values()
            for metric in metrics:
                found.setdefault(metric, []).append(site[metric]["value"])
    return found


def draw(found: Found, base: Path) -> None:
    from experiments.darkmatter_lengths.figure import figure

    figure(found, base.with_suffix(".svg"))


def main(arguments: Sequence[str] | None = None) -> None:
    study(
        *(str(__doc__), __file__, arguments),
        collect=collect,
        table=markdown,
        figures=draw,
        before={"train": train_all, "audit": audit},
        seeds={"embedded": (0, 1, 2), "real": (0,)},
    )


if __name__ == "__main__":
    main()
