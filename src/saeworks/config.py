"""Frozen dataclasses of every run, and the strict reading of them.

Inert: no I/O but for the one function that reads YAML, no clock, no torch. The text under a field
is its documentation, shown by `--help` and in the docs. An SAE's own options live with its
architecture (`saeworks.dictionary`); here they are a mapping that the registry checks.
"""

import ast
import inspect
import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import Doc

from saeworks.errors import UserError
from saeworks.files.access import what_is
from saeworks.files.safe_yaml import load_yaml

STRICT = ConfigDict(extra="forbid", strict=True)

_YAML_BYTES = 2**18

DType = Literal["float32", "bfloat16"]
PrecisionChoice = Literal["auto", "float32", "bf16"]
ModelDType = Literal["float32", "bfloat16", "float16"]
TENSOR = "(tensor)"
"""Stands for the model and the text of a run on activations of the user's own (`sw.train`)."""
NormaliserKind = Literal["centre-scale", "scale-only", "none", "learnable"]
Device = Annotated[str, Doc("`auto`, `cpu`, `cuda` or `cuda:i`.")]
T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The language model."""

    name: str = "embedded"
    """A Hugging Face id, a folder, or `embedded` (the small model in the package)."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    dtype: ModelDType = "float32"
    """Precision in which the language model runs. SAEs compute in float32 whatever it is. With
    `float16`, activations above 65504 overflow, and a run that meets one ends; `bfloat16` has the
    range of float32."""
    random_weights: int | None = None
    """Seed of a fresh random initialisation, the architecture's own, in the place of the trained
    weights: a control, for what is found in any network. By default the trained weights."""

    def __post_init__(self) -> None:
        if self.random_weights is not None:
            _at_least(0, "model.random_weights", self.random_weights)


@dataclass(frozen=True, config=STRICT)
class TextConfig:
    """The text, and how it becomes packed tokens."""

    source: str = "embedded"
    """A Hugging Face dataset id or folder, a .txt, .jsonl or .parquet file (the first two also as
    .gz), a folder of such files, or `embedded`."""
    subset: str | None = None
    """A Hugging Face dataset's configuration name."""
    split: str = "train"
    """A Hugging Face dataset's split, or a folder's, by words in the names of its files."""
    column: str = "text"
    """The column or JSON key that holds a document: its text, the ids of its tokens, or a chat (a
    list of messages), which the tokenizer's chat template writes as text. No other one is read."""
    label: str | None = field(default=None, repr=False)
    """The column or JSON key that holds a document's label, for SAEs that are trained on labels
    (`router: supervised`); `domain` for the embedded text."""
    separator: str = "<|endoftext|>"
    """The line that separates the documents of a .txt file; one without it is one document."""
    streaming: bool = False
    """Read a file, folder or dataset as it comes, instead of downloading and tokenising all of it
    before the first step. Documents are then shuffled only among 4096 (or 16 MiB) that follow one
    another. With `max_documents` those are held in memory, as the embedded text always is."""
    context: int = 128
    """Tokens per packed sequence."""
    bos: Literal["auto", "document", "context", "none"] = "auto"
    """Where the BOS token goes: before each document, at the start of each context, or nowhere.
    `auto`: before each document if the tokenizer has a BOS token. Text that brings its own, as chat
    templates make it, gets no second one; `none` leaves that where it is."""
    exclude_bos: bool = True
    """Leave BOS (and padding) positions out of training and evaluation."""
    exclude_first: int = 0
    """Leave out also the first n positions of each context (attention sinks)."""
    held_out: float = 0.05
    """Share of the documents kept for evaluation, chosen by a hash of their text; 1: all of them,
    which leaves nothing to train on."""
    max_documents: int | None = None
    """Use only the first n documents of the source."""

    def __post_init__(self) -> None:
        _at_least(2, "text.context", self.context)
        if not 0 <= self.exclude_first < self.context:
            raise UserError(
                f"text.exclude_first = {self.exclude_first}: at least 0 and less than text.context "
                f"({self.context}), or no position is left"
            )
        whole = self.held_out == 0 and self.source == TENSOR  # all rows are trained on
        if not (0 < self.held_out <= 1 or whole):
            raise UserError(
                f"text.held_out = {self.held_out}: a share above 0, at most 1 (all of it)"
            )
        if self.max_documents is not None:
            _at_least(2, "text.max_documents", self.max_documents)


