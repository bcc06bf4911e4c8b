"""Compiles every kernel for an H100, on any machine: a process of its own, without the interpreter.

It prints, for each, how many bytes of shared memory a program needs.
"""

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saeworks.dictionary.triton import adam, pairs, select

FLOATS, INTEGERS = "*fp32", "*i64"
POINTERS = {
    **dict.fromkeys(("values", "table", "rows", "out", "w", "grad", "told"), FLOATS),
    **dict.fromkeys(("m", "v", "x", "bias"), "*bf16"),
    **dict.fromkeys(("indices", "offsets", "order", "row", "starts", "first"), INTEGERS),
    **dict.fromkeys(("group_rows", "group_latents", "latents"), INTEGERS),
    **dict.fromkeys(("keys", "best"), "*u32"),
    **dict.fromkeys(("lr", "beta1", "beta2", "eps"), "fp32"),
    "places": "*i16",
}
"""Types of arguments by name; the others are whole numbers."""
CHUNK: dict[str, Any] = {"PAIRS": 16, "COLUMNS": 128}
TILE = {"TOKENS": select._TOKENS, "LATENTS": select._LATENTS, "DEPTH": select._DEPTH}
MERGE = {"LOCAL": True, "LAST": True, "BITS": 20, "BLOCK": 4096, "LATENTS": 256}
KERNELS: list[tuple[Any, dict[str, Any], int]] = [
    (pairs._gather_sum, {**CHUNK, "RAGGED": True}, 4),
    (pairs._gather_dot, {**CHUNK, "RAGGED": False, "offsets": None}, 4),
    (pairs._segment_outer, CHUNK, 4),
    (adam._squares, {"UNIT": True, "BLOCK": 1024}, 4),
    (adam._update, {"UNIT": True, "ROUND": True, "BLOCK": 1024}, 4),
    (select._merge, MERGE, 8),
    (select._encode, {**TILE, "HAS_BIAS": True, "GROUPS": 64, "BITS": 20, "WIDEN": False}, 16),
]


def shared_memory(kernel: Any, constants: dict[str, Any], warps: int) -> int:
    """Bytes, once it is compiled to machine code."""
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else POINTERS.get(n, "i32") for n in names}
    if kernel is select._encode:
        types["w"] = "*bf16"
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=fixed)
    target = GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    assert compiled.asm["cubin"]
    return int(compiled.metadata.shared)


if __name__ == "__main__":
    print(json.dumps({k.__name__: shared_memory(k, c, warps) for k, c, warps in KERNELS}))
