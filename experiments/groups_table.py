"""What `groups.py` measured: collected, drawn, and set beside its criteria."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from frontier_figures import COLOURS, save
from matplotlib import pyplot as plt

from groups import BASELINE, config, folder, plan_of, suites_of
from saeworks.config import CompareConfig, RunConfig, from_mapping, read_yaml
from saeworks.cost.machine import processor
from saeworks.measure.comparing.compare import Comparison, compared_with
from saeworks.measure.comparing.over_seeds import over_seeds
from saeworks.suite import load_suite
from saeworks.train.job import Job, flops_of

Found = dict[str, Any]
METRICS = {"fvu": "FVU", "delta_ce": "ΔCE (nats)"}


def collect(setting: str, seeds: Sequence[int], results: Path) -> Found:
    """Everything the tables and figures show, with what it depends on."""
    plan, run = plan_of(setting), read_yaml(config(setting))
    suites = {seed: suites_of(setting, seed) for seed in seeds}
    first = load_suite(suites[seeds[0]][BASELINE]).meta
    names = [name for name in suites[seeds[0]] if name != BASELINE]
    found: Found = {
        "command": f"python experiments/groups.py {setting}",
        "model": Path(run["model"]["name"]).name,
        "seeds": list(seeds),
        "sites": list(plan.sites),
        "chosen": len(plan.groups),
        "amad": [point.amad for point in plan.curve],
        "tokens": first["tokens"],
        "epochs": first["epochs"],
        "seconds": [load_suite(suites[seed][BASELINE]).meta["seconds"] for seed in seeds],
        "versions": first["versions"],
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "intervals": "95%, Student's t over seeds"
        if len(seeds) > 1
        else "95%, paired bootstrap over documents",
        "variants": {name: variant(name, suites) for name in names},
        "cost": costs(suites[seeds[0]]),
        "pairs": {},
        "alignment": {
            name: alignment([suites[seed][name] for seed in seeds])
            for name in names
            if "-g" in name
        },
        "transfer": [
            json.loads((folder(setting, seed) / "transfer.json").read_text()) for seed in seeds
        ],
    }
    for one, other in pairs(names, found["chosen"], len(plan.sites)):
        found["pairs"][f"{one} − {other}"] = paired(one, other, suites)
    timing = results / f"groups_{setting}_time.json"
    found["timing"] = json.loads(timing.read_text()) if timing.exists() else None
    return found


def variant(name: str, suites: Mapping[int, Mapping[str, Path]]) -> Found:
    """A variant beside the baseline of its seed, per site and on average, and what it cost."""
    meta = load_suite(next(iter(suites.values()))[name]).meta
    return {
        "grouping": meta["grouping"],
        "normaliser": meta["normaliser"],
        "groups": {group: entry["sites"] for group, entry in meta["groups"].items()},
        "tokens": meta["tokens"],
        **values([Comparison.read(by_name[name]) for by_name in suites.values()]),
    }


def costs(suites: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Operations of each variant's training, the language model's reading included."""
    jobs: dict[str, Job] = {}
    found = {}
    for name, path in suites.items():
        meta = load_suite(path).meta
        key = json.dumps(meta["config"])
        if key not in jobs:
            jobs[key] = Job.prepare(from_mapping(RunConfig, meta["config"], str(path)))
        found[name] = flops_of(jobs[key].work, meta["variant"])
    return found


def paired(one: str, other: str, suites: Mapping[int, Mapping[str, Path]]) -> Found:
    """Two variants beside one another."""
    settings = CompareConfig(alignment=False)
    return values(
        [
            compared_with(load_suite(s[one]), load_suite(s[other]), [], settings)
            for s in suites.values()
        ]
    )


def values(comparisons: Sequence[Comparison]) -> Found:
    """Suite, baseline, difference and ratio: over seeds where there are several."""
    whole: Any = over_seeds(comparisons) if len(comparisons) > 1 else comparisons[0]
    sites = {
        site: {metric: plain(found[metric]) for metric in (*METRICS, "l0")}
        for site, found in whole.sites.items()
    }
    return {"mean": {m: plain(whole.mean[m]) for m in METRICS}, "sites": sites}


def plain(pair: Any) -> Found:
    return {
        key: asdict(value) if (value := getattr(pair, key)) is not None else None
        for key in ("suite", "baseline", "difference", "ratio")
    }


def alignment(paths: Sequence[Path]) -> Found:
    """MMCS and MMCO with the baseline, beside those of the baseline's other seeds; how many of its
    sites a shared latent lives at."""
    found = [c.alignment for path in paths if (c := Comparison.read(path)).alignment is not None]
    sites = [one for a in found for one in a.sites.values()]
    own = {m: [getattr(s.suite, m) for s in sites] for m in ("mmcs", "mmco")}
    seeds = {m: [getattr(o, m) for s in sites for o in s.seeds] for m in ("mmcs", "mmco")}
    shared = [spread for a in found for spread in a.spread.values()] if found else []
    return {
        **{m: float(np.mean(v)) for m, v in own.items() if v},
        **{f"{m}_seeds": float(np.mean(v)) for m, v in seeds.items() if v},
        "lives_at": [{"sites": len(s.sites), "latents": s.lives_at} for s in shared],
        "effective": [s.effective for s in shared],
    }