@dataclass(frozen=True, config=STRICT)
class BufferConfig:
    """The ring of activations between the language model and the SAEs."""

    memory: str = "1GiB"
    """Memory budget of the ring, over all sites (for example `512MiB`, `4GiB`)."""
    dtype: DType = "float32"
    """Precision in which activations are stored (not float16: outlying tokens exceed its range)."""
    lm_batch: int | None = None
    """Tokens per forward pass of the language model: by default 1024 on a CPU, where every thread
    makes passes of its own, and 16384 on a GPU."""
    normaliser: NormaliserKind = "centre-scale"
    """The per-site affine map: mean 0 and E‖x‖² = d; scale alone; the identity; or `learnable`,
    mean and scale of every site trained with the SAE, from those of `centre-scale`."""
    normaliser_tokens: int = 100_000
    """Tokens on which the normaliser is estimated (at most what the ring holds)."""
    exclude_norm_above: float | None = None
    """Leave out tokens whose norm at one of the sites is above so many times the site's median, as 10
    is: of the normaliser, training and evaluation alike. The medians are of the text's first 16,384
    tokens; suite.json keeps the limits. By default none is left out."""

    def __post_init__(self) -> None:
        above = self.exclude_norm_above
        if above is not None and not 1 < above < math.inf:
            raise UserError(f"buffer.exclude_norm_above = {above}: a number above 1, as 10 is")
        parse_bytes(self.memory)
        if self.lm_batch is not None:
            _at_least(1, "buffer.lm_batch", self.lm_batch)
        _at_least(1, "buffer.normaliser_tokens", self.normaliser_tokens)


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """The one training loop."""

    tokens: int = 1_000_000
    """Tokens that every SAE is trained on."""
    batch: int = 4096
    """Tokens per step."""
    lr: float | None = None
    """Learning rate; by default 2e-4/√(M/2¹⁴), the 1/√M law (Gao et al. 2024; Marks et al. 2024),
    times √(10⁵/steps), between 1 and 8, for runs shorter than 10⁵ steps."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.2
    """Share of the steps at the end over which it falls linearly to 0."""
    betas: tuple[float, float] | None = None
    """Adam's decay rates; by default those of the architecture's paper, (0, 0.999) for Gated and
    JumpReLU, (0.9, 0.999) for the others."""
    eps: float = 6.25e-10
    """Adam's epsilon (Gao et al. 2024, where the loss is normalised as it is here)."""
    clip: float | None = 0.01
    """Gradient norm, per SAE, above which the gradient is scaled down; `null` for no clipping. The
    loss is near the FVU, so at 0.01 it nearly always is, and every step weighs the same in Adam's
    moments, as it does for a loss that sums over D and a clip at 1."""
    moments: Literal["float32", "bf16"] = "float32"
    """What Adam's two moments are kept in: `bf16` halves their memory, and what a GPU's optimiser
    reads and writes of them; they are rounded up or down by chance, and the arithmetic is float32.
    The effect on the FVU: docs/notes/kernels.md."""
    dead_tokens: int | None = None
    """Tokens without firing after which a latent is dead: by default 10M, or a thirtieth of the
    run where that is less."""
    precision: PrecisionChoice = "auto"
    """Of the matmul that finds which latents may be active in a training step: `bf16` finds some
    more than are wanted, and those to keep are chosen by their float32 values. Values, gradients,
    weights and every measurement are float32 in any case. `auto`: bf16 where a short probe finds
    its matmul faster on this machine, and as it was when a run resumes; name one to have the same
    bytes on another day."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 500
    """Steps between held-out evaluations (FVU and ΔCE) during training; 0 for none."""
    eval_tokens: int = 8192
    """Held-out tokens of each evaluation during training."""
    audit: bool = False
    """Also log, with every held-out evaluation, FVU_nl, its share of the FVU and R² of the error on
    the activation (as `saeworks audit`, on `eval_tokens`: half to fit on, a quarter to measure)."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0 for only one, at the end or an interruption."""

    def __post_init__(self) -> None:
        for key in ("tokens", "batch", "log_every"):
            _at_least(1, f"train.{key}", getattr(self, key))
        for key in ("eval_every", "checkpoint_every"):
            _at_least(0, f"train.{key}", getattr(self, key))
        if self.eval_every:
            _at_least(1, "train.eval_tokens", self.eval_tokens)
        for key, default in (
            ("lr", " (null: by the width)"),
            ("clip", " (null: no clipping)"),
            ("eps", ""),
            ("dead_tokens", ""),
        ):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"train.{key} = {value}: it must be positive and finite{default}")
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise UserError(
                f"train.warmup = {self.warmup} and train.decay = {self.decay} are shares of the "
                "run: neither may be negative, nor their sum above 1"
            )
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(
                f"train.betas = {list(self.betas)}: each must be at least 0 and below 1"
            )


