from typing import Any

import torch

from saeworks.activations.tensor import TensorSource


def source(batch: int = 10, seed: int = 0, **options: Any) -> TensorSource:
    x = torch.arange(100.0)[:, None].expand(100, 3).half()
    number = torch.arange(100)
    return TensorSource({"a": x, "b": -x[:, :2]}, number // 10, number % 10, batch, seed, **options)


def test_every_row_comes_once_an_epoch_at_every_site_with_its_document() -> None:
    rows = source()
    epochs = [[next(rows) for _ in range(10)] for _ in range(2)]
    orders = [torch.cat([batch.x["a"][:, 0] for batch in epoch]) for epoch in epochs]
    assert all(torch.equal(order.sort().values, torch.arange(100.0)) for order in orders)
    assert not torch.equal(orders[0], orders[1]) and rows.epoch == 1
    for batch in epochs[1]:
        assert batch.x["a"].dtype == torch.float32 and batch.x["b"].shape == (10, 2)
        assert torch.equal(batch.x["b"][:, 0], -batch.x["a"][:, 0])
        assert torch.equal(batch.document * 10 + batch.position, batch.x["a"][:, 0].long())


def test_only_the_rows_that_are_given_are_drawn() -> None:
    given = torch.tensor([3, 5, 40, 41, 42, 77, 80, 81, 90, 99])
    rows = source(batch=4, rows=given)
    drawn = {int(value) for _ in range(20) for value in next(rows).x["a"][:, 0]}
    assert drawn == set(given.tolist()) and rows.describe()["slots"] == 10
    assert set(rows.head("a", 100)[:, 0].long().tolist()) == set(given.tolist())
