"""What the interpreter cannot show: that the kernels are programs of an H100."""

import json
import os
import subprocess
import sys
from pathlib import Path

SHARED = 227 * 1024  # bytes that a program may have


def test_every_kernel_compiles_and_fits_the_shared_memory():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_for_gpu.py"))],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    bytes_of = json.loads(done.stdout)
    assert len(bytes_of) == 7
    assert all(used <= SHARED for used in bytes_of.values()), bytes_of
