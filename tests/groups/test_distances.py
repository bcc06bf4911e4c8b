"""Angular distances against brute force, whatever the batches; their standard errors; bad input."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import saeworks as sw
from helpers.toys import random_text, saved_llama, tiny_llama, token_batch
from saeworks.config import ModelConfig, TextConfig
from saeworks.errors import UserError
from saeworks.groups.distances import (
    AngularDistances,
    angles,
    live_rows,
    stream_distances,
)
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus

SITES = ("a", "b", "c", "e")


def rows(n: int = 700, d: int = 6, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Rows with a common mean and a common part, so that raw and centred angles differ."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=generator)
    x = {
        site: base + (0.2 + i) * torch.randn(n, d, generator=generator) + 3.0 * i
        for i, site in enumerate(SITES)
    }
    cuts = torch.randperm(n - 1, generator=generator)[:40].sort().values + 1
    document = torch.zeros(n, dtype=torch.long)
    document[cuts] = 1
    return x, 7 + document.cumsum(0)


def batches(
    x: dict[str, Tensor], document: Tensor, size: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    for first in range(0, len(document), size):
        cut = slice(first, first + size)
        yield {site: rows[cut] for site, rows in x.items()}, document[cut]


def brute_angles(x: dict[str, Tensor], mean: dict[str, Tensor] | None = None) -> Any:
    """[N, L, L] by arccos of the cosine, one pair at a time, in float64."""
    sites = list(x)
    out = np.zeros((len(x[sites[0]]), len(sites), len(sites)))
    for i, one in enumerate(sites):
        for j, other in enumerate(sites):
            u, v = x[one].double().numpy(), x[other].double().numpy()
            if mean is not None:
                u, v = u - mean[one].numpy(), v - mean[other].numpy()
            cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
            out[:, i, j] = 0.0 if i == j else np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return out


def test_equals_brute_force_on_own_rows() -> None:
    x, document = rows()
    found = stream_distances(batches(x, document, 97), SITES, 450, 200)
    mean = {site: x[site][:200].double().mean(0) for site in SITES}
    used = {site: x[site][200:650] for site in SITES}
    np.testing.assert_allclose(found.raw, brute_angles(used).mean(0), atol=1e-12)
    np.testing.assert_allclose(found.centred, brute_angles(used, mean).mean(0), atol=1e-12)
    assert not np.allclose(found.raw, found.centred, atol=0.05)
    assert (found.tokens, found.mean_tokens) == (450, 200)
    assert found.documents == len(document[200:650].unique())


@pytest.mark.parametrize("size", [1, 13, 700])
def test_batching_does_not_matter(size: int) -> None:
    x, document = rows()
    one = stream_distances(batches(x, document, 64), SITES, 400, 150)
    two = stream_distances(batches(x, document, size), SITES, 400, 150)
    for name in ("raw", "centred", "stderr", "stderr_centred"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-10, atol=1e-14)
    assert one.documents == two.documents


def test_small_pieces_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, document = rows()
    one = stream_distances(batches(x, document, 700), SITES, 400, 150)
    monkeypatch.setattr("saeworks.groups.distances._ELEMENTS", 300)
    two = stream_distances(batches(x, document, 700), SITES, 400, 150)
    np.testing.assert_allclose(one.raw, two.raw, rtol=1e-12)
    np.testing.assert_allclose(one.stderr, two.stderr, rtol=1e-10, atol=1e-14)


def test_standard_errors_are_those_of_documents() -> None:
    x, document = rows()
    found = stream_distances(batches(x, document, 97), SITES, 500, 200)
    angle = brute_angles({site: x[site][200:] for site in SITES})
    clusters = [angle[(document[200:] == one).numpy()] for one in document[200:].unique()]
    mean, count = angle.mean(0), len(clusters)
    spread = sum((c.sum(0) - mean * len(c)) ** 2 for c in clusters)
    expected = np.sqrt(spread * count / (count - 1)) / len(angle)
    np.testing.assert_allclose(found.stderr, expected, rtol=1e-9, atol=1e-15)
    assert (np.diag(found.stderr) == 0).all()


def test_standard_error_is_the_spread_of_the_mean() -> None:
    """Over many samples of documents of unequal length and their own level, it is what it says."""
    means, errors = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        x, y, document = [], [], []
        for number in range(40):
            level = rng.uniform(0.3, 1.3)
            for _ in range(int(rng.integers(2, 12))):
                angle = level + rng.normal(0, 0.1)
                x.append([1.0, 0.0])
                y.append([math.cos(angle), math.sin(angle)])
                document.append(number)
        data = ({"a": torch.tensor(x), "b": torch.tensor(y)}, torch.tensor(document))
        found = stream_distances(iter([data]), ("a", "b"), len(x) - 1, 1)
        means.append(found.raw[0, 1])
        errors.append(found.stderr[0, 1])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.2)


def test_one_document_has_no_standard_error() -> None:
    x, document = rows(50)
    found = stream_distances(batches(x, document * 0, 50), SITES, 40, 10)
    assert found.documents == 1
    assert np.isnan(found.stderr).all()


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_angles_keep_their_digits(angle: float) -> None:
    """arccos gives 0 or 1.5e-8 for all of the last three."""
    u = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    v = 5 * torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    found = angles(torch.stack([u, v, -v])[None])[0]
    assert float(found[0, 1]) == pytest.approx(angle / math.pi, rel=1e-9)
    assert float(found[0, 2]) == pytest.approx(1 - angle / math.pi, rel=1e-14)
    assert float(found[1, 2]) == 1.0


def test_angles_at_the_seam_of_both_ways() -> None:
    """Around the cosine where differences take over, both ways agree."""
    for cosine in (1 - 1.01e-4, 1 - 0.99e-4, -1 + 1.01e-4, -1 + 0.99e-4):
        u = torch.tensor([1.0, 0.0], dtype=torch.float64)
        v = torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
        expected = math.atan2(math.sqrt(1 - cosine**2), cosine) / math.pi
        assert float(angles(torch.stack([u, v])[None])[0, 0, 1]) == pytest.approx(
            expected, rel=1e-11
        )


def test_known_angles_and_zeros() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]).double()
    found = angles(x[None])[0]
    expected = [
        [0, 0, 0.5, 1, 0.5],
        [0, 0, 0.5, 1, 0.5],
        [0.5, 0.5, 0, 0.5, 0.5],
        [1, 1, 0.5, 0, 0.5],
        [0.5, 0.5, 0.5, 0.5, 0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-15, rtol=0)
    assert (found.diagonal() == 0).all()


def test_excluded_positions_are_left_out() -> None:
    lm, batch = tiny_llama(), token_batch()
    sites = lm.sites(["*@resid"])
    x, document = next(live_rows(lm, [batch], sites))
    assert len(document) == int(batch.keep.sum()) < batch.keep.numel()
    torch.testing.assert_close(document, batch.document[batch.keep])
    torch.testing.assert_close(
        x[sites[1]], lm.capture(batch.tokens, sites)[sites[1]][batch.keep], rtol=0, atol=0
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, TextConfig]:
    folder = tmp_path_factory.mktemp("llama")
    saved_llama(folder)
    (folder / "text.txt").write_text(random_text(40))
    lm = LanguageModel.load(ModelConfig(name=str(folder)))
    return lm, TextConfig(source=str(folder / "text.txt"), context=16)


@pytest.mark.parametrize("sites", ["layers.*", ["*@attn", "*@mlp"], ["0@resid", "1@mlp"]])
def test_equals_brute_force_on_a_model(
    llama: tuple[LanguageModel, TextConfig], sites: str | list[str]
) -> None:
    lm, text = llama
    found = sw.angular_distances(lm, text, sites, 600, mean_tokens=150, last=True, lm_batch=64)
    corpus = Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=0)
    stream = corpus.stream("train", 10_000, epochs=1)
    names = lm.sites([sites] if isinstance(sites, str) else sites)
    x, _ = next(live_rows(lm, stream, names))
    mean = {site: x[site][:150].double().mean(0) for site in names}
    used = {site: x[site][150:750] for site in names}
    np.testing.assert_allclose(found.raw, brute_angles(used).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.centred, brute_angles(used, mean).mean(0), atol=1e-6)
    assert found.sites == tuple(names)
    assert (np.diag(found.raw) == 0).all() and (np.diag(found.centred) == 0).all()
    assert (found.raw == found.raw.T).all()
    assert (found.tokens, found.fingerprint) == (600, lm.fingerprint)


def test_by_name_and_by_object_are_the_same(llama: tuple[LanguageModel, TextConfig]) -> None:
    lm, text = llama
    corpus = Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=3)
    one = sw.angular_distances(lm, corpus, tokens=300)
    two = sw.angular_distances(lm.name, text, tokens=300, seed=3, device="cpu")
    np.testing.assert_array_equal(one.raw, two.raw)
    assert isinstance(one, AngularDistances)
    assert (one.model, one.seed, one.text) == (two.model, two.seed, two.text)


def test_last_block_only_when_asked_for(llama: tuple[LanguageModel, TextConfig]) -> None:
    lm, text = llama

    def sites(patterns: list[str], last: bool = False) -> tuple[str, ...]:
        return sw.angular_distances(lm, text, patterns, 50, last=last).sites

    assert sites(["*@resid"]) == ("layers.0", "layers.1")
    assert sites(["*@resid"], last=True) == ("layers.0", "layers.1", "layers.2")
    assert sites(["0@resid", "layers.2"]) == ("layers.0", "layers.2")
    assert len(sites(["*@mlp"])) == 3


def test_short_text_is_used_whole(llama: tuple[LanguageModel, TextConfig]) -> None:
    lm, text = llama
    found = sw.angular_distances(lm, text)
    corpus = Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=0)
    stream = corpus.stream("train", 100, epochs=1)
    kept = sum(int(batch.keep.sum()) for batch in stream)
    assert found.tokens + found.mean_tokens == kept
    assert found.mean_tokens == corpus.describe()["tokens"]["train"] // 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sites": "0@resid"}, "leave 1 site"),
        ({"sites": ["1@resid", "embed_tokens"], "tokens": 0}, "tokens = 0"),
        ({"mean_tokens": 0}, "mean_tokens = 0"),
        ({"lm_batch": 0}, "lm_batch = 0"),
        ({"sites": "h.*"}, "'h.*' matches no module"),
        ({"sites": ["0@resid", "layers.0.mlp.gate_proj"]}, "gate_proj' 32: angles need one width"),
    ],
)
def test_bad_requests(
    llama: tuple[LanguageModel, TextConfig], options: dict[str, Any], said: str
) -> None:
    lm, text = llama
    with pytest.raises(UserError, match=said.replace("*", r"\*")) as caught:
        sw.angular_distances(lm, text, **{"tokens": 50, **options})
    assert "\n" not in str(caught.value)


def test_missing_text_is_one_line(llama: tuple[LanguageModel, TextConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt"):
        sw.angular_distances(llama[0], TextConfig(source=str(tmp_path / "none.txt"), context=16))


def test_nonfinite_rows_are_refused() -> None:
    x, document = rows(60)
    x["b"][31, 2] = math.inf
    with pytest.raises(UserError, match="activations of b hold NaN or Inf in batch 3"):
        stream_distances(batches(x, document, 10), SITES, 50, 10)


def test_text_that_ends_within_the_means() -> None:
    x, document = rows(60)
    with pytest.raises(UserError, match="ended after 60 tokens, within the 60 for the means"):
        stream_distances(batches(x, document, 25), SITES, 10, 60)
