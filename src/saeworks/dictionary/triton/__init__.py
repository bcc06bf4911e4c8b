"""The kernels of a GPU, in Triton: what `saeworks.dictionary.kernels` runs on CUDA.

Each has the signature and the meaning of its counterpart on the CPU. float32 or bfloat16 in and
out, sums in float32. Every program writes outputs that no other program writes and adds in a fixed
order, so nothing is atomic and the same input gives the same bytes. docs/notes/kernels.md counts
what each one reads and writes.

Every kernel is marked `no_type_check`, so that tests put no run-time checks into its source.
"""

import os

# As Triton does until 3.9, which warns that 3.10 will not: the same bytes from both, no warning.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