def steps(sites: int) -> list[str]:
    """Complete linkage with 1 … L groups; the last is the baseline."""
    return [*(f"{BASELINE}-g{g}-complete" for g in range(1, sites)), BASELINE]


def pairs(names: Sequence[str], chosen: int, sites: int) -> list[tuple[str, str]]:
    """What criteria 1 and 3 to 6 compare."""
    ladder = steps(sites)
    found = [(after, before) for before, after in pairwise(ladder)]
    for g in range(2, sites):
        found.append((f"{BASELINE}-g{g}-even", f"{BASELINE}-g{g}-complete"))
    for g in dict.fromkeys((1, chosen)):
        usual = f"{BASELINE}-g{g}-complete"
        for kind in ("scale-only", "none", "learnable"):
            found.append((f"{BASELINE}-{kind}-g{g}-complete", usual))
        found.append((f"{usual}-all", usual))
    best = f"{BASELINE}-g{chosen}-complete"
    smaller = next(name for name in names if name.startswith("topk-x1") and "-g" not in name)
    return [*found, (smaller, best), ("fewer", best)]


def figures(found: Found, base: Path) -> None:
    """FVU and ΔCE per layer for every G; mean FVU against the operations of training; transfer."""
    drawing, axes = plt.subplots(2, 2, figsize=(9.4, 6.2), layout="constrained")
    for axis, metric in zip(axes[0], METRICS, strict=True):
        per_layer(axis, found, metric)
    against_cost(axes[1][0], found)
    transfers(axes[1][1], found)
    axes[0][0].legend(frameon=False, ncols=3, loc="upper left")
    axes[0][0].set_ylim(top=1.2 * axes[0][0].get_ylim()[1])
    axes[1][0].legend(frameon=False)
    save(drawing, base.with_suffix(".svg"))


def per_layer(axis: Any, found: Found, metric: str) -> None:
    sites = found["sites"]
    shown = [name for name in steps(len(sites)) if name in found["variants"]]
    some = found["variants"][shown[0]]["sites"]
    lines = [(f"G = {i + 1}", found["variants"][n]["sites"], "suite") for i, n in enumerate(shown)]
    for number, (label, values, key) in enumerate([*lines, ("per layer", some, "baseline")]):
        bars(axis, number, [values[site][metric][key] for site in sites], label, len(lines) + 1)
    axis.set_xticks(range(len(sites)), [site.rpartition(".")[2] for site in sites])
    axis.set_xlabel("layer")
    axis.set_title(METRICS[metric], fontsize=9)
    axis.grid(visible=False, axis="x")
    axis.set_axisbelow(True)


def bars(axis: Any, number: int, values: Sequence[Found], label: str, of: int) -> None:
    x = np.arange(len(values)) + (number - (of - 1) / 2) * 0.8 / of
    y = [v["value"] for v in values]
    down = [v["value"] - (v["low"] if v["low"] is not None else v["value"]) for v in values]
    up = [(v["high"] if v["high"] is not None else v["value"]) - v["value"] for v in values]
    ink = "#5d6670" if label == "per layer" else plt.get_cmap("viridis")(0.9 * number / of)
    axis.bar(x, y, 0.8 / of, color=ink, label=label)
    axis.errorbar(x, y, yerr=[down, up], fmt="none", ecolor="#22262b", elinewidth=0.7)


def against_cost(axis: Any, found: Found) -> None:
    """Per-layer, grouped, smaller and fewer: FVU of the mean over layers against FLOPs."""
    ladder = steps(len(found["sites"]))
    usual = [name for name in ladder if name in found["variants"]]
    first = found["variants"][usual[0]]
    x = [found["cost"][name]["flops"] for name in [*usual, BASELINE]]
    y = [found["variants"][name]["mean"]["fvu"]["suite"]["value"] for name in usual]
    y.append(first["mean"]["fvu"]["baseline"]["value"])
    x_tera = [value / 1e12 for value in x]
    axis.plot(x_tera, y, "o-", color=COLOURS[0], label="complete linkage, G = 1 … L")
    others = {
        "even groups": [n for n in found["variants"] if n.endswith("-even")],
        "smaller SAEs per layer": [n for n in found["variants"] if n.startswith("topk-x1")],
        "per layer, fewer tokens": ["fewer"],
    }
    for (label, names), marker, ink in zip(others.items(), "s^D", COLOURS[1:], strict=False):
        points = [found["variants"][name] for name in names]
        axis.plot(
            [found["cost"][name]["flops"] / 1e12 for name in names],
            [p["mean"]["fvu"]["suite"]["value"] for p in points],
            marker,
            color=ink,
            label=label,
        )
    axis.set_xlabel("operations of the training, language model included (TFLOP)")
    axis.set_ylabel("mean FVU")


