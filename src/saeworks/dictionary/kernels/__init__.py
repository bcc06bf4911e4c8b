"""The three sparse primitives that carry decoding and every gradient, by device.

Codes are (values, indices) [B, K], or [nnz] with offsets [B + 1]. They carry no gradient of their
own: `saeworks.dictionary.fused` builds the autograd functions from them.
"""

from saeworks.dictionary.kernels import cpu
from saeworks.dictionary.kernels.pairs import SortedPairs, pair_rows, sort_pairs

__all__ = [
    "SortedPairs",
    "gather_dot",
    "gather_sum",
    "pair_rows",
    "segment_outer",
    "sort_pairs",
]

gather_sum = cpu.gather_sum
gather_dot = cpu.gather_dot
segment_outer = cpu.segment_outer
