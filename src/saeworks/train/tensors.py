"""`sw.train`: SAEs on activations that the caller has, by the ordinary trainer."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from saeworks.activations.base import ActivationSource
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
from saeworks.suite import Suite, load_suite
from saeworks.train.base import Job
from saeworks.train.trainer import FinishedVariant, Probe
from saeworks.train.variants import resolved_variants

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
    kept = _kept(document_N, held_out, seed)
    batch = max(1, min(_BATCH, (len(document_N) - len(kept)) // _FEWEST_BATCHES))
    options = {"batch": batch, **options}
    config = _configured(list(planes), sae, held_out, normaliser, seed, device, options)
    job, out = TensorJob.prepare(config, planes, document_N, kept), Path(out)
    if job.run(out, say)[0] == "interrupted":
        raise KeyboardInterrupt
    suite = load_suite(out)
    if len(kept) and not is_file(out / "results" / "reconstruction.json"):
        rows = {site: plane[kept.to(plane.device)] for site, plane in planes.items()}
        asked = EvalConfig(tokens=len(kept), splice=False, seed=seed)
        written(measure(suite, rows, document_N[kept], asked), out / "results")
    return suite


@final
@dataclass(frozen=True)
class TensorJob(Job):
    """A run on tensors.

    Attributes:
        planes: site → its rows [N, D].
        document: of each row.
        kept: the rows that are held out.
    """

    planes: dict[str, Tensor]
    document: Int[Tensor, " N"]
    kept: Int[Tensor, " n"]

    @classmethod
    def prepare(
        cls, config: RunConfig, planes: dict[str, Tensor], document: Tensor, kept: Tensor
    ) -> "TensorJob":
        """Resolve the one variant.

        Raises:
            UserError: if there are several.
        """
        widths = {site: plane.shape[1] for site, plane in planes.items()}
        digest = _fingerprint(planes, document)
        model = {"name": TENSOR, "revision": None, "fingerprint": digest, "layers": None}
        variants = resolved_variants(config, Groupings(widths, digest, TENSOR))
        if len(variants) > 1:
            (sae,) = config.saes
            raise UserError(
                f"train: sae = {sae} is {len(variants)} variants; call it for each, with an `out` "
                "of its own"
            )
        device = choose_device(config.device)
        return cls(config, model, widths, variants, device, planes, document, kept)

    def source(self) -> ActivationSource:
        drawn = torch.ones(len(self.document), dtype=torch.bool)
        drawn[self.kept] = False
        return TensorSource(
            self.planes,
            self.document,
            _positions(self.document),
            self.config.train.batch,
            self.config.seed,
            "tensor",
            drawn.nonzero().squeeze(1),
        )

    def probe(self, source: ActivationSource) -> Probe | None:
        train = self.config.train
        row_n = self.kept[: train.eval_tokens]
        if not (train.eval_every and len(row_n)):
            return None
        return RowsProbe({s: plane[row_n.to(plane.device)] for s, plane in self.planes.items()})

    def record(self, trained: FinishedVariant) -> dict[str, Any]:
        return {"held_out": self.kept}


def _configured(
    sites: Sequence[str],
    sae: Mapping[str, Any],
    held_out: float | int,
    normaliser: str,
    seed: int,
    device: str,
    options: Mapping[str, Any],
) -> RunConfig:
    """The call's options as those of a run."""
    if not isinstance(sae, Mapping):
        raise UserError(
            f"train: sae is a {type(sae).__name__}; give the options of one SAE by name, such "
            "as {'arch': 'topk', 'width': 4096, 'k': 32}"
        )
    if options.get("audit"):
        raise UserError("train: audit is of SAEs in a model; use sw.audit on the held-out rows")
    return RunConfig(
        model=ModelConfig(name=TENSOR),
        text=TextConfig(source=TENSOR, held_out=float(held_out)),
        sites=tuple(sites),
        saes=(dict(sae),),
        buffer=from_mapping(BufferConfig, {"normaliser": normaliser}, "train"),
        train=from_mapping(TrainConfig, dict(options), "train"),
        seed=seed,
        device=device,
    )


def _check_sites(planes: Mapping[str, Tensor]) -> None:
    for site in planes:
        if not is_plain_name(site):
            raise UserError(f"train: site {site!r} is no folder's name; call it like layers.3")


def _kept(document_N: Int[Tensor, " N"], share: float | int, seed: int) -> Int[Tensor, " n"]:
    """Rows of the documents that are held out: at least one, and not all, unless the share is 0."""
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise UserError(f"train: held_out = {share!r}: a share, at least 0 and below 1")
    if not isinstance(seed, int):
        raise UserError(f"train: seed = {seed!r}: a whole number")
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
