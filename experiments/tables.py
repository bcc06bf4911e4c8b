"""Markdown tables."""

from collections.abc import Iterable, Sequence


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[object], rows: Iterable[Sequence[object]], right: str = "") -> list[str]:
    """Its lines. `right` has an r for each column that is set to the right: `"lrr"`."""
    rule = (f"---{':' if right[i : i + 1] == 'r' else ''}" for i in range(len(head)))
    return [row(head), f"|{'|'.join(rule)}|", *map(row, rows)]


ARCHS = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "ReLU",
    "switch": "Switch",
}
"""The names of architectures as they are written."""


def layer(site: str) -> str:
    """`layers.3` → `3`."""
    return site.rpartition(".")[2]
