import numpy as np
import pytest

from saeworks.measure.comparing import spread as spread_module
from saeworks.measure.comparing.spread import spread

SITES = ["layers.0", "layers.1", "layers.2"]


def test_closed_forms() -> None:
    frequency_SM = np.array(
        [
            [0.2, 0.3, 0.0, 0.0, 0.1],
            [0.2, 0.0, 0.0, 0.3, 0.1],
            [0.2, 0.0, 0.0, 0.3, 0.005],
        ]
    )
    found = spread(frequency_SM, SITES)
    assert (found.live, found.silent) == (4, 1)
    assert found.lives_at == [1, 2, 1]  # 0.005 is less than a tenth of 0.1
    share = frequency_SM[:, 4] / frequency_SM[:, 4].sum()
    last = float(np.exp(-(share * np.log(share)).sum()))
    assert found.effective == pytest.approx((3 + 1 + 2 + last) / 4)
    assert sum(found.effective_histogram.counts) == 4
    assert found.effective_histogram.edges[0] == 1.0
    assert found.effective_histogram.edges[-1] == 3.0
    assert found.latents == [1] * 4
    assert found.share[0] == [1.0, 0.0, 0.0]  # the nearest to the first site
    assert found.share[-1] == [0.0, 0.5, 0.5]
    assert found.share[2] == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_equals_brute_force_and_is_binned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_module, "ROWS", 8)
    rng = np.random.default_rng(0)
    frequency_SM = rng.random((3, 50)) * (rng.random((3, 50)) < 0.6)
    found = spread(frequency_SM, SITES)
    rows, effective, lives = [], [], []
    for f in frequency_SM.T:
        if f.sum() == 0:
            continue
        p = f / f.sum()
        rows.append((float(p @ [0, 1, 2]), p))
        effective.append(np.exp(-sum(x * np.log(x) for x in p if x > 0)))
        lives.append(int((f >= 0.1 * f.max()).sum()))
    assert found.effective == pytest.approx(float(np.mean(effective)))
    assert found.lives_at == [lives.count(n) for n in (1, 2, 3)]
    rows.sort(key=lambda row: row[0])
    assert len(found.share) == 8
    assert sum(found.latents) == found.live == len(rows)
    first = np.mean([p for _, p in rows[: found.latents[0]]], axis=0)
    assert found.share[0] == pytest.approx(first.tolist(), abs=1e-5)
    assert all(sum(row) == pytest.approx(1.0, abs=1e-4) for row in found.share)


def test_nothing_fires() -> None:
    found = spread(np.zeros((2, 5)), SITES[:2])
    assert (found.live, found.silent, found.effective, found.share) == (0, 5, None, [])
    assert found.lives_at == [0, 0]
