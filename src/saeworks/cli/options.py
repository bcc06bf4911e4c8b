"""The options of every command, each a dataclass that is called to run it. It imports no torch."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import (
    OmitArgPrefixes,
    OmitSubcommandPrefixes,
    Positional,
    Suppress,
    UseAppendAction,
    subcommand,
)

from saeworks.config import EvalConfig
from saeworks.errors import DONE


@dataclass(frozen=True)
class Demo:
    """Train, evaluate and report TopK SAEs on every layer of the embedded model: offline, minutes.

    Ends with a table per layer and the path of the report.
    """

    out: Path = Path("runs/demo")
    """Folder for the suite and its report; running again resumes or just shows it."""
    tokens: int = 500_000
    """Tokens that every SAE is trained on."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli import commands

        return commands.demo(self.out, tokens=self.tokens, device=self.device, as_json=self.json)


@dataclass(frozen=True)
class Plan:
    """Measure which sites are alike and group them: plan.json, and a page with heat maps.

    Distances are mean angles between the activations of two sites, raw and mean-centred; of each
    group the largest counts (AMAD: on average over the groups).
    """

    model: str = "embedded"
    """A Hugging Face id, a folder, or `embedded`."""
    text: str = "embedded"
    """A Hugging Face dataset, a .txt, .jsonl or .parquet file, or `embedded`."""
    out: Path | None = None
    """Folder of plan.json and index.html: runs/plan-<name of the model> by default."""
    sites: tuple[str, ...] = ("*@resid",)
    """Module names with `*` within one segment, or aliases such as `*@attn`; all of one width."""
    last: bool = False
    """Keep the last block's output where a `*` selects it: it lives in the unembedding's space."""
    tokens: int = 1_000_000
    """Tokens to average over (fewer where the text has fewer)."""
    groups: int | None = None
    """How many groups: by default the fewest whose AMAD is below --threshold."""
    threshold: float = 0.2
    """See --groups."""
    method: Literal["complete", "contiguous", "even"] = "complete"
    """Complete linkage, the best partition into neighbours, or neighbours in equal numbers."""
    objective: Literal["amad", "weighted", "max"] | None = None
    """What `contiguous` minimises: AMAD by default, AMAD weighted by size, the largest distance."""
    matrix: Literal["raw", "centred"] = "raw"
    """The distances that the groups follow from."""
    context: int = 128
    """Tokens per packed sequence."""
    seed: int = 0
    """Fixes the order of the text."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.plan import plan

        options = asdict(self)
        out = options.pop("out") or Path("runs") / f"plan-{Path(self.model).name}"
        return plan(out=out, as_json=options.pop("json"), **options)


@dataclass(frozen=True)
class Train:
    """Train SAEs on every chosen site of a language model, in one pass of it.

    Options are read in this order, later ones winning: defaults, --preset, RUN.yaml, the options
    below, --set. Run the same command again to resume an interrupted run.
    """

    run: Annotated[Path | None, Positional] = None
    """RUN.yaml: a file of the keys that --keys lists."""
    keys: bool = False
    """List every key of RUN.yaml and --set, and every architecture's options, and stop."""
    preset: str | None = None
    """`quick`: every layer, minutes on a CPU, whatever the model. `error`: SAEs on the error of a
    suite (`--set error.suite=…`)."""
    model: str | None = None
    """A Hugging Face id, a folder, or `embedded`."""
    text: str | None = None
    """A Hugging Face dataset, a .txt, .jsonl or .parquet file, or `embedded`."""
    plan: Path | None = None
    """A plan.json of `saeworks plan`: train on its sites, with its groups."""
    out: Path | None = None
    """Folder of the run: runs/<name of the YAML file, or of preset and model> by default."""
    set: Annotated[tuple[str, ...], UseAppendAction] = ()
    """key.sub=value, as often as needed; the value is YAML (`--set 'sites=[layers.1]'`)."""
    device: str | None = None
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    seed: int | None = None
    """Fixes initialisation, order of text and shuffling."""
    cost: bool = False
    """First measure how fast this machine is, and say how long the run will take; at its end, how
    long it took (`cost.json` in the run's folder)."""
    json: bool = False
    """Print one JSON object on stdout when done."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli import commands

        if self.keys:
            return commands.keys()
        named = {
            "model": {"name": self.model},
            "text": {"source": self.text},
            "device": self.device,
            "seed": self.seed,
        }
        config, name = commands.run_config(self.run, self.preset, named, self.set, self.plan)
        out = self.out or Path("runs") / name
        return commands.train(config, out, predict=self.cost, as_json=self.json)


@dataclass(frozen=True)
class Cost:
    """Say what a training run will cost before it starts: FLOPs, seconds, memory, disk.

    Takes the run as `train` does. Seconds are predicted from some seconds of the run's own work;
    with several sites, also what it would cost and save with G SAEs in place of one per site.
    """

    run: Annotated[Path | None, Positional] = None
    """RUN.yaml, as for `train`."""
    preset: str | None = None
    """As for `train`."""
    model: str | None = None
    """A Hugging Face id, a folder, or `embedded`."""
    text: str | None = None
    """A Hugging Face dataset, a .txt, .jsonl or .parquet file, or `embedded`."""
    set: Annotated[tuple[str, ...], UseAppendAction] = ()
    """key.sub=value, as for `train`."""
    device: str | None = None
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    no_calibrate: bool = False
    """Time nothing: no seconds, and no text is read."""
    out: Path | None = None
    """A JSON file to write all numbers to."""
    json: bool = False
    """Print one JSON object on stdout instead of the tables."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli import commands
        from saeworks.cli import cost as commands_cost

        named = {
            "model": {"name": self.model},
            "text": {"source": self.text},
            "device": self.device,
        }
        config, _ = commands.run_config(self.run, self.preset, named, self.set)
        return commands_cost.cost(
            config, calibrated=not self.no_calibrate, out=self.out, as_json=self.json
        )