@dataclass(frozen=True, config=STRICT)
class GroupsConfig:
    """Sites that share an SAE: by a plan, in equal numbers, or given by name."""

    plan: str | None = None
    """A plan.json of `saeworks plan`: its groups, or with `groups` or `method` others by its
    distances."""
    method: Literal["complete", "contiguous", "even"] | None = None
    """How sites are grouped: by default the plan's method. `even` (neighbours, in equal numbers)
    needs no plan."""
    objective: Literal["amad", "weighted", "max"] | None = None
    """What `contiguous` minimises: AMAD by default."""
    groups: int | tuple[int, ...] | tuple[tuple[str, ...], ...] | None = None
    """How many, or several numbers for a variant each, or the groups themselves, by names of
    sites."""
    draw: Literal["one", "all"] = "one"
    """Rows of a step: of every token one site of the group, drawn uniformly; or `all` of its sites,
    of fewer tokens. Either way as many rows as an SAE of one site sees."""


@dataclass(frozen=True, config=STRICT)
class ErrorConfig:
    """Train on what another suite's SAEs miss, instead of on activations."""

    suite: str
    """A suite of the same model with an SAE at every one of the run's sites."""
    component: Literal["e", "l", "u"] = "e"
    """The error e = x − x̂; l, its best affine map of x; or u = e − l, the rest."""
    tokens: int = 100_000
    """Training tokens that the map is fitted on, the first of the run; for l and u."""

    def __post_init__(self) -> None:
        _at_least(1, "error.tokens", self.tokens)


