"""Dead latents and FVU against ‖μ‖/‖σ‖ of the activations, where the normaliser does not centre.

    .venv/bin/python benchmarks/offset.py embedded embedded layers.3
    .venv/bin/python benchmarks/offset.py MODEL TEXT SITE      # adds to the JSON

Real activations are moved along their mean to a given ‖μ‖/‖σ‖ and an SAE is trained on them with
`scale-only`; beside it one with `centre-scale`, for which no shift makes a difference.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import saeworks as sw
from saeworks.activations.offset import mean_over_std
from saeworks.config import TextConfig
from saeworks.cost.machine import processor
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus

OUT = Path(__file__).parent / "results" / "offset.json"
ROWS, TOKENS, BATCH = 60_000, 120_000, 1024
RATIOS = (0.3, 0.6, 1.0, 2.0, 5.0)
ARMS: dict[str, dict[str, Any]] = {"topk": {"k": 16}, "jumprelu": {"target_l0": 16}}


def activations(model: str, text: str, site: str) -> tuple[Tensor, Tensor]:
    """Rows of a site, and their documents."""
    lm = LanguageModel.load(model)
    corpus = Corpus(
        TextConfig(source=text, max_documents=700),
        lm.tokenizer,
        bos_id=lm.bos_id,
        max_context=lm.max_context,
        seed=0,
    )
    rows: list[Tensor] = []
    documents: list[Tensor] = []
    for batch in corpus.stream("train", 32):
        rows.append(lm.capture(batch.tokens, site)[batch.keep])
        documents.append(batch.document[batch.keep])
        if sum(map(len, rows)) >= ROWS:
            break
    return torch.cat(rows)[:ROWS], torch.cat(documents)[:ROWS]


def trained(arch: str, x_ND: Tensor, documents: Tensor, normaliser: str) -> dict[str, float]:
    """The last logged numbers of an SAE of width 4·D."""
    with tempfile.TemporaryDirectory() as folder:
        sw.train(
            x_ND,
            Path(folder) / "suite",
            {"arch": arch, "width": 4 * x_ND.shape[1], **ARMS[arch]},
            documents=documents,
            normaliser=normaliser,
            tokens=TOKENS,
            batch=BATCH,
            eval_every=0,
            checkpoint_every=0,
            held_out=0.02,
            say=lambda line: None,
        )
        lines = (Path(folder) / "suite" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return {key: round(float(last[key]), 4) for key in ("dead", "fvu", "l0")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "text", "site"):
        parser.add_argument(name)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    x_ND, documents = activations(asked.model, asked.text, asked.site)
    mean_D = x_ND.mean(0)
    centred_ND = x_ND - mean_D
    sigma = float(centred_ND.square().sum(1).mean().sqrt())
    arms: dict[str, Any] = {}
    for arch in ARMS:
        arms[arch] = {"centred": trained(arch, x_ND, documents, "centre-scale")}
        for ratio in RATIOS:
            moved_ND = centred_ND + mean_D / mean_D.norm() * (sigma * ratio)
            arms[arch][str(ratio)] = trained(arch, moved_ND, documents, "scale-only")
            print(arch, ratio, arms[arch][str(ratio)], flush=True)
    known = json.loads(OUT.read_text()) if OUT.exists() else {"sites": {}}
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1}
    known |= {"tokens": TOKENS, "batch": BATCH, "machine": machine}
    known["sites"][f"{Path(asked.model).name} {asked.site}"] = {
        "mean_over_std": round(mean_over_std(x_ND) or 0.0, 3),
        "arms": arms,
    }
    OUT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
