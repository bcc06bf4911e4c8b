"""What `switch.py` measured: collected, and written as tables beside the verdicts."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from switch import ALL, Run
from switch_arms import Arm, all_arms, value
from switch_claims import published
from switch_questions import asked
from switch_rule import Claim
from switch_summary import summary

from saeworks.cost.estimate import Part
from saeworks.cost.machine import processor
from saeworks.files.access import read_json
from saeworks.suite import load_suite

Found = dict[str, Any]
LOADS = ("experts_per_token", "busiest", "unused", "load_entropy", "confidence")


def collect(runs: Sequence[Run], results: Path) -> Found:
    """Everything the tables and figures show, with what it depends on."""
    first = all_arms()[0].suite.meta
    timing = results / "switch_time.json"
    return {
        "command": "python experiments/switch.py",
        "model": Path(first["model"]["name"]).name,
        "runs": [run_facts(run) for run in runs],
        "versions": first["versions"],
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "claims": [claim_facts(claim) for claim in (*published(), *asked(results))],
        "arms": [entry for arm in all_arms() for entry in arm_facts(arm)],
        "timing": read_json(timing, "timing") if timing.exists() else None,
    }


def run_facts(run: Run) -> Found:
    suite = next(path for path in sorted(run.folder.iterdir()) if (path / "suite.json").exists())
    meta = load_suite(suite).meta
    evaluated = json.loads((suite / "results/splice.json").read_text())
    return {
        "part": run.part,
        "folder": run.folder.name,
        "seed": run.seed,
        "batch": meta["config"]["train"]["batch"],
        "tokens": meta["tokens"],
        "epochs": meta["epochs"],
        "seconds": meta["seconds"],
        "splice_tokens": evaluated["tokens"],
        "documents": evaluated["documents"],
    }


def claim_facts(claim: Claim) -> Found:
    return {
        "number": claim.number,
        "title": claim.title,
        "verdict": claim.verdict,
        "parts": [
            {
                **asdict(part),
                "shown": f"{part.found:{part.form}}",
                "verdict": part.verdict,
                "remark": part.remark,
            }
            for part in claim.parts
        ],
    }


def arm_facts(arm: Arm) -> Iterator[Found]:
    """One entry per site."""
    meta, options = arm.suite.meta, arm.options
    for site, at in meta["sites"].items():
        part = Part(arm.variant, meta["arch"], options, at["d"], (site,))
        own = [read_json(folder / "switch.json", "loads")["sites"][site] for folder in arm.folders]
        yield {
            "part": arm.part,
            "variant": arm.variant,
            "arch": meta["arch"],
            "site": site,
            "options": options,
            "seeds": len(arm.folders),
            **{
                metric: asdict(value(arm, metric, site))
                for metric in ("fvu", "delta_ce", "loss_recovered_zero", "l0")
            },
            "first_seed_fvu": float(arm.drawn(0, "fvu", site)[0]),
            "live_share": mean([entry["live"] / entry["width"] for entry in own]),
            "duplicates": {
                cosine: mean([entry["duplicates"][cosine] for entry in own])
                for cosine in own[0]["duplicates"]
            },
            "loads": {key: mean([e[key] for e in own]) for key in LOADS if key in own[0]},
            "flops": part.flops(meta["config"]["train"]["batch"]),
            "parameters": part.parameters,
        }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def regime(runs: Found) -> str:
    """What the same comparison gives where each latent has thousands of tokens."""
    ratios = [
        mean([one[f"switch-w{256 * n}-k16-experts{n}"]["fvu"] / one["topk-w256-k16"]["fvu"]
              for one in runs.values()])
        for n in (2, 4, 8)
    ]  # fmt: skip
    below = ", ".join(f"{1 - ratio:.1%}" for ratio in ratios)
    return (
        "These SAEs had 60 to 480 tokens per latent; the paper's dense baseline had 33,000. Where "
        "each latent has thousands of tokens the comparison at equal FLOPs turns round: on the "
        f"embedded model (layer 3, k 16, 10.0M tokens, seeds {', '.join(runs)}) Switch SAEs of 2, "
        f"4, 8 experts of 256 latents have an FVU {below} *below* that of a TopK SAE of 256 "
        '([tokens_per_latent.md](tokens_per_latent.md); the paper: 10–21% below). So "not '
        'reproduced" below says what happens in short runs of wide SAEs, and nothing about the '
        "paper's regime."
    )


def write_markdown(found: Found, path: Path) -> None:
    """The verdicts, then everything that was measured."""
    main = found["runs"][0]
    total = sum(run["seconds"] for run in found["runs"]) / 60
    lines = [
        f"# Switch SAEs: {found['model']}",
        "",
        f"Made by `{found['command']}` from `experiments/switch_*.yaml`: {main['tokens']:,} "
        f"vectors per SAE in batches of {main['batch']:,} unless a part says otherwise, all SAEs "
        "of a seed on the same batches of one pass, AuxK in all of them. FVU on 100,000 held-out "
        f"tokens, ΔCE on {main['splice_tokens']:,} of {main['documents']} documents. Intervals "
        "are 95%: Student's t over seeds where there are three, a paired bootstrap over documents "
        "where there is one. In the frontiers k = 32 is the mean of the seeds; all of the third "
        "figure is seed 0.",
        "",
        "![Frontiers](switch.svg)",
        "",
        "![Operations and seconds](switch_cost.svg)",
        "",
        "![Width, balance and batch](switch_sweeps.svg)",
        "",
        "![Routers](switch_routers.svg)",
        "",
        "## In which regime",
        "",
        regime(json.loads((path.parent / "tokens_per_latent.json").read_text())["runs"]),
        "",
        "## In short",
        "",
        *summary(found),
        "",
        "## Against the criteria",
        "",
        "Written before the runs: [switch_criteria.md](../switch_criteria.md), which also says how "
        "numbers become verdicts, and what was added later. *Beside* stands beside and is not "
        "counted.",
        "",
        *(line for claim in found["claims"] if claim["parts"] for line in claim_lines(claim)),
        *not_run(found),
        *arm_tables(found),
        *load_table(found),
        *geometry_table(found),
        f"saeworks {found['versions']['saeworks']}, torch {found['versions']['torch']}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} cores; "
        f"{len(found['runs'])} runs took {total:.0f} minutes, other jobs on the machine.",
    ]
    path.write_text("\n".join(lines) + "\n")


def claim_lines(claim: Found) -> list[str]:
    verdict = claim["verdict"] or "No prediction"
    lines = [f"### {claim['number']}. {claim['title']}: {verdict}", ""]
    lines += ["| | ours | paper | |", "|---|---|---|---|"]
    for part in claim["parts"]:
        counted = part["verdict"] if part["judged"] else f"beside: {part['verdict']}"
        lines.append(f"| {part['name']} | {part['shown']} | {part['remark']} | {counted} |")
    return [*lines, ""]


def not_run(found: Found) -> list[str]:
    """Runs that are planned and are not there, by their folder."""
    there = {(run["part"], run["seed"], run["folder"]) for run in found["runs"]}
    left = [run for run in ALL if (run.part, run.seed, run.folder.name) not in there]
    if not left:
        return []
    names = ", ".join(f"{run.part}/{run.folder.name}" for run in left)
    return [
        f"Not trained to the end, for want of time: {names}; what is judged on them is left out.",
        "",
    ]


def arm_tables(found: Found) -> list[str]:
    """Every SAE, a table per part."""
    timing = (found["timing"] or {"arms": {}})["arms"]
    lines = [
        "## Every SAE",
        "",
        "FLOPs are those of a training step, per token. Seconds are those of a step of 4,096 "
        "tokens on one thread, all arms in turn, the median of some rounds; other jobs were on the "
        "machine.",
        "",
    ]
    for part in dict.fromkeys(entry["part"] for entry in found["arms"]):
        lines += [
            f"### {part}",
            "",
            "| SAE | site | L0 | FVU | ΔCE (nats) | loss recovered | live | MFLOP | s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for e in (e for e in found["arms"] if e["part"] == part):
            seconds = timing.get(e["variant"]) if part in ("seeds", "sweeps") else None
            lines.append(
                f"| {e['variant']} | {e['site']} | {e['l0']['value']:.1f} | {spoken(e['fvu'])} | "
                f"{spoken(e['delta_ce'])} | {e['loss_recovered_zero']['value']:.4f} | "
                f"{e['live_share']:.1%} | {e['flops'] / 1e6:.3g} | "
                f"{'' if seconds is None else format(seconds['seconds'], '.3f')} |"
            )
        lines.append("")
    return lines


def load_table(found: Found) -> list[str]:
    lines = [
        "## Loads",
        "",
        "On 50,000 held-out tokens: experts per token; the busiest expert's share of the routed "
        "visits; experts without any; entropy of the shares over ln N; mean probability of the "
        "best expert. An expert that is always on is left out.",
        "",
        "| part | SAE | site | experts per token | busiest | unused | entropy | confidence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in (e for e in found["arms"] if e["loads"]):
        load = e["loads"]
        lines.append(
            f"| {e['part']} | {e['variant']} | {e['site']} | {load['experts_per_token']:.2f} | "
            f"{load['busiest']:.3f} | {load['unused']:.1f} | {load['load_entropy']:.3f} | "
            f"{load['confidence']:.3f} |"
        )
    return [*lines, ""]


def geometry_table(found: Found) -> list[str]:
    """Share of duplicates at fixed width, experts × k, at three thresholds."""
    lines = [
        "## Duplicates",
        "",
        "Share of live latents whose decoder row has another live one above a cosine of 0.7 / "
        "0.9 / 0.99, at M = 4,096.",
        "",
        "| experts | k = 8 | 16 | 32 | 64 |",
        "|---|---|---|---|---|",
    ]
    for experts in (1, 4, 16, 64):
        cells = []
        for k in (8, 16, 32, 64):
            arch = "topk" if experts == 1 else "switch"
            name = f"{arch}-w4096-k{k}" + ("" if experts == 1 else f"-experts{experts}")
            own = [e for e in found["arms"] if e["variant"] == name]
            own = [e for e in own if e["part"] in ("seeds", "sweeps")]
            shares = [f"{own[0]['duplicates'][c]:.2%}" for c in ("0.7", "0.9", "0.99")]
            cells.append(" / ".join(shares))
        lines.append(f"| {experts} | {' | '.join(cells)} |")
    return [*lines, ""]


def spoken(found: Found) -> str:
    if found["low"] is None:
        return f"{found['value']:.4f}"
    return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