DEFAULT_SAE: dict[str, Any] = {"arch": "topk", "expansion": 8, "k": 32}
"""What is trained where nobody says what."""


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """Where activations come from, if not from the language model as it reads."""

    cache: str | None = None
    """A folder that `saeworks cache` wrote: train on the activations in it, and load no language
    model. Model, text, sites, seed and buffer are the cache's, and may be given only as they are
    there (of the sites some, by name)."""


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """A training run: one language-model pass, every site, every variant."""

    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sites: tuple[str, ...] = ("*@resid",)
    """Module names relative to the base model, with `*` within one segment, or aliases such as
    `3@resid`, `*@attn`, `*@mlp`; `@in` at the end for a module's input."""
    saes: tuple[dict[str, Any], ...] = (DEFAULT_SAE,)
    """The variants: each a mapping with `arch`, `width` or `expansion` (times d) and the
    architecture's own options; a list of values stands for one variant each. A mapping `train` among
    them holds what is different from the run's `train`: lr, warmup, decay, betas, eps, clip; so do
    `groups` (one grouping, or a list of them) and `normaliser`."""
    groups: tuple[Literal["per-site"] | GroupsConfig, ...] = ("per-site",)
    """Which sites share an SAE; each grouping is a variant of every entry of `saes`. `per-site`: one
    SAE per site. Otherwise a mapping of `plan`, `method`, `objective`, `groups`, `draw`."""
    error: ErrorConfig | None = None
    """Train on the error of another suite's SAEs: a mapping of `suite`, `component`, `tokens`. By
    default on activations."""
    source: SourceConfig = field(default_factory=SourceConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    """Fixes initialisation, order of text and shuffling."""
    device: Device = "auto"
    log: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Loggers beside metrics.jsonl."""

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """Held-out evaluation of a suite."""

    tokens: int = 200_000
    """Held-out tokens (fewer where the text has fewer; said in the result)."""
    splice: bool = True
    """Also measure ΔCE, KL and loss recovered, one language-model pass per site."""
    splice_tokens: int = 50_000
    """Held-out tokens of the splice evaluation."""
    latents: int | None = None
    """Latents per site for the browser of the report, from the frequent to the rare; as many as fire
    where it is larger, 0 for none. By default all, of a suite with 8192 latents at most; of a larger
    one so many at all sites together."""
    geometry: bool = True
    """Also measure duplicates among the live latents, and the similarity of experts."""
    blocks: int = 16
    """Blocks into which an SAE without experts is cut, to be compared with one of so many experts."""
    tsne: int = 0
    """Live latents of each SAE that are laid out on maps by t-SNE, which is slow; 0 for none."""
    experts: bool = True
    """Also measure load, confidence and domains of experts, where SAEs have them."""
    overlap_tokens: int = 1024
    """Tokens on which every expert is run, to compare the chosen one with the others; 0 for none."""
    consistency: bool = False
    """Also ask whether known concepts have different latents in different experts; for the embedded
    text and model, whose concepts are known."""
    dedup: float | None = None
    """Also merge live latents whose decoder rows have a cosine above this, and measure FVU again."""
    bootstrap: int = 1000
    """Resamples of the documents behind each interval."""
    seed: int = 0
    """Seed of the bootstrap and of the choice of latents."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        _at_least(1, "tokens", self.tokens)
        _at_least(1, "splice_tokens", self.splice_tokens)
        if self.latents is not None:
            _at_least(0, "latents", self.latents)
        _at_least(1, "blocks", self.blocks)
        _at_least(0, "tsne", self.tsne)
        _at_least(0, "overlap_tokens", self.overlap_tokens)
        if self.dedup is not None and not 0 < self.dedup < 1:
            raise UserError(f"dedup = {self.dedup}: a cosine above 0 and below 1, as 0.9 is")
        _at_least(0, "bootstrap", self.bootstrap)
        _check_seed(self.seed)


@dataclass(frozen=True, config=STRICT)
class AuditConfig:
    """What `saeworks audit` measures, and on how much."""

    tokens: int = 200_000
    """Held-out tokens (fewer where the text has fewer): half to fit on, a quarter to fit what comes
    after, a quarter to measure on."""
    bootstrap: int = 1000
    """Resamples of the test documents behind each interval."""
    seed: int = 0
    """Seed of the split of the documents, of the bootstrap and of the null targets."""
    adjacent: bool = True
    """Also measure what the site before knows of each site's error."""
    pursuit: int = 4096
    """Tokens of the second and of the test fold whose codes are also found by pursuit; 0 for none."""
    mlp: int = 16384
    """Tokens of the fit fold that MLP probes are trained on; 0 for none."""
    wide: int = 0
    """Tokens of the fit fold that wide SAEs without penalty (4, 16 and 64 times D latents) are trained
    on, such as 16384; 0 for none. Slow: about 1.3·10⁸ times D² operations for each SAE, at D = 256 two
    or three minutes on four cores."""
    codes: int = 16384
    """Tokens of the fit fold to whose codes a factor for each latent and a decoder are fitted; 0 for
    none."""
    zeroing: int = 16384
    """Tokens of the second and of the test fold for the synthetic test, in which the weakest latents are
    zeroed; 0 for none."""
    downstream: int = 20_000
    """Tokens of the test fold on which parts of the error are put back into the model; 0 for none."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        _at_least(1, "tokens", self.tokens)
        for key in ("bootstrap", "pursuit", "mlp", "wide", "codes", "zeroing", "downstream"):
            _at_least(0, key, getattr(self, key))
        _check_seed(self.seed)


@dataclass(frozen=True, config=STRICT)
class CompareConfig:
    """How suites are compared with a baseline."""

    alignment: bool = True
    """Also match the latents of the dictionaries (MMCS, MMCO, spread over a group's sites), which runs
    the language model."""
    tokens: int = 100_000
    """Held-out tokens on which firing latents are matched."""
    bootstrap: int = 1000
    """Resamples of the documents behind each interval."""
    seed: int = 0
    """Seed of the bootstrap."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        _at_least(1, "tokens", self.tokens)
        _at_least(0, "bootstrap", self.bootstrap)
        _check_seed(self.seed)


def _at_least(least: int, key: str, value: int) -> None:
    if value < least:
        raise UserError(f"{key} = {value}: it must be at least {least}")


def _check_seed(seed: int) -> None:
    """What both NumPy and torch take as a seed."""
    if not 0 <= seed < 2**63:
        raise UserError(f"seed = {seed}: it must be at least 0 and below 2^63")


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "text": {"max_documents": 10_000},
        "saes": [dict(DEFAULT_SAE)],
        "train": {"tokens": 500_000, "batch": 2048, "log_every": 20, "eval_every": 100},
        "buffer": {"memory": "512MiB", "normaliser_tokens": 50_000},
    },
    "demo": {
        "text": {"max_documents": 15_000, "held_out": 0.06},
        "saes": [
            {"arch": "topk", "width": 256, "k": 16},
            {"arch": "switch", "width": 1024, "k": 16, "experts": 4},
        ],
        "train": {"tokens": 1_050_000, "batch": 2048, "log_every": 20, "eval_every": 0},
        "buffer": {"memory": "256MiB", "normaliser_tokens": 50_000},
    },
    "error": {"saes": [{**DEFAULT_SAE, "expansion": 16}]},
}
"""Named starting points for `saeworks train --preset NAME`. `quick`: every layer, minutes on a
CPU, whatever the model. `demo`: a small TopK SAE, and a Switch SAE whose four experts are each as
wide. `error`: the SAEs that Engels et al. 2024 train on the error of others (give
`error.suite`)."""