@dataclass(frozen=True)
class Measures(EvalConfig):
    """What is measured, and on how much."""

    splice: Suppress[bool] = True
    geometry: Suppress[bool] = True
    experts: Suppress[bool] = True


@dataclass(frozen=True)
class Eval:
    """Evaluate suites on held-out documents: reconstruction, splice, latents, experts."""

    suites: Annotated[tuple[Path, ...], Positional]
    """Folders of suites, or of runs (all their suites); at least one."""
    evaluation: Annotated[Measures, OmitArgPrefixes] = field(default_factory=Measures)
    no_splice: bool = False
    """Do not measure ΔCE, KL and loss recovered, which take a language-model pass per site."""
    no_geometry: bool = False
    """Do not measure duplicates among the live latents, and the similarity of experts."""
    no_experts: bool = False
    """Do not measure load, confidence and domains of experts, where SAEs have them."""
    model: str | None = None
    """Another language model than the suites' own: a Hugging Face id, a folder, or `embedded`.
    With it, or with --text, results go to a folder of their own, `results/<name>/`."""
    text: str | None = None
    """Another text than the suites' own, packed as theirs is and measured on whole: a Hugging Face
    dataset, a .txt, .jsonl or .parquet file, or `embedded`."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli import commands

        config = replace(
            self.evaluation,
            splice=not self.no_splice,
            geometry=not self.no_geometry,
            experts=not self.no_experts,
        )
        return commands.evaluate(
            self.suites, config, model=self.model, text=self.text, as_json=self.json
        )


@dataclass(frozen=True)
class Audit:
    """Decompose the error of every SAE into what is linear in the activation and what is not.

    Fits on some held-out documents and measures on others; with controls for shrinkage, and a
    verdict in words for every site. Leaves results/audit.json in each suite.
    """

    suites: Annotated[tuple[Path, ...], Positional]
    """Folders of suites, or of runs (all their suites); at least one."""
    error_saes: tuple[Path, ...] = ()
    """Folders of suites, or of runs, that were trained on the error of these (`saeworks train
    --preset error`): their FVU on what they were trained on."""
    model: str | None = None
    """Another language model than the suites' own, such as theirs in another folder: a Hugging Face
    id, a folder, or `embedded`. With it, or with --text, results go to `results/<name>/`."""
    text: str | None = None
    """Another text than the suites' own, packed as theirs is and measured on whole: a Hugging Face
    dataset, a .txt, .jsonl or .parquet file, or `embedded`."""
    tokens: int = 200_000
    """Held-out tokens: half to fit on, a quarter to fit what comes after, a quarter to measure on
    (fewer where the text has fewer)."""
    bootstrap: int = 1000
    """Resamples of the test documents behind each interval."""
    seed: int = 0
    """Seed of the split of the documents and of the bootstrap."""
    no_adjacent: bool = False
    """Do not measure what the site before knows of each site's error."""
    pursuit: int = 4096
    """Tokens of two folds each whose codes are also found by pursuit; 0 for none."""
    mlp: int = 16384
    """Tokens that MLP probes are trained on; 0 for none."""
    wide: int = 0
    """Tokens that wide SAEs without penalty are trained on, such as 16384; slow, so 0: none."""
    codes: int = 16384
    """Tokens to whose codes a factor for each latent and a decoder are fitted; 0 for none."""
    zeroing: int = 16384
    """Tokens of two folds each for the synthetic test with latents zeroed; 0 for none."""
    downstream: int = 20_000
    """Test tokens on which parts of the error are put back into the model; 0 for none."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    json: bool = False
    """Print one JSON object on stdout instead of the tables."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.audit import AuditConfig, audit

        options = asdict(self)
        suites, as_json = options.pop("suites"), options.pop("json")
        error_saes, model, text = (options.pop(key) for key in ("error_saes", "model", "text"))
        config = AuditConfig(adjacent=not options.pop("no_adjacent"), **options)
        return audit(suites, config, error_saes, model, text, as_json=as_json)


