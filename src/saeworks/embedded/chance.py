"""Random choices of the grammar, and the combinations that training never sees."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

HELD_OUT_SHARE = 10
"""One combination in this many is held out."""


class Chance:
    """Thin wrapper of a numpy generator: the draws the grammar needs, as plain Python values.

    Uniform numbers are drawn in blocks, because one numpy call per draw would cost more than
    the rest of the grammar.
    """

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(list(seed)))
        self._block: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(128).tolist()
        return self._block.pop()

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, uniformly."""
        return options[int(self.uniform() * len(options))]

    def pick_early(self, options: Sequence[T]) -> T:
        """One of the options, the earlier the likelier (density falling linearly)."""
        return options[int((1 - self.uniform() ** 0.5) * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in random order."""
        pool = list(options)
        chosen = []
        for _ in range(count):
            chosen.append(pool.pop(int(self.uniform() * len(pool))))
        return chosen

    def maybe(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability


def is_held_out(kind: str, *parts: str) -> bool:
    """Whether the combination is kept away from training: a stable hash, so that the answer is
    the same in every process and release."""
    key = "|".join((kind, *parts)).encode()
    # CRC-32 is linear; the multiplication mixes its bits before the remainder is taken.
    mixed = (zlib.crc32(key) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 33) % HELD_OUT_SHARE == 0


def is_held_out_gift(first: str, second: str, gift: str, place: str) -> bool:
    """Indirect object: (unordered pair of names, object, place)."""
    return is_held_out("ioi", *sorted((first, second)), gift, place)


def is_held_out_years(century: int, start: int, end: int) -> bool:
    """Greater-than: (century, two-digit start, two-digit end)."""
    return is_held_out("greater_than", str(century), str(start), str(end))


def is_held_out_agreement(noun: str, attractor: str, verb: str) -> bool:
    """Agreement: (head noun, attractor, verb), all as lemmas, whatever their number."""
    return is_held_out("agreement", noun, attractor, verb)
