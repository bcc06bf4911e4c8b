"""Tokens of a norm many times the median: counted, and left out where that is asked for."""

import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.fakes import CONFIG, FakeLM, StopAt, fake_source, fake_trainer, shorter, weights
from saeworks.activations.outliers import Outliers, warning
from saeworks.config import BufferConfig
from saeworks.errors import UserError

FAR_TOKEN, SITE, OTHER = 3, "layers.0", "layers.1"
OPTION: dict[str, Any] = {"exclude_norm_above": 10.0}


class FarLM(FakeLM):
    """One token is 300 times as long at one site; another holds NaN where that is asked for."""

    broken: int | None = None

    def run(self, tokens_BT: Tensor, hooks: Mapping[str, Callable[[Tensor], Any]]) -> None:
        def long(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
            def longer(x_BTD: Tensor) -> None:
                x_BTD[tokens_BT == FAR_TOKEN] *= 300
                if self.broken is not None:
                    x_BTD[tokens_BT == self.broken] = torch.nan
                hook(x_BTD)

            return longer

        own = {site: long(hook) if site == SITE else hook for site, hook in hooks.items()}
        super().run(tokens_BT, own)


def rows(source: Any, batches: int) -> dict[str, Tensor]:
    found = list(islice(source, batches))
    return {site: torch.cat([batch.x[site] for batch in found]) for site in (SITE, OTHER)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_left_out_at_every_site_and_no_other_token_is(dtype: Any) -> None:
    every = fake_source(lm=FarLM(), memory="400KiB", dtype=dtype)
    plain = rows(every, every.slots // every.batch)
    source = fake_source(lm=FarLM(), memory="400KiB", dtype=dtype, **OPTION)
    assert source.slots == every.slots
    assert source.describe()["outliers_left_out"] > 0
    found = rows(source, source.slots // source.batch)
    norm_N = plain[SITE].norm(dim=1)
    assert source.limits[SITE] == pytest.approx(10 * float(norm_N.median()), rel=1e-2)
    usual = norm_N <= source.limits[SITE]
    left = int((~usual).sum())
    assert 0 < left < 0.2 * len(usual)
    for site in (SITE, OTHER):  # what came first is the same; then come more rows in their place
        kept = {round(float(value), 4) for value in plain[site][usual].double().sum(1)}
        seen = {round(float(value), 4) for value in found[site].double().sum(1)}
        assert kept <= seen and len(found[site]) == len(plain[site])
    assert float(found[SITE].norm(dim=1).max()) <= source.limits[SITE]
    assert source.head(SITE, 500).norm(dim=1).max() <= source.limits[SITE]


def test_nothing_is_left_out_unasked() -> None:
    source = fake_source(lm=FarLM())
    assert rows(source, 3)[SITE].norm(dim=1).max() > 500
    assert source.limits == {} and "limits" not in source.state_dict()
    assert "outliers_left_out" not in source.describe()


@pytest.mark.parametrize("at", [1, 4, 7, 15, 23])
def test_a_source_goes_on_where_it_was(at: int) -> None:
    whole = list(islice(fake_source(lm=FarLM(), **OPTION), 30))
    source = fake_source(lm=FarLM(), **OPTION)
    list(islice(source, at))
    state = json.loads(json.dumps(source.state_dict()))
    again = fake_source(lm=FarLM(), **OPTION)
    again.load_state_dict(state)
    assert again.limits == source.limits
    for expected, batch in zip(whole[at:], again, strict=False):
        assert torch.equal(expected.x[SITE], batch.x[SITE])
        assert torch.equal(expected.document, batch.document)


def test_what_is_not_finite_is_refused_and_not_left_out() -> None:
    lm = FarLM()
    lm.broken = 5
    with pytest.raises(UserError, match=r"layers\.0 hold NaN"):
        next(fake_source(lm=lm, **OPTION))


def test_an_interrupted_run_without_outliers_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    config = shorter(CONFIG, tokens=2560)
    fake_trainer(tmp_path / "whole", config, source=fake_source(lm=FarLM(), **OPTION)).run()
    for at in (9, 26):
        stopped = StopAt(fake_source(lm=FarLM(), **OPTION), at, 2)
        assert fake_trainer(tmp_path / "parts", config, source=stopped).run() == "interrupted"
    last = fake_source(lm=FarLM(), **OPTION)
    assert fake_trainer(tmp_path / "parts", config, source=last).run() == "finished"
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_training_says_what_they_own(tmp_path: Path) -> None:
    said: list[str] = []
    config = shorter(CONFIG, tokens=640)
    buffer = BufferConfig(normaliser_tokens=300)
    source = fake_source(lm=FarLM())
    x_ND = source.head(SITE, 300)
    fake_trainer(tmp_path / "a", config, source=source, buffer=buffer, say=said.append).run()
    (line,) = [line for line in said if "outlier" in line]
    norm_N = x_ND.norm(dim=1)
    far_N = norm_N > 10 * norm_N.median()
    square_N = (x_ND.double() - x_ND.double().mean(0)).square().sum(1)
    share, variance = far_N.double().mean(), square_N[far_N].sum() / square_N.sum()
    assert f"at layers.0 {share:.2%} of the tokens" in line and f"{variance:.1%} of the" in line
    assert "layers.1" not in line and "buffer.exclude_norm_above=10" in line
    said.clear()
    source = fake_source(lm=FarLM(), **OPTION)
    fake_trainer(tmp_path / "b", config, source=source, buffer=buffer, say=said.append).run()
    assert not [line for line in said if "warning: outlier" in line]
    assert any("outliers_left_out" in line for line in said)


def test_few_of_them_are_not_warned_of() -> None:
    assert warning({"a": Outliers(0.001, 0.005, 12.0)}) is None
    many = {f"s{i}": Outliers(0.1, 0.1 * i, 50.0) for i in range(1, 6)}
    line = warning(many) or ""
    assert line.index("s5") < line.index("s4") < line.index("s3") and "2 more sites" in line


@pytest.mark.parametrize("above", [1.0, 0.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(above: float) -> None:
    with pytest.raises(UserError, match="above 1"):
        BufferConfig(exclude_norm_above=above)