@dataclass(frozen=True)
class Compare:
    """Compare evaluated suites with a baseline, site by site, on the same held-out documents.

    Differences have intervals from paired resamples. Leaves results/comparison.json in each suite.
    """

    suites: Annotated[tuple[Path, ...], Positional]
    """Folders of suites, or of runs (all their suites); at least one."""
    baseline: tuple[Path, ...] = ()
    """The suite to compare with; after it, the same trained with other seeds: how well their
    latents match the first one's is shown beside how well the suites' do."""
    no_alignment: bool = False
    """Do not match the latents of the dictionaries (MMCS, MMCO, spread over a group's sites),
    which runs the language model."""
    tokens: int = 100_000
    """Held-out tokens on which firing latents are matched."""
    bootstrap: int = 1000
    """Resamples of the documents behind each interval."""
    seed: int = 0
    """Seed of the bootstrap."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    json: bool = False
    """Print one JSON object on stdout instead of the tables."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.compare import CompareConfig, compare

        config = CompareConfig(
            alignment=not self.no_alignment,
            tokens=self.tokens,
            bootstrap=self.bootstrap,
            seed=self.seed,
            device=self.device,
        )
        return compare(self.suites, self.baseline, config, as_json=self.json)


@dataclass(frozen=True)
class Report:
    """Write a static HTML report of one suite, or of several side by side."""

    suites: Annotated[tuple[Path, ...], Positional]
    """Folders of suites, or of runs (all their suites); at least one."""
    out: Path | None = None
    """Folder of the report: `report` in the first folder given, by default."""
    json: bool = False
    """Print one JSON object on stdout instead of a line."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli import commands

        return commands.report(self.suites, self.out, as_json=self.json)


@dataclass(frozen=True)
class Convert:
    """Convert a suite to SAELens's folders, or SAELens, sparsify or Gemma Scope to a suite.

    Either way the SAEs are on raw activations and compute the same. The language model is loaded,
    to find the places in it.
    """

    source: Annotated[Path, Positional]
    """A suite; or a folder of SAELens 6, EleutherAI's sparsify or Gemma Scope, of one SAE or with
    several below it."""
    out: Annotated[Path, Positional]
    """A new folder."""
    to: Literal["saelens", "saeworks"]
    """What it becomes."""
    model: str | None = None
    """Another language model than the files name: a Hugging Face id, a folder, or `embedded`."""
    text: str | None = None
    """Another text than the files name, for evaluations of the suite that is written."""
    site: Annotated[tuple[str, ...], UseAppendAction] = ()
    """To SAELens: only these sites. To a suite: the site of each SAE, in the order of the folders'
    names, instead of those that the files name. As often as needed."""
    json: bool = False
    """Print one JSON object on stdout instead of a line."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cli.convert import convert

        return convert(
            self.source,
            self.out,
            self.to,
            model=self.model,
            text=self.text,
            sites=self.site,
            as_json=self.json,
        )


@dataclass(frozen=True)
class BenchStep:
    """Time the trainer's own step on random data; one JSON line on stdout, split by stage."""

    arch: str = "topk"
    """An architecture's name."""
    d: int = 768
    """Width of the activations."""
    width: int = 24576
    """Latents, M."""
    k: int | None = None
    """Active latents per token: 32 by default, where the architecture has k."""
    batch: int = 8192
    """Tokens per step."""
    experts: int | None = None
    """Experts, where the architecture has them."""
    threads: int | None = None
    """CPU threads: by default as many as torch chooses."""
    dtype: Literal["float32"] = "float32"
    """Precision of the parameters."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    rounds: int = 5
    """Timed steps, after one that is not counted."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.bench_step import bench_step

        print(json.dumps(bench_step(**asdict(self))), flush=True)
        return DONE


@dataclass(frozen=True)
class BenchLM:
    """Time the language model's forward, whole and stopped at one block; prints a JSON line."""

    model: str = "embedded"
    """A Hugging Face id, a folder, or `embedded`."""
    site: str = "0@resid"
    """The site whose capture is timed beside the whole forward."""
    batch: int = 8192
    """Tokens per forward."""
    context: int = 128
    """Tokens per sequence."""
    threads: int | None = None
    """CPU threads: by default as many as torch chooses."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:i`."""
    rounds: int = 5
    """Timed forwards, after one that is not counted."""

    def __call__(self) -> int:
        """Run it."""
        from saeworks.cost.bench_lm import bench_lm

        print(json.dumps(bench_lm(**asdict(self))), flush=True)
        return DONE


@dataclass(frozen=True)
class Bench:
    """Benchmarks: one JSON line per measurement on stdout."""

    what: OmitSubcommandPrefixes[
        Annotated[BenchStep, subcommand("step")] | Annotated[BenchLM, subcommand("lm")]
    ]

    def __call__(self) -> int:
        """Run it."""
        return self.what()


BENCHES = {"step": BenchStep, "lm": BenchLM}
COMMANDS: dict[str, Callable[..., Callable[[], int]]] = {
    "demo": Demo,
    "plan": Plan,
    "cost": Cost,
    "train": Train,
    "eval": Eval,
    "audit": Audit,
    "compare": Compare,
    "report": Report,
    "convert": Convert,
    "bench": Bench,
}
