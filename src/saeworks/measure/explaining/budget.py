"""What may be spent: counted before it is asked, so that no limit is ever passed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from saeworks.measure.explaining.config import AskConfig

MILLION = 1_000_000


class BudgetReached(Exception):
    """The next request might spend more than is allowed."""


@dataclass(frozen=True)
class Spent:
    """Tokens of prompts and of answers, and how many requests they were."""

    tokens_in: int = 0
    tokens_out: int = 0
    requests: int = 0

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.requests + other.requests,
        )

    def money(self, config: AskConfig) -> float | None:
        """By the prices; None without prices."""
        if config.price_in is None or config.price_out is None:
            return None
        return (self.tokens_in * config.price_in + self.tokens_out * config.price_out) / MILLION

    def words(self, config: AskConfig) -> str:
        """`1,088 requests, 310,000 tokens in and 12,000 out, 0.31 at the given prices`."""
        money = self.money(config)
        price = "" if money is None else f", {money:.4g} at the given prices"
        return (
            f"{self.requests:,} requests, {self.tokens_in:,} tokens in and {self.tokens_out:,} out"
            f"{price}"
        )


class Bill:
    """What is spent so far in this run, and what is on its way.

    A request is taken into account at its bound until it is answered, so that spent and bound
    together never pass the budget, however many are on their way.
    """

    def __init__(self, config: AskConfig) -> None:
        self.config, self.spent = config, Spent()
        self._pending, self._on_its_way = Spent(), 0
        self._changed = Condition()

    @contextmanager
    def request(self, bound: Spent) -> "Iterator[Charge]":
        """A request that may cost so much, while it is on its way; then what it did cost.

        Raises:
            BudgetReached: if it does not fit beside what is spent.
        """
        with self._changed:
            while not self._fits(self.spent.plus(self._pending).plus(bound)):
                if not self._on_its_way:
                    raise BudgetReached
                self._changed.wait()
            self._pending, self._on_its_way = self._pending.plus(bound), self._on_its_way + 1
        charge = Charge(bound)
        try:
            yield charge
        finally:
            with self._changed:
                back = Spent(-bound.tokens_in, -bound.tokens_out, -bound.requests)
                self._pending, self._on_its_way = self._pending.plus(back), self._on_its_way - 1
                self.spent = self.spent.plus(charge.cost)
                self._changed.notify_all()

    def _fits(self, total: Spent) -> bool:
        config = self.config
        tokens = total.tokens_in + total.tokens_out
        if config.budget_tokens is not None and tokens > config.budget_tokens:
            return False
        money = total.money(config)
        return config.budget is None or (money is not None and money <= config.budget)


class Charge:
    """What a request costs: its bound, until it is known better."""

    def __init__(self, bound: Spent) -> None:
        self.cost = bound

    def nothing(self) -> None:
        """It was refused, and costs nothing."""
        self.cost = Spent()

    def known(self, tokens_in: int, tokens_out: int) -> None:
        """The server has counted."""
        self.cost = Spent(tokens_in, tokens_out, 1)
