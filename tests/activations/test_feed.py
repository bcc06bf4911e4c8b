"""Rows are the same wherever and whenever they are read."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from helpers.fakes import FakeLM, FakeStream, fake_source
from helpers.threads import torch_threads
from saeworks.activations.base import ActivationBatch
from saeworks.activations.feed import Pending, TextRows
from saeworks.activations.ring import RingSource
from saeworks.config import BufferConfig
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.train.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    with torch_threads(3):
        yield


class Late:
    """Begins when it is asked for, which is as late as it can be; counts."""

    at_once, ahead = 4, True

    def __init__(self) -> None:
        self.begun = self.taken = 0

    def submit(self, read: Callable[[], TextRows]) -> Pending:
        self.begun += 1
        return _Late(self, read)

    def each(self, work: Callable[[str], None], sites: Iterable[str]) -> None:
        for site in reversed(list(sites)):
            work(site)


class _Late:
    def __init__(self, place: Late, read: Callable[[], TextRows]) -> None:
        self.place, self.read, self.rows = place, read, list[TextRows]()

    def done(self) -> bool:
        return self.place.begun % 2 == 0  # now and then

    def result(self) -> TextRows:
        self.rows = self.rows or [self.read()]
        return self.rows[0]


def same(a: ActivationBatch, b: ActivationBatch) -> bool:
    planes = all(torch.equal(a.x[site], b.x[site]) for site in a.x)
    return planes and torch.equal(a.document, b.document) and torch.equal(a.position, b.position)


@pytest.mark.parametrize("options", [{}, {"exclude_norm_above": 1.2}, {"dtype": "bfloat16"}])
def test_reading_ahead_changes_no_row_and_no_state(options: dict[str, Any]) -> None:
    plain, late, beside = (fake_source(**options) for _ in range(3))
    late.read_in(Late())
    with Workers(3, CPU) as workers:
        beside.read_in(workers.reading)
        assert workers.reading.ahead
        for _ in range(40):
            batch = next(plain)
            assert same(batch, next(late)) and same(batch, next(beside))
            assert plain.state_dict() == late.state_dict() == beside.state_dict()
            assert plain.epoch == late.epoch == beside.epoch


@pytest.mark.parametrize("drawn", [3, 8, 20])
def test_a_source_that_reads_ahead_resumes_to_the_bit(drawn: int) -> None:
    source, resumed = fake_source(), fake_source()
    source.read_in(Late())
    for _ in range(drawn):
        next(source)
    resumed.load_state_dict(source.state_dict())
    resumed.read_in(Late())
    assert all(same(next(source), next(resumed)) for _ in range(20))


def test_rows_are_read_while_others_are_drawn_and_not_beyond_the_run() -> None:
    place = Late()
    whole = fake_source()
    source = RingSource(whole._rows, BufferConfig(memory="60KiB"), 64, 0, tokens=64 * 14)
    source.read_in(place)
    fill = source.slots // 64
    next(source)
    at_first = place.begun
    for _ in range(fill - 2):
        next(source)
    assert place.begun > at_first  # of the second fill, before the first is drawn
    for _ in range(14 - fill + 1):
        next(source)
    assert place.begun <= -(-2 * source.slots // 150)  # 150 rows in a passage


def test_the_end_of_the_text_is_told_when_its_rows_are_wanted() -> None:
    source = fake_source(stream=FakeStream(0, end=4))
    source.read_in(Late())
    for _ in range(source.slots // 64):
        next(source)
    with pytest.raises(UserError, match="the text ended after 4 batches"):
        next(source)


def test_a_model_that_is_not_for_several_threads_is_read_in_turn() -> None:
    lm, place = FakeLM(), Late()
    lm.concurrent = False
    source = fake_source(lm=lm)
    source.read_in(place)
    next(source)
    assert place.begun == 0


def test_passes_side_by_side_give_the_rows_of_passes_in_turn() -> None:
    """On a real architecture, whose modules and hooks all threads share."""
    lm = LanguageModel.load("embedded")
    assert lm.concurrent
    sites = lm.sites(["*@resid", "1@mlp"])
    random = torch.Generator().manual_seed(0)
    tokens = [torch.randint(lm.vocabulary, (4, 32), generator=random) for _ in range(12)]

    def read(tokens_BT: torch.Tensor) -> TextRows:
        planes = {site: x_BTD.flatten(0, 1) for site, x_BTD in lm.capture(tokens_BT, sites).items()}
        return TextRows(planes, tokens_BT.flatten(), tokens_BT.flatten().int())

    with Workers(3, CPU) as workers:
        coming = [workers.reading.submit(partial(read, tokens_BT)) for tokens_BT in tokens]
        beside = [pending.result() for pending in coming]
    with torch_threads(1):
        in_turn = [read(tokens_BT) for tokens_BT in tokens]
    for rows, again in zip(beside, in_turn, strict=True):
        assert all(torch.equal(again.planes[site], x_nD) for site, x_nD in rows.planes.items())


def test_an_error_of_a_reading_thread_is_raised_where_its_rows_are_wanted() -> None:
    def fail(lm: FakeLM) -> None:
        if lm.sequences_run > 40:
            raise RuntimeError("no memory left")

    source = fake_source(lm=FakeLM(then=fail))
    with Workers(3, CPU) as workers:
        source.read_in(workers.reading)
        with pytest.raises(RuntimeError, match="no memory left"):
            for _ in range(40):
                next(source)