def transfers(axis: Any, found: Found) -> None:
    sites = found["sites"]
    cells = np.mean(
        [[[t["values"][i][j]["fvu"] for j in sites] for i in sites] for t in found["transfer"]],
        axis=0,
    )
    axis.imshow(np.log(cells), cmap="YlGnBu")
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            ink = "white" if np.log(value) > np.log(cells).mean() else "black"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7)
    ticks = [site.rpartition(".")[2] for site in sites]
    axis.set_xticks(range(len(sites)), ticks)
    axis.set_yticks(range(len(sites)), ticks)
    axis.set_xlabel("applied to layer")
    axis.set_ylabel("SAE of layer")
    axis.set_title("FVU of one layer's SAE on another", fontsize=9)
    axis.grid(visible=False)


def write_markdown(found: Found, path: Path) -> None:
    """The verdicts on the criteria, then the tables."""
    from groups_verdicts import verdicts

    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        f"# Groups: {found['model']}",
        "",
        f"Made by `{found['command']}` from `experiments/{path.stem}.yaml`; seeds {seeds}, "
        f"{found['tokens']:,} vectors per SAE, all SAEs of a seed on the same batches of one pass. "
        f"Intervals: {found['intervals']}. Ĝ = {found['chosen']} of {len(found['sites'])} layers.",
        "",
        f"![Per layer, against cost, transfer]({path.stem}.svg)",
        "",
        "## Against the criteria",
        "",
        "Written before the runs: [groups_criteria.md](../groups_criteria.md).",
        "",
        *verdicts(found),
        "",
        *tables(found),
        f"saeworks {found['versions']['saeworks']}, torch {found['versions']['torch']}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} cores; training took "
        f"{' + '.join(f'{s / 60:.0f}' for s in found['seconds'])} minutes, other jobs on the "
        "machine.",
    ]
    path.write_text("\n".join(lines) + "\n")


def tables(found: Found) -> list[str]:
    lines = []
    for metric, title in METRICS.items():
        lines += [f"## {title} per layer", "", "Value (difference from one SAE per layer).", ""]
        head = " | ".join(site for site in found["sites"])
        lines += [
            f"| variant | {head} | mean | difference of the mean |",
            "|---" * (len(found["sites"]) + 3) + "|",
        ]
        some = next(iter(found["variants"].values()))
        base = " | ".join(number(some["sites"][s][metric]["baseline"]) for s in found["sites"])
        lines.append(f"| {BASELINE} | {base} | {number(some['mean'][metric]['baseline'])} | |")
        for name, entry in found["variants"].items():
            cells = " | ".join(
                f"{number(entry['sites'][s][metric]['suite'])} "
                f"({entry['sites'][s][metric]['difference']['value']:+.3f})"
                for s in found["sites"]
            )
            mean = entry["mean"][metric]
            lines.append(
                f"| {name} | {cells} | {number(mean['suite'])} | {spoken(mean['difference'])} |"
            )
        lines.append("")
    return [*lines, *aligned(found), *groups_of(found)]


def groups_of(found: Found) -> list[str]:
    lines = ["## Which layers share an SAE", "", "| variant | groups | AMAD |", "|---|---|---|"]
    for name, entry in found["variants"].items():
        if len(entry["groups"]) == len(found["sites"]):
            continue
        groups = "; ".join(
            ", ".join(s.rpartition(".")[2] for s in sites) for sites in entry["groups"].values()
        )
        amad = entry["grouping"].get("amad")
        lines.append(f"| {name} | {groups} | {'' if amad is None else f'{amad:.3f}'} |")
    return [*lines, ""]


def aligned(found: Found) -> list[str]:
    lines = [
        "## How the dictionaries correspond",
        "",
        "MMCS and MMCO: mean over the baseline's live latents of the largest cosine of decoder "
        "directions, and of the largest Jaccard index of firing sets, with any latent of the "
        "variant's SAE; beside them the same with the baseline of another seed. Last, for each "
        "group: its sites, and how many latents live at one of them, at two, and so on.",
        "",
        "| variant | MMCS | other seed | MMCO | other seed | sites where a latent lives |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in found["alignment"].items():
        lives = "; ".join(
            f"{spread['sites']}: {', '.join(map(str, spread['latents']))}"
            for spread in entry["lives_at"][: len(found["variants"][name]["groups"])]
        )
        cells = [entry.get(k) for k in ("mmcs", "mmcs_seeds", "mmco", "mmco_seeds")]
        shown = " | ".join("–" if value is None else f"{value:.3f}" for value in cells)
        lines.append(f"| {name} | {shown} | {lives} |")
    return [*lines, ""]


def number(value: Found) -> str:
    return f"{value['value']:.4g}"


def spoken(value: Found) -> str:
    if value["low"] is None:
        return f"{value['value']:+.4f}"
    return f"{value['value']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
