"""The error of SAEs as activations, trained on by the ordinary trainer."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fakes import FakeLM, FakeStream, StopAt, fake_source, fake_trainer, weights
from saeworks.activations.error import ErrorSource, Linear, component
from saeworks.activations.live import RowReader
from saeworks.activations.ring import RingSource
from saeworks.dictionary.base import SAE
from saeworks.dictionary.registry import build_sae
from saeworks.errors import UserError
from saeworks.measure.audit import folds
from saeworks.measure.audit.linear_error import LinearError, fit_linear_errors, read_map


def bank() -> dict[str, SAE]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            site: build_sae("topk", d=d, width=32, k=4)
            for site, d in (("layers.0", 16), ("layers.1", 12))
        }


def fitted(tick: Callable[[float], None] = lambda share: None) -> dict[str, LinearError]:
    return fit_linear_errors(FakeLM(), FakeStream(), bank(), 400, tick)


def error_source(name: Any, inner: Any = None) -> ErrorSource:
    def fit(tick: Callable[[float], None]) -> Mapping[str, Linear]:
        return {site: one.map for site, one in fitted(tick).items()}

    return ErrorSource(inner or fake_source(), bank(), name, fit)


def test_the_parts_are_what_they_are_called() -> None:
    plain, made = next(fake_source()), {name: next(error_source(name)) for name in ("e", "l", "u")}
    for site, sae in bank().items():
        x_ND = plain.x[site]
        with torch.no_grad():
            e_ND = x_ND - sae(x_ND)
        torch.testing.assert_close(made["e"].x[site], e_ND, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made["l"].x[site] + made["u"].x[site], made["e"].x[site])
        assert made["u"].x[site].dtype == torch.float32
    assert torch.equal(made["u"].document, plain.document)
    head = error_source("u").head("layers.1", 100)
    inner = error_source("u")
    torch.testing.assert_close(head, inner.of("layers.1", fake_source().head("layers.1", 100)))


def test_the_map_is_least_squares_on_the_first_tokens() -> None:
    source = RingSource(RowReader(FakeLM(), FakeStream(), ["layers.0"]), _buffer(), 400, 0)
    x_ND = source._ring.planes["layers.0"]  # as they were read, before any is drawn
    source.head("layers.0", 1)
    found, sae = fitted()["layers.0"], bank()["layers.0"]
    e_ND = component("e", x_ND[:400], sae, None).double()
    ones = torch.ones(400, 1, dtype=torch.float64)
    design = torch.cat([x_ND[:400].double(), ones], dim=1)
    expected = design @ torch.linalg.lstsq(design, e_ND, driver="gelsd").solution
    torch.testing.assert_close(found.map(x_ND[:400].double()), expected, rtol=1e-6, atol=1e-6)
    assert found.facts()["tokens"] == 400 and found.rank == 16 and found.condition > 1
    again = read_map(found.tensors())
    assert torch.equal(again(x_ND.double()), found.map(x_ND.double()))


def _buffer() -> Any:
    from saeworks.config import BufferConfig

    return BufferConfig(memory="60KiB")


def test_progress_is_told_and_the_inner_source_tells_its_own() -> None:
    source, seen = error_source("l"), list[float]()
    source.tick = seen.append
    next(source)
    assert seen.count(1.0) == 2  # of the ring's fill and of the map's fit


def test_a_resumed_run_on_an_error_has_the_same_bytes(tmp_path: Path) -> None:
    fake_trainer(tmp_path / "whole", source=error_source("u")).run()
    part = tmp_path / "part"
    stopped = error_source("u", StopAt(fake_source(), 23, signal.SIGINT))
    assert fake_trainer(part, source=stopped).run() == "interrupted"
    assert fake_trainer(part, source=error_source("u")).run() == "finished"
    assert weights(part) == weights(tmp_path / "whole")
    fake_trainer(tmp_path / "plain").run()
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"error.tokens = 10: too few.*at least 34"):
        fit_linear_errors(FakeLM(), FakeStream(), bank(), 10, lambda share: None)
    broken = bank()
    broken["layers.1"].b_dec.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"site layers.1: NaN or infinity in the error"):
        fit_linear_errors(FakeLM(), FakeStream(), broken, 400, lambda share: None)
    lm = FakeLM()
    lm.tables["layers.0"].fill_(2.0)
    monkeypatch.setattr(lm, "run", _constant)
    with pytest.raises(UserError, match=r"site layers.0: the activations are constant"):
        fit_linear_errors(lm, FakeStream(), bank(), 400, lambda share: None)
    assert folds.PER_PARAMETER == 2


def _constant(tokens_BT: torch.Tensor, hooks: Mapping[str, Callable[..., Any]]) -> None:
    for site, hook in hooks.items():
        hook(torch.ones(*tokens_BT.shape, FakeLM().widths[site]))