def from_mapping(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a config dataclass from plain data.

    Args:
        where: what the data is, for messages ("run.yaml", "--set", …).

    Raises:
        UserError: at the first unknown key, wrong type or value out of range, naming it and what
            is allowed.
    """
    try:
        text = json.dumps(data)
        _check_numbers(data, "")
    except RecursionError:
        raise UserError(f"{where}: values within values, too deep to be read") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; only plain YAML values are allowed") from error
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(cls, error)}") from None
    except UserError as error:  # of a __post_init__, which knows the value but not its place
        raise UserError(f"{where}: {error}") from None


def _check_numbers(data: Any, key: str) -> None:
    """Refuse whole numbers that no option can mean and no array can count."""
    if isinstance(data, Mapping | list | tuple):
        items = data.items() if isinstance(data, Mapping) else enumerate(data)
        for name, value in items:
            _check_numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, int) and abs(data) >= 2**63:
        raise UserError(f"{key!r}: a whole number of {data.bit_length()} bits; at most 63 are read")


def _explain(cls: type, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "unexpected_keyword_argument":
        allowed = [f.name for f in fields(_owner(cls, path))]
        near = get_close_matches(path[-1], allowed, n=1)
        if not near and cls is RunConfig and len(path) == 1:  # a key's last part, or its other name
            near = [setting.partition("=")[0] for setting in settings(key, "")]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{hint} (allowed: {', '.join(allowed)})"
    if first["type"] in ("missing", "missing_argument"):
        return f"{key!r} is missing; it has no default"
    if first["type"] == "json_invalid":
        return "values within values, too deep to be read, or text with half a surrogate pair"
    if first["type"] == "tuple_type":
        return f"{key!r} = {first['input']!r}: it must be a list, such as [{first['input']}]"
    return f"{key!r} = {first['input']!r}: {first['msg'].lower()}"


def _owner(cls: type, path: Sequence[str]) -> Any:
    """The dataclass in which the last part of `path` would be a field."""
    owner: Any = cls
    for part in path[:-1]:
        hint = get_type_hints(owner).get(part) if is_dataclass(owner) else None
        while get_origin(hint) is not None:  # Optional and containers: look inside
            hint = next((a for a in get_args(hint) if is_dataclass(a)), None)
        owner = hint if is_dataclass(hint) else owner
    return owner


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` put over it; mappings merge, all else is replaced."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return out


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: if there is no such file, it is not a YAML mapping, a key stands twice in it, or
            it is too large or too deep to be a run's.
    """
    import yaml

    if what_is(path) == "other":
        raise UserError(f"{path} is a pipe or a device; give a file")
    try:
        with path.open("rb") as file:
            content = file.read(_YAML_BYTES + 1)
        if len(content) > _YAML_BYTES:
            raise UserError(f"more than {_YAML_BYTES >> 10} KiB, which no run's options are")
        data = load_yaml(content.decode("utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; check the path") from error
    except (yaml.YAMLError, ValueError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {line}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a mapping of options, not {type(data).__name__}")
    return data


def override(data: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A run's `data` with `"train.lr=1e-3"` put over it; the value is read as YAML. A number in the
    key is a place in a list, from 0, in that of the defaults where `data` has none (`saes.0.k=16`).

    Raises:
        UserError: if there is no `=`, the value is not YAML, or no place in a list is named, or
            one that it has not.
    """
    import yaml

    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text!r}: write it as key.sub=value")
    try:
        value = load_yaml(raw)
    except UserError as error:
        raise UserError(f"--set {text!r}: {error}") from None
    except yaml.YAMLError:
        raise UserError(f"--set {text!r}: the value is not valid YAML") from None
    parts = key.split(".")
    lists = {k: v for k, v in _defaults(RunConfig).items() if isinstance(v, tuple)}
    old = data[parts[0]] if parts[0] in data else lists.get(parts[0])
    try:
        return {**data, parts[0]: _put(old, parts, 1, value)}
    except UserError as error:
        raise UserError(f"--set {text!r}: {error}") from None


def _put(old: Any, key: Sequence[str], depth: int, value: Any) -> Any:
    """`old`, which is at `key[:depth]`, with `value` at `key`."""
    if depth == len(key):
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        return merge(old, value) if both else value
    part = key[depth]
    if not isinstance(old, list | tuple):
        base = old if isinstance(old, Mapping) else {}
        return {**base, part: _put(base.get(part), key, depth + 1, value)}
    where = ".".join(key[:depth])
    if not (part.isdecimal() and int(part) < len(old)):
        rest = ".".join(key[depth + part.isdecimal() :])
        raise UserError(
            f"{where} is a list of {len(old)}: name a place in it, from 0, as in "
            f"{where}.0{'.' if rest else ''}{rest}, or write all of it, {where}=[…]"
        )
    new = list(old)
    new[int(part)] = _put(old[int(part)], key, depth + 1, value)
    return new


def default_of(item: Any) -> Any:
    """A field's default; MISSING if it has none."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def settings(name: str, value: str) -> list[str]:
    """`key=value`, as `--set` takes it, for every key of a run that is called `name`, in full or by
    its last part; of SAEs' options only those that the defaults name.

    Args:
        value: as it was given; empty where none was.
    """
    if name in _COUNTED:  # their numbers are no numbers of tokens
        value = ""
    name = _ALIASES.get(name, name)
    if name == "sites" and value.isdigit():
        value = f"{value}@resid"
    every = _defaults(RunConfig)
    every |= {f"saes.0.{key}": None for key in every["saes"][0]}
    return [
        f"{key}={_shown(value, default)}"
        for key, default in every.items()
        if name in (key, key.rpartition(".")[2])
    ]


_ALIASES = {
    "batch_size": "batch",
    "learning_rate": "lr",
    "steps": "train.tokens",
    "epochs": "train.tokens",
    "layer": "sites",
    "layers": "sites",
    "site": "sites",
    "dataset": "source",
}
"""Our keys by the names that other tools have for them."""
_COUNTED = ("steps", "epochs")


def _defaults(cls: type, prefix: str = "") -> dict[str, Any]:
    """key.sub → default, of every key."""
    defaults: dict[str, Any] = {}
    for item in fields(cls):
        value = default_of(item)
        if is_dataclass(value):
            defaults |= _defaults(type(value), f"{prefix}{item.name}.")
        else:
            defaults[f"{prefix}{item.name}"] = value
    return defaults


def _shown(value: str, default: object) -> str:
    if not value:
        return "true" if default is False else "…"
    if isinstance(default, tuple) and not value.startswith("["):
        return f"[{value}]"
    return value


def parse_bytes(text: str) -> int:
    """`"1.5GiB"` → bytes.

    Raises:
        UserError: if it is not a number with one of the units B, KiB, MiB, GiB, KB, MB, GB.
    """
    units = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    stripped = text.strip().upper().replace(" ", "")
    unit = next((u for u in units if stripped.endswith(u)), "B" if stripped.endswith("B") else "")
    try:
        size = int(float(stripped.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UserError(f"memory {text!r}: write a positive size such as '512MiB' or '4GiB'")
    return size


def show_bytes(size: float | int) -> str:
    """A number of bytes as a person reads it: `1.25 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} TiB"


def field_docs(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass, or in its annotation (`Doc`), on one line, for the
    fields that have one; empty where the source cannot be read (as of an architecture registered in
    a console)."""
    docs: dict[str, str] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for text in getattr(hint, "__metadata__", ()):
            docs |= {name: text.documentation} if isinstance(text, Doc) else {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(tree, ast.ClassDef)
        for statement, after in itertools.pairwise(tree.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                docs[ast.unparse(statement.target)] = ast.literal_eval(after.value)
    return {name: " ".join(text.split()) for name, text in docs.items()}
