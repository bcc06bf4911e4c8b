"""`sw.train`: SAEs on activations that the caller has, by the ordinary trainer."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from saeworks.activations.seeds import generator
from saeworks.activations.tensor import TensorSource
from saeworks.config import (
    DEFAULT_SAE,
    TENSOR,
    BufferConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    from_mapping,
)
from saeworks.errors import UserError
from saeworks.files.access import is_file, is_plain_name
from saeworks.groups.grouping import Groupings
from saeworks.lm.device import choose_device
from saeworks.measure.rows import (
    Rows,
    RowsProbe,
    documents_of,
    measure,
    planes_of,
)
from saeworks.measure.suites import written
from saeworks.suite import Suite, load_suite, write_suite
from saeworks.train.trainer import Trained, Trainer
from saeworks.train.variants import Variant, build_members, expand_variants

_BATCH, _FEWEST_BATCHES = 4096, 8


def train(
    x: Rows | Mapping[str, Rows],
    out: str | Path,
    sae: Mapping[str, Any] = DEFAULT_SAE,
    *,
    documents: Tensor | NDArray[Any] | Sequence[int] | None = None,
    held_out: float | int = 0.05,
    normaliser: str = "centre-scale",
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = print,
    **options: Any,
) -> Suite:
    """Train an SAE on activations of one's own, or one at each of several sites; a suite in `out`.

    The trainer is that of `saeworks train`: interrupted, the same call continues, to the same
    bytes; finished, it gives back the suite. Rows are drawn in a new random order in every epoch.
    Some documents are held out: their rows are `suite.held_out`, and how well they are
    reconstructed is in the suite's results (`saeworks report`, `sw.evaluate`). For what the SAE
    misses, `sw.audit(x[rows], suite.at("x")(x[rows]), documents[rows])` with
    `rows = suite.held_out`.

    Args:
        x: raw activations [tokens, d] of any floating type, the site of which is called `x`; or a
            mapping from site to the activations of the same tokens there. Named as in a model
            (`layers.3`), `saeworks eval out --model M --text T` can splice them in.
        out: a new folder, or that of the same call before.
        sae: `arch`, `width` or `expansion`, and the architecture's options, as an entry of `saes`
            in a run file; a single variant.
        documents: of each token, any integers [tokens]; 128 neighbouring rows pass for one unless
            given.
        held_out: share of the tokens, in whole documents, that is kept for evaluation; 0 for none.
        normaliser: as `buffer.normaliser` of a run file.
        seed: of initialisation, order and split.
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        say: gets lines about progress.
        options: those of a run file's `train`: `tokens`, `batch` (4096, or an eighth of the rows
            where that is less), `lr`, ….

    Raises:
        UserError: if x, an option or the folder cannot be used, or the run is no longer finite.
        KeyboardInterrupt: at Ctrl-C, after the state was saved.
    """
    planes = planes_of(x, "train")
    document_N = documents_of(documents, planes, "train")
    _check_sites(planes)
    run = _Run.of(planes, document_N, sae, held_out, normaliser, seed, device, options)
    out = Path(out)
    if run.trainer(out, say).run() == "interrupted":
        raise KeyboardInterrupt
    suite = load_suite(out)
    if len(run.kept) and not is_file(out / "results" / "reconstruction.json"):
        rows = {site: plane[run.kept.to(plane.device)] for site, plane in planes.items()}
        asked = EvalConfig(tokens=len(run.kept), splice=False, seed=seed)
        written(measure(suite, rows, document_N[run.kept], asked), out / "results")
    return suite


@dataclass(frozen=True)
class _Run:
    """A call of `train`, checked and resolved. `kept` are the rows that are held out."""

    config: RunConfig
    variant: Variant
    planes: dict[str, Tensor]
    document: Int[Tensor, " N"]
    kept: Int[Tensor, " n"]
    fingerprint: str

    @classmethod
    def of(
        cls,
        planes: dict[str, Tensor],
        document_N: Int[Tensor, " N"],
        sae: Mapping[str, Any],
        held_out: float | int,
        normaliser: str,
        seed: int,
        device: str,
        options: Mapping[str, Any],
    ) -> "_Run":
        if not isinstance(sae, Mapping):
            raise UserError(
                f"train: sae is a {type(sae).__name__}; give the options of one SAE by name, such "
                "as {'arch': 'topk', 'width': 4096, 'k': 32}"
            )
        if not isinstance(seed, int):
            raise UserError(f"train: seed = {seed!r}: a whole number")
        if not isinstance(held_out, int | float) or not 0 <= held_out < 1:
            raise UserError(f"train: held_out = {held_out!r}: a share, at least 0 and below 1")
        if options.get("audit"):
            raise UserError("train: audit is of SAEs in a model; use sw.audit on the held-out rows")
        kept = _kept(document_N, held_out, seed)
        batch = max(1, min(_BATCH, (len(document_N) - len(kept)) // _FEWEST_BATCHES))
        train_config = from_mapping(TrainConfig, {"batch": batch, **options}, "train")
        buffer = from_mapping(BufferConfig, {"normaliser": normaliser}, "train")
        config = RunConfig(
            model=ModelConfig(name=TENSOR),
            text=TextConfig(source=TENSOR, held_out=float(held_out)),
            sites=tuple(planes),
            saes=(dict(sae),),
            buffer=buffer,
            train=train_config,
            seed=seed,
            device=device,
        )
        widths = {site: plane.shape[1] for site, plane in planes.items()}
        digest = _fingerprint(planes, document_N)
        resolve = Groupings(widths, digest, TENSOR).resolve
        variants = expand_variants(config.saes, widths, config.train, resolve=resolve)
        if len(variants) > 1:
            raise UserError(
                f"train: sae = {dict(sae)} is {len(variants)} variants; call it for each, with an "
                "`out` of its own"
            )
        return cls(config, variants[0], planes, document_N, kept, digest)

    def trainer(self, out: Path, say: Callable[[str], None]) -> Trainer:
        config, variant = self.config, self.variant
        drawn = torch.ones(len(self.document), dtype=torch.bool)
        drawn[self.kept] = False
        source = TensorSource(
            self.planes,
            self.document,
            _positions(self.document),
            config.train.batch,
            config.seed,
            "tensor",
            drawn.nonzero().squeeze(1),
        )
        shown = self.kept[: config.train.eval_tokens]
        rows = {site: plane[shown.to(plane.device)] for site, plane in self.planes.items()}
        device = choose_device(config.device)
        return Trainer(
            build_members([variant], source.planes, device),
            source,
            config.train,
            seed=config.seed,
            run_dir=out,
            suite_dirs={variant.name: out},
            identity={**asdict(config), "model_fingerprint": self.fingerprint},
            buffer=config.buffer,
            probe=RowsProbe(rows) if config.train.eval_every and len(shown) else None,
            finish=self._finish,
            say=say,
        )

    def _finish(self, trained: Trained) -> None:
        config, model = self.config, self.config.model
        write_suite(
            **trained.facts(),
            model={
                "name": model.name,
                "revision": None,
                "fingerprint": self.fingerprint,
                "layers": None,
            },
            text=asdict(config.text),
            config=asdict(config),
            seed=config.seed,
            grouping=self.variant.grouping.describe(),
            held_out=self.kept,
        )


def _check_sites(planes: Mapping[str, Tensor]) -> None:
    for site in planes:
        if not is_plain_name(site):
            raise UserError(f"train: site {site!r} is no folder's name; call it like layers.3")


def _kept(document_N: Int[Tensor, " N"], share: float | int, seed: int) -> Int[Tensor, " n"]:
    """Rows of the documents that are held out: at least one, and not all, unless the share is 0."""
    tokens_R = torch.bincount(document_N)
    if share == 0:
        return torch.empty(0, dtype=torch.int64)
    order_R = torch.randperm(len(tokens_R), generator=generator(seed, "held out"))
    number = int((tokens_R[order_R].cumsum(0) < share * len(document_N)).sum()) + 1
    if number >= len(tokens_R):
        raise UserError(
            f"train: held_out = {share} of {len(tokens_R)} document(s) leaves none to train on; "
            "lower it, or give more documents"
        )
    chosen_R = torch.zeros(len(tokens_R), dtype=torch.bool)
    chosen_R[order_R[:number]] = True
    return chosen_R[document_N].nonzero().squeeze(1)


def _positions(document_N: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The position of each row within its document."""
    order_N = document_N.argsort(stable=True)
    starts_R = torch.bincount(document_N).cumsum(0) - torch.bincount(document_N)
    position_N = torch.empty_like(document_N)
    position_N[order_N] = torch.arange(len(document_N)) - starts_R[document_N[order_N]]
    return position_N


def _fingerprint(planes: Mapping[str, Tensor], document_N: Int[Tensor, " N"]) -> str:
    """SHA-256 of all rows and their documents: a run is resumed on the same ones alone."""
    digest = hashlib.sha256()
    for name, tensor in {**planes, "documents": document_N}.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        for part in torch.split(tensor, 2**16):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
