from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.toys import held_out, tiny_llama
from saeworks.dictionary.base import SparseCode
from saeworks.dictionary.registry import build_sae
from saeworks.measure import banks as banks_module
from saeworks.measure.comparing import alignment
from saeworks.measure.comparing.alignment import (
    Firings,
    fire,
    mmco,
    mmcs,
)


def code_of(fires_NM: np.ndarray) -> SparseCode:
    """A code that is 1 where a latent fires; a zero among the pairs does not count as firing."""
    fires = torch.from_numpy(fires_NM)
    owner, indices = fires.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), fires.sum(1).cumsum(0)])
    return SparseCode(indices, torch.ones(len(owner)), fires.shape[1], (len(fires),), offsets)


def firings(path: Path, fires_NM: np.ndarray, parts: int = 3) -> Firings:
    out = Firings(path, fires_NM.shape[1])
    for rows in np.array_split(fires_NM, parts):
        out.add(code_of(rows), len(rows))
    return out


def brute_mmco(a_NM: np.ndarray, b_NM: np.ndarray) -> float:
    best = []
    for a_N in a_NM.T[a_NM.any(0)]:
        best.append(max((a_N & b_N).sum() / (a_N | b_N).sum() for b_N in b_NM.T))
    return float(np.mean(best))


def test_mmco_equals_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a_NM = rng.random((200, 13)) < np.linspace(0.0, 0.5, 13)  # the first never fires
    b_NM = rng.random((200, 9)) < np.linspace(0.5, 0.0, 9)
    b_NM[:, 3] = a_NM[:, 5]
    a, b = firings(tmp_path / "a", a_NM), firings(tmp_path / "b", b_NM, parts=7)
    assert (a.chunk(20, 90).toarray() == a_NM[20:90]).all()
    assert (b.fired_M == b_NM.sum(0)).all()
    expected = brute_mmco(a_NM, b_NM)
    assert mmco(a, b) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(alignment, "_COUNTS", 40)  # four latents at a time
    monkeypatch.setattr(alignment, "_PAIRS", 100)  # and some thirty tokens
    assert mmco(a, b) == pytest.approx(expected, rel=1e-12)
    assert mmco(a, a) == 1.0
    silent = firings(tmp_path / "silent", np.zeros((200, 4), bool))
    assert mmco(silent, a) is None
    assert mmco(a, silent) == 0.0


def test_mmcs_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a_LD, b_MD = (torch.randn(n, 6, generator=generator) for n in (11, 17))
    live_L = np.arange(11) % 3 > 0
    cosine_LM = torch.cosine_similarity(a_LD[:, None].double(), b_MD[None].double(), dim=2)
    expected = float(cosine_LM.amax(1)[torch.from_numpy(live_L)].mean())
    assert mmcs(a_LD, b_MD, live_L) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(alignment, "_COUNTS", 40)
    assert mmcs(a_LD, b_MD, live_L) == pytest.approx(expected, rel=1e-6)
    order = torch.randperm(11, generator=generator)
    assert mmcs(a_LD, 3 * a_LD[order], live_L) == pytest.approx(1.0)
    assert mmcs(a_LD, b_MD, np.zeros(11, bool)) is None


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_firings_are_those_of_the_codes(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks_module, "LM_TOKENS", 5 * 24)
    monkeypatch.setattr(banks_module, "_ROWS", 7)
    monkeypatch.setattr(banks_module, "_ACTIVATIONS", 40)
    lm, sample = tiny_llama(), held_out()
    torch.manual_seed(0)
    sae = build_sae(arch, d=16, width=40, **({"k": 3} if arch == "topk" else {}))
    banks = {"a": {"layers.0": sae, "layers.2": sae}, "b": {"layers.2": sae}, "none": {}}
    found = fire(banks, lm, sample, tmp_path, lambda done: None)
    assert set(found) == {("a", "layers.0"), ("a", "layers.2"), ("b", "layers.2")}
    for (_, site), one in found.items():
        x_ND = lm.capture(sample.tokens_NT, [site])[site][sample.keep_NT]
        fires_NM = (sae.encode(x_ND) > 0).numpy()
        assert one.tokens == sample.kept
        assert (one.chunk(0, one.tokens).toarray() == fires_NM).all()
