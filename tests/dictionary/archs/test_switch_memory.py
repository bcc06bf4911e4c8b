"""A Switch step never allocates anything of size [B, M], asked of the operating system."""

import json
import subprocess
import sys

import pytest

STEP = """
import json, resource, sys
import torch
from saeworks import build_sae
from saeworks.dictionary.base import Batch, Context
from saeworks.train.optimiser import DictionaryAdam
from saeworks.train.step import train_step

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

options = json.loads(sys.argv[1])
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x_BD = torch.randn(8192, 64, generator=generator)
sae = build_sae("switch", 64, width=2**20, k=8, experts=1024, **options)
sae.initialise(x_BD, generator)
optimiser = DictionaryAdam(sae, lr=1e-4)
dead = torch.arange(0, 2**20, 7)
train_step(sae, optimiser, Batch(x_BD, x_BD), Context(dead, 0.5), 1e-4)
trained = peak()
with torch.no_grad():
    sae(x_BD)
print(json.dumps({"trained": trained, "used": peak()}))
"""


@pytest.mark.parametrize("options", [{}, {"router": "top-n", "active": 4}])
def test_a_million_latents_in_four_gibibytes(options):
    """[B, M] alone would be 32 GiB; the parameters, their gradients and moments are 2."""
    command = [sys.executable, "-c", STEP, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert 2 * 2**30 < found["trained"] <= 4 * 2**30
    assert found["used"] <= 4 * 2**30
