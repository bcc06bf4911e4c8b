"""The tables of the frontiers."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from experiments.criteria import number
from experiments.runs import Found
from experiments.tables import ARCHS, table

SHOWN = {"fvu": "FVU", "delta_ce": "ΔCE (nats)"}


def markdown(found: Found, setting: str) -> str:
    """The tables, with the figures and what they depend on."""
    config = found["config"]
    held_out = "; ".join(
        f"{key}: {value['tokens']:,} tokens of {value['documents']} documents"
        for key, value in found["evaluation"].items()
    )
    widths = {key: v for key in ("expansion", "width") if (v := config["saes"][0].get(key))}
    parts = [
        f"# Frontiers of every architecture: {Path(config['model']['name']).name}",
        f"Made by `{found['command']}` from `experiments/frontier/{setting}.yaml`: "
        f"{len(found['points'])} SAEs ("
        + ", ".join(f"{key} {value}" for key, value in widths.items())
        + f") for each of the seeds {', '.join(map(str, found['seeds']))}, "
        f"{found['tokens']:,} tokens, whole epochs of the text: {found['epochs']}, "
        f"all SAEs of a seed on the same batches of one pass. "
        f"Held out: {held_out}. Intervals: {found['intervals']}.",
        f"![FVU and ΔCE against L0]({setting}.svg)",
        matched(found),
        *(site_table(found, site) for site in distinct(found, "site")),
        controller_table(found, setting),
        f"{', '.join(f'{k} {v}' for k, v in found['versions'].items())}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} cores; training took "
        f"{', '.join(f'{s / 60:.0f}' for s in found['seconds'])} minutes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def site_table(found: Found, site: str) -> str:
    """A row per architecture and target."""
    rows = [
        [ARCHS[arch], f"{point['target']:g}"]
        + [cell(point[key]) for key in ("l0", "fvu", "delta_ce", "dead_share")]
        for arch in distinct(found, "arch")
        for point in frontier(found, site, arch)
    ]
    head = ("architecture", "target L0", "L0", *SHOWN.values(), "dead share")
    return "\n".join([f"## {site}", "", *table(head, rows)])


def matched(found: Found) -> str:
    """FVU and ΔCE at the same L0: interpolated along each frontier."""
    targets = sorted({point["target"] for point in found["points"]})[1:-1]
    if not targets:
        return ""
    places = [(site, l0) for site in distinct(found, "site") for l0 in targets]
    rows = []
    for arch in distinct(found, "arch"):
        cells = []
        for site, l0 in places:
            points = frontier(found, site, arch)
            both = [interpolated(points, metric, l0) for metric in SHOWN]
            cells.append(" / ".join("–" if value is None else f"{value:.3g}" for value in both))
        rows.append([ARCHS[arch], *cells])
    text = (
        "FVU / ΔCE in nats, interpolated between neighbouring points of a frontier, linearly in "
        "the logarithms of L0 and of the value."
    )
    head = ("architecture", *(f"{site}, L0 {l0:g}" for site, l0 in places))
    return "\n".join(["## At the same L0", "", text, "", *table(head, rows)])


def interpolated(points: Sequence[Found], metric: str, l0: float) -> float | None:
    """The value at an L0 between two points of a frontier."""
    known = sorted((p["l0"]["value"], p[metric]["value"]) for p in points)
    for (x0, y0), (x1, y1) in pairwise(known):
        if 0 < x0 <= l0 <= x1 and x0 < x1 and min(y0, y1) > 0:
            share = math.log(l0 / x0) / math.log(x1 / x0)
            return float(y0 * (y1 / y0) ** share)
    return None


def controller_table(found: Found, stem: str) -> str:
    """How near each steered SAE came, and when."""
    if not found["controller"]:
        return ""
    text = (
        "L0 on held-out text of the SAEs that a controller steers to a target; the tokens from "
        "which on L0 in training, averaged over five lines of metrics.jsonl, stayed within 5%; and "
        "the coefficient at the end."
    )
    image = f"![JumpReLU's L0 and coefficient during training]({stem}_controller.svg)"
    head = ("architecture", "site", "seed", "target", "held-out L0", "deviation", "settled")
    rows = [
        [
            *(ARCHS[c["arch"]], c["site"], c["seed"], f"{c['target']:g}"),
            f"{c['held_out_l0']:.4g}",
            f"{100 * c['deviation']:+.1f}%",
            "never" if (at := c["settled_at_tokens"]) is None else f"{at:,} tokens",
            f"{c['coefficient'][-1]:.3g}",
        ]
        for c in found["controller"]
    ]
    lines = ["## Sparsity targets", "", text, "", image, "", *table((*head, "coefficient"), rows)]
    return "\n".join(lines)


def cell(found: Mapping[str, float | None]) -> str:
    """`0.123 [0.120, 0.126]`."""
    n = number(found)
    return "–" if n is None else f"{n:.4g}"


def distinct(found: Found, key: str) -> list[str]:
    return list(dict.fromkeys(point[key] for point in found["points"]))


def frontier(found: Found, site: str, arch: str) -> list[Found]:
    """An architecture's points at one site, by L0."""
    points = [p for p in found["points"] if p["site"] == site and p["arch"] == arch]
    return sorted(points, key=lambda point: point["l0"]["value"])
