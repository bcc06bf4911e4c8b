"""Angular distances between the activations of a model's sites, streamed over any number of tokens.

Shapes: N tokens at hand, L sites, D model width; R runs of tokens of one document.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from saeworks.activations.base import finite, no_tick
from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus

Rows = tuple[Mapping[str, Tensor], Int[Tensor, " N"]]
"""Rows [N, D] of every site, of the same N tokens, and the document of each token."""

_NEAR = 1 - 1e-4
"""Cosines beyond this (0.8° from parallel) are measured again, by differences."""
_ELEMENTS = 2**21
"""Float64 numbers in work at once: 16 MiB, so that they stay near the processor."""
_MEAN_TOKENS = 100_000


@dataclass(frozen=True)
class AngularDistances:
    """Mean angular distances between L sites, in half turns: 0 the same direction, ½ perpendicular.

    Attributes:
        sites: canonical names, in model order: the rows and columns.
        raw: d(l, m) = E_tokens[∠(x_l, x_m)]/π, [L, L].
        centred: the same of x − x̄, each site's mean x̄ taken first, on other tokens.
        stderr, stderr_centred: standard error of each cell, over documents (NaN if there is one).
        tokens, documents: what the means are over.
        mean_tokens: tokens on which the sites' means were taken.
        model, revision, fingerprint: the language model.
        text: the fields of its `TextConfig`.
        seed: of the order of the documents.
    """

    sites: tuple[str, ...]
    raw: Float64[np.ndarray, "L L"]
    centred: Float64[np.ndarray, "L L"]
    stderr: Float64[np.ndarray, "L L"]
    stderr_centred: Float64[np.ndarray, "L L"]
    tokens: int
    documents: int
    mean_tokens: int
    model: str = ""
    revision: str | None = None
    fingerprint: str = ""
    text: Mapping[str, Any] | None = None
    seed: int = 0


def angular_distances(
    model: "str | ModelConfig | LanguageModel",
    text: "str | TextConfig | Corpus",
    sites: str | Sequence[str] = "*@resid",
    tokens: int = 1_000_000,
    *,
    mean_tokens: int | None = None,
    last: bool = False,
    seed: int = 0,
    device: str = "auto",
    lm_batch: int = 8192,
    tick: Callable[[float], None] = no_tick,
) -> AngularDistances:
    """Angular distances between sites of a language model, raw and mean-centred side by side.

    d(l, m) = mean over tokens of 2·atan2(‖û − v̂‖, ‖û + v̂‖)/π, with û, v̂ the directions of the
    token's activations at l and m, in float64 whatever precision the model runs in (Group-SAE,
    arXiv 2410.21508, section 3, which takes arccos of the cosine: that loses half the digits near
    0). Reads the training documents once, in the order drawn from `seed`; BOS, padding and other
    excluded positions are left out. Memory does not depend on `tokens`.

    Args:
        model: a Hugging Face id, a folder, `embedded`; or a model that is loaded.
        text: a data set, a file, `embedded`; or a corpus of this model's tokens.
        sites: patterns; all of one width, at least two sites.
        tokens: how many to average over (fewer where the text has fewer: see `.tokens`).
        mean_tokens: how many, before those, to take the sites' means on: by default a quarter of
            `tokens` up to 100,000, and never more than a quarter of the text.
        last: keep the last block's output where a pattern with `*` selects it. It is left out by
            default, since it lives in the space of the unembedding; named in full, it stays.
        seed, device: where `text`, `model` is not an object that has its own.
        lm_batch: tokens per forward pass.
        tick: called with the share that is done.

    Raises:
        UserError: if fewer than two sites are selected, they differ in width, an activation is NaN
            or Inf, a count is not positive, the text ends first, or model or text cannot be read.
    """
    if mean_tokens is None:
        mean_tokens = min(_MEAN_TOKENS, max(1, tokens // 4))
    for name, count in (("tokens", tokens), ("mean_tokens", mean_tokens), ("lm_batch", lm_batch)):
        if count < 1:
            raise UserError(f"{name} = {count}: at least 1 is needed")
    lm = _language_model(model, device)
    chosen = choose_sites(lm, [sites] if isinstance(sites, str) else sites, last=last)
    corpus = _corpus(text, lm, seed)
    known = corpus.describe()["tokens"]["train"]
    if known is not None:
        mean_tokens = min(mean_tokens, max(1, known // 4))
    sequences = max(1, lm_batch // corpus.packing.context)
    rows = live_rows(lm, corpus.stream("train", sequences, epochs=1), chosen)
    distances = stream_distances(rows, chosen, tokens, mean_tokens, tick)
    return _with_origin(distances, lm, corpus)


def _with_origin(
    distances: AngularDistances, lm: LanguageModel, corpus: Corpus
) -> AngularDistances:
    origin = {
        "model": lm.name,
        "revision": lm.revision,
        "fingerprint": lm.fingerprint,
        "text": asdict(corpus.config),
        "seed": corpus.seed,
    }
    return AngularDistances(**{**vars(distances), **origin})


def _language_model(model: "str | ModelConfig | LanguageModel", device: str) -> LanguageModel:
    if isinstance(model, LanguageModel):
        return model
    config = model if isinstance(model, ModelConfig) else ModelConfig(name=str(model))
    return LanguageModel.load(config, choose_device(device))


def _corpus(text: "str | TextConfig | Corpus", lm: LanguageModel, seed: int) -> Corpus:
    if isinstance(text, Corpus):
        return text
    config = text if isinstance(text, TextConfig) else TextConfig(source=str(text))
    return Corpus(config, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=seed)


def choose_sites(lm: LanguageModel, patterns: Sequence[str], *, last: bool) -> list[str]:
    """The sites to compare, in model order: two at least, of one width.

    The last block's output is left out, unless `last`, or a pattern without `*` names it.

    Raises:
        UserError: if that leaves fewer than two, or two of different widths.
    """
    chosen = lm.sites(patterns)
    named = [pattern for pattern in patterns if "*" not in pattern]
    final = lm.blocks[-1]
    if not last and not (named and final in lm.sites(named)):
        chosen = [site for site in chosen if site != final]
    if len(chosen) < 2:
        raise UserError(
            f"sites {', '.join(patterns)} of {lm.name!r} leave {len(chosen)} site(s) to compare; "
            "at least two are needed (the last block counts only with last=True)"
        )
    widths = {site: lm.width(site) for site in chosen}
    _one_width(widths)
    return chosen


def _one_width(widths: Mapping[str, int]) -> None:
    first = next(iter(widths))
    for site, width in widths.items():
        if width != widths[first]:
            raise UserError(
                f"site {site!r} is {width} wide and {first!r} {widths[first]}: angles need one "
                "width; choose sites of the same width"
            )


def live_rows(lm: LanguageModel, stream: Iterable[Any], sites: Sequence[str]) -> Iterator[Rows]:
    """The kept rows of each batch of tokens, at every site, from one forward pass."""
    for batch in stream:
        with torch.no_grad():
            captured = lm.capture(batch.tokens, list(sites))
        kept = batch.keep.flatten()
        rows = kept.to(lm.device)
        yield (
            {site: x_BTD.flatten(0, 1)[rows] for site, x_BTD in captured.items()},
            batch.document.flatten()[kept],
        )


def stream_distances(
    rows: Iterable[Rows],
    sites: Sequence[str],
    tokens: int,
    mean_tokens: int,
    tick: Callable[[float], None] = no_tick,
) -> AngularDistances:
    """Distances from rows as they come: the first `mean_tokens` give the means, the next `tokens`
    the angles. How the rows are cut into batches does not matter.

    The standard errors take a document's tokens as one cluster (the linearised variance of a ratio
    estimator: Σ_d (S_d − d̄·n_d)²·C/(C − 1)/N², with S_d the sum over the n_d tokens of document d,
    C documents, N tokens). A document is a run of consecutive rows with the same number.

    Raises:
        UserError: if a row is NaN or Inf, sites differ in width, or the rows end with no angle
            measured.
    """
    means, sums = _Means(), _Cells()
    for number, (x, document_N) in enumerate(rows):
        _one_width({site: x[site].shape[1] for site in sites})
        _refuse_nonfinite(x, sites, number)
        first = 0
        while first < len(document_N) and sums.tokens < tokens:
            room = (mean_tokens - means.tokens) or (tokens - sums.tokens)
            size = max(1, _ELEMENTS // (len(sites) * (x[sites[0]].shape[1] + 2 * len(sites))))
            cut = slice(first, min(first + room, first + size, len(document_N)))
            x_NLD = torch.stack([x[site][cut].double() for site in sites], dim=1)
            if means.tokens < mean_tokens:
                means.add(x_NLD)
            else:
                both_NSLL = torch.stack([angles(x_NLD), angles(x_NLD - means.mean_LD())], dim=1)
                sums.add(both_NSLL.cpu(), document_N[cut])
            first = cut.stop
        tick((means.tokens + sums.tokens) / (mean_tokens + tokens))
        if sums.tokens == tokens:
            break
    if not sums.tokens:
        raise UserError(
            f"the text ended after {means.tokens} tokens, within the {mean_tokens} for the means; "
            "give more text or ask for fewer mean_tokens"
        )
    (raw, centred), (stderr, stderr_centred) = sums.result()
    return AngularDistances(
        sites=tuple(sites),
        raw=raw,
        centred=centred,
        stderr=stderr,
        stderr_centred=stderr_centred,
        tokens=sums.tokens,
        documents=sums.documents,
        mean_tokens=mean_tokens,
    )


def _refuse_nonfinite(x: Mapping[str, Tensor], sites: Sequence[str], number: int) -> None:
    for site in sites:
        if x[site].numel() and not bool(finite(x[site])):
            raise UserError(
                f"activations of {site} hold NaN or Inf in batch {number} of the text; run the "
                "language model in float32, or leave that text out"
            )


def angles(x_NLD: Float64[Tensor, "N L D"]) -> Float64[Tensor, "N L L"]:
    """The angle between every two of a token's L vectors, in half turns (0 … 1).

    2·atan2(‖û − v̂‖, ‖û + v̂‖)/π, where ‖û ∓ v̂‖² = 2 ∓ 2û·v̂ as long as that keeps 11 digits or
    more; nearer to parallel, from the differences themselves. A vector of zeros is perpendicular
    to all others. The diagonal is exactly 0.
    """
    norm_NL1 = torch.linalg.vector_norm(x_NLD, dim=-1, keepdim=True)
    unit_NLD = x_NLD / norm_NL1.masked_fill(norm_NL1 == 0, 1.0)
    cosine_NLL = unit_NLD @ unit_NLD.mT
    out_NLL = _half_turns((2 - 2 * cosine_NLL).clamp_min(0), (2 + 2 * cosine_NLL).clamp_min(0))
    token, first, other = (cosine_NLL.abs() > _NEAR).triu(diagonal=1).nonzero(as_tuple=True)
    at_once = max(1, _ELEMENTS // x_NLD.shape[-1])
    for n, i, j in zip(*(index.split(at_once) for index in (token, first, other)), strict=True):
        u_PD, v_PD = unit_NLD[n, i], unit_NLD[n, j]
        exact_P = _half_turns((u_PD - v_PD).square().sum(-1), (u_PD + v_PD).square().sum(-1))
        out_NLL[n, i, j] = exact_P
        out_NLL[n, j, i] = exact_P
    out_NLL.diagonal(dim1=-2, dim2=-1).zero_()
    return out_NLL


def _half_turns(difference2: Tensor, sum2: Tensor) -> Tensor:
    """2·atan2(‖û − v̂‖, ‖û + v̂‖)/π from the two squares."""
    return torch.atan2(difference2.sqrt(), sum2.sqrt()) * (2 / math.pi)


class _Means:
    """The sum of the rows of every site, in float64."""

    def __init__(self) -> None:
        self.tokens = 0
        self._sum_LD: Tensor | None = None

    def add(self, x_NLD: Float64[Tensor, "N L D"]) -> None:
        sum_LD = x_NLD.sum(0)
        self._sum_LD = sum_LD if self._sum_LD is None else self._sum_LD + sum_LD
        self.tokens += len(x_NLD)

    def mean_LD(self) -> Tensor:
        assert self._sum_LD is not None
        return self._sum_LD / self.tokens


class _Cells:
    """Sums of each cell over documents: what its mean and its clustered standard error need.

    Values are counted from the first document's mean, so that squares of near-equal numbers do
    not cancel.
    """

    def __init__(self) -> None:
        self.tokens = self.documents = 0
        self._open: int | None = None
        self._open_sum: Any = 0.0
        self._open_tokens = 0
        self._shift: Any = None
        self._sum: Any = 0.0
        self._sum2: Any = 0.0
        self._sum_tokens: Any = 0.0
        self._tokens2 = 0

    def add(self, values_NSLL: Float64[Tensor, "N S L L"], document_N: Int[Tensor, " N"]) -> None:
        """The values of N more tokens, in the order of the text."""
        run_R, place_N, count_R = torch.unique_consecutive(
            document_N.cpu(), return_inverse=True, return_counts=True
        )
        sums_RSLL = values_NSLL.new_zeros(len(run_R), *values_NSLL.shape[1:])
        sums_RSLL.index_add_(0, place_N, values_NSLL)
        for run, count, sum_SLL in zip(run_R.tolist(), count_R.tolist(), sums_RSLL.numpy()):
            if run != self._open:
                self._close()
                self._open, self._open_sum, self._open_tokens = run, 0.0, 0
            self._open_sum = self._open_sum + sum_SLL
            self._open_tokens += count
        self.tokens += len(document_N)

    def _close(self) -> None:
        if self._open_tokens == 0:
            return
        n = self._open_tokens
        if self._shift is None:
            self._shift = self._open_sum / n
        shifted = self._open_sum - self._shift * n
        self._sum = self._sum + shifted
        self._sum2 = self._sum2 + shifted**2
        self._sum_tokens = self._sum_tokens + shifted * n
        self._tokens2 += n * n
        self.documents += 1
        self._open, self._open_tokens = None, 0

    def result(self) -> tuple[Any, Any]:
        """Mean and standard error of each cell; the last document is closed."""
        self._close()
        mean = self._sum / self.tokens
        spread = self._sum2 - 2 * mean * self._sum_tokens + mean**2 * self._tokens2
        if self.documents < 2:
            stderr = np.full_like(mean, np.nan)
        else:
            factor = self.documents / (self.documents - 1)
            stderr = np.sqrt(factor * np.maximum(spread, 0.0)) / self.tokens
        return self._shift + mean, stderr
