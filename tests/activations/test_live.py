from functools import partial

import pytest
import torch

from helpers.fakes import CONTEXT, FakeLM, FakeStream, fake_source
from saeworks.activations.base import ActivationBatch
from saeworks.activations.ring import RingSource, ring_slots
from saeworks.config import BufferConfig
from saeworks.errors import UserError


def take(source: RingSource, batches: int) -> list[ActivationBatch]:
    return [next(source) for _ in range(batches)]


def same(a: ActivationBatch, b: ActivationBatch) -> bool:
    planes = all(torch.equal(a.x[site], b.x[site]) for site in a.x)
    return planes and torch.equal(a.document, b.document) and torch.equal(a.position, b.position)


def test_every_row_is_the_models_own_at_every_site():
    lm, source = FakeLM(), fake_source()
    truth = {}
    stream = FakeStream(0)
    for _ in range(30):
        tokens = next(stream)
        seen: dict[str, torch.Tensor] = {}
        lm.run(tokens.tokens, {site: partial(seen.__setitem__, site) for site in lm.widths})
        for row in range(stream.sequences):
            for position in range(CONTEXT):
                key = (int(tokens.document[row, 0]), position)
                truth[key] = {site: x[row, position] for site, x in seen.items()}
    for batch in take(source, 12):
        for i in range(64):
            here = truth[(int(batch.document[i]), int(batch.position[i]))]
            for site, x_BD in batch.x.items():
                assert torch.equal(x_BD[i], here[site])


def test_no_row_is_lost_and_none_comes_twice_across_fills():
    source = fake_source()
    fills = 3
    batches = take(source, fills * source.slots // 64)
    rows = torch.cat([b.document * CONTEXT + b.position for b in batches])
    # Position 0 is excluded; every other position of the first documents appears exactly once.
    expected = [d * CONTEXT + p for d in range(1000) for p in range(1, CONTEXT)][: rows.numel()]
    assert sorted(rows.tolist()) == expected


def test_each_fill_is_shuffled_differently_and_the_seed_matters():
    source, other = fake_source(0), fake_source(0)
    other._seed = 1
    per_fill = source.slots // 64
    first, second = take(source, per_fill), take(source, per_fill)
    offset = second[0].document.min() - first[0].document.min()
    assert not torch.equal(first[0].document, second[0].document - offset)
    assert not torch.equal(first[0].document, next(other).document)


@pytest.mark.parametrize("drawn", [0, 1, 6, 7, 8, 13, 14, 18])
def test_a_resumed_source_continues_to_the_bit(drawn: int):
    source = fake_source()
    take(source, drawn)
    state = source.state_dict()
    resumed = fake_source()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert all(same(a, b) for a, b in zip(take(source, 15), take(resumed, 15), strict=True))


def test_a_resumed_source_knows_its_epoch_before_it_reads():
    source = fake_source()
    take(source, 50)
    resumed = fake_source()
    resumed.load_state_dict(source.state_dict())
    assert resumed.epoch == source.epoch == 1


def test_breaking_off_a_fill_leaves_the_state_good():
    class Enough(Exception):
        pass

    def tick(share: float) -> None:
        if share > 0.5:
            raise Enough

    source, whole = fake_source(), fake_source()
    per_fill = source.slots // 64
    take(source, per_fill)
    take(whole, per_fill)
    state = source.state_dict()
    source.tick = tick
    with pytest.raises(Enough):
        next(source)
    resumed = fake_source()
    resumed.load_state_dict(source.state_dict())
    source.tick = lambda share: None
    after = next(whole)
    assert same(next(source), after) and same(next(resumed), after)
    assert state["fill"] == 1 and state["drawn"] == 0


def test_the_language_model_runs_hardly_more_than_it_must():
    lm = FakeLM()
    source = fake_source(lm=lm)
    fills = 5
    take(source, fills * source.slots // 64)
    needed = fills * source.slots / (CONTEXT - 1)
    assert lm.sequences_run <= needed + fills + 1  # a sequence is cut in two at most once a fill


def test_bfloat16_planes_hold_twice_the_slots():
    lm, planes = FakeLM(), {"layers.0": 1024}
    half = ring_slots(BufferConfig(memory="16MiB", dtype="bfloat16"), planes, 1)
    assert half / ring_slots(BufferConfig(memory="16MiB"), planes, 1) > 1.95
    source = fake_source(lm=lm, dtype="bfloat16")
    x_BD = next(source).x["layers.0"]
    assert x_BD.dtype == torch.float32
    assert torch.equal(x_BD, x_BD.bfloat16().float())


def test_the_ring_keeps_to_its_budget_and_to_what_the_run_needs():
    planes = {"a": 100, "b": 28}
    assert ring_slots(BufferConfig(memory="1MiB"), planes, 64) * (128 * 4 + 20) <= 2**20
    assert ring_slots(BufferConfig(memory="1GiB"), planes, 64, tokens=1000) == 1024


def test_a_budget_below_one_batch_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"fewer than one batch of 4096.*at least '1MiB'"):
        fake_source(batch=4096)
    source = fake_source(batch=4096, memory="1MiB")
    assert next(source).x["layers.0"].shape == (4096, 16)


def test_describe_measures_the_mixing():
    source = fake_source()
    facts = source.describe()
    documents = [b.document.unique().numel() for b in take(source, source.slots // 64)]
    assert facts["slots"] == source.slots and facts["bytes"] <= 60 * 1024
    assert facts["documents_per_batch"] == round(sum(documents) / len(documents))
    assert facts["documents"] >= facts["documents_per_batch"] > 10


def test_the_head_is_the_first_rows_and_consumes_nothing():
    source = fake_source()
    head = source.head("layers.1", 100)
    first = torch.cat([b.x["layers.1"] for b in take(source, 2)])[:100]
    assert torch.equal(head, first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused_naming_site_and_batch(bad: float, monkeypatch: pytest.MonkeyPatch):
    lm, source_of = FakeLM(), fake_source
    stream = FakeStream(0)
    third = [next(stream) for _ in range(3)][2]
    only_there = sorted(set(third.tokens.flatten().tolist()))
    plain_run = lm.run

    def run(tokens_BT, hooks):
        broken = torch.equal(tokens_BT[:1], third.tokens[:1])
        lm.tables["layers.1"][only_there[0]] = bad if broken else 0.0
        plain_run(tokens_BT, hooks)

    monkeypatch.setattr(lm, "run", run)
    lm.tables["layers.1"][only_there[0]] = 0.0
    with pytest.raises(UserError, match=r"layers\.1 hold NaN or Inf in batch 2 of the text"):
        take(source_of(lm=lm), 8)


def test_text_that_ends_or_keeps_nothing_is_refused():
    with pytest.raises(UserError, match="the text ended after 1 batches"):
        next(fake_source(stream=FakeStream(0, end=1)))

    class Nothing(FakeStream):
        def __next__(self):
            tokens = super().__next__()
            tokens.keep.zero_() if tokens.keep.is_contiguous() else None
            return tokens

    with pytest.raises(UserError, match="no position of the text is kept"):
        next(fake_source(stream=Nothing(0)))
