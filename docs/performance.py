"""The tables and the chart of the page on performance, from the JSON of `benchmarks/` alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
LABELS = {
    "saeworks": "saeworks, float32",
    "saeworks-bf16": "saeworks, bf16 selection",
    "sparsify-signum": "sparsify, Signum",
    "sparsify-adam": "sparsify, Adam",
    "saelens": "SAELens",
    "saelens-autocast": "SAELens, autocast",
    "dictionary_learning": "dictionary_learning",
}
PARTS = {
    "step": ("One TopK step", "tokens/s"),
    "pipeline": ("Language model to SAEs on disk", "layer-tokens/s"),
    "batchtopk": ("One BatchTopK step", "tokens/s"),
    "jumprelu": ("One JumpReLU step", "tokens/s"),
    "gated": ("One Gated step", "tokens/s"),
    "matryoshka": ("One Matryoshka step", "tokens/s"),
}
"""Parts of `peers.json` that have peers: title, unit."""
ROW, LEFT, RIGHT, BAR = 22, 170, 150, 380
"""Of the chart, in pixels: a bar's row, the labels, the numbers, the longest bar."""


def filled(markdown: str) -> str:
    """The page with its markers replaced."""
    parts = {"peers": peers, "stages": stages, "growth": growth, "gpu": gpu}
    for name, part in parts.items():
        path = RESULTS / f"{name}.json"
        shown = part(json.loads(path.read_text())) if path.exists() else "*Not measured yet.*"
        markdown = markdown.replace(f"<!-- {name} -->", shown)
    return markdown


def peers(found: Mapping[str, Any]) -> str:
    """The chart, then a table per part."""
    lines = [
        f"{found['processor']}, {found['threads']} threads, Python {found['python']}; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + ".",
        "",
        chart(found),
    ]
    for part, (title, unit) in PARTS.items():
        if part in found:
            lines += ["", f"### {title}", "", *_table(found[part], unit)]
    if "switch" in found:
        lines += ["", "### Switch, 16 experts", "", *_switch(found["switch"])]
    return "\n".join(lines)


def stages(found: Mapping[str, Any]) -> str:
    """A row for reading and steps in turns, and one for both together."""
    quiet = "" if found["quiet"] else " Other processes were at work: read the processor seconds."
    heads = ["", "waiting for rows", "drawing", "steps", "all", "processor seconds", "of the parts"]
    lines = [
        f"`{found['benchmark']}` on {found['processor']}, {found['threads']} threads; seconds for "
        f"{found['slots']:,} tokens.{quiet}",
        "",
        *_head(heads),
    ]
    for name, seconds in found["seconds"].items():
        parts = ("read", "draw", "step", "whole", "processor")
        cells = [f"{seconds[part]['median']:.2f}" for part in parts]
        share = f"{found['together_of_alone'][name]:.2f}×"
        lines.append(f"| {name} | {' | '.join([*cells, share])} |")
    return "\n".join(lines)


def _table(part: Mapping[str, Any], unit: str) -> list[str]:
    fastest = part["faster_than_the_fastest_peer"]
    sizes = ", ".join(
        f"{name} {part[key]:,}"
        for key, name in (
            ("d", "d"),
            ("width", "latents"),
            ("k", "k"),
            ("batch", "batch"),
            ("tokens", "tokens"),
        )
        if key in part
    )
    where = f"{part['model']} on {part['text']}, " if "model" in part else ""
    heads = ["", unit, "seconds", "range", "memory", *(f"{_label(o)} is" for o in fastest)]
    lines = [f"{where}{sizes}.{_busy(part)}", "", *_head(heads)]
    for name, result in part["results"].items():
        seconds, rate = result["seconds_per_step"], _rate(result)
        size = result.get("peak_rss_above_start_bytes", result.get("peak_rss_bytes", 0))
        cells = [_label(name), f"{rate:,.0f}", _digits(seconds["median"])]
        cells += [f"{_digits(seconds['min'])}–{_digits(seconds['max'])}", f"{size / 2**30:.2f} GiB"]
        for ours in fastest:
            ratio = part["faster_by"][ours].get(name)
            range_ = "" if ratio is None else f"{ratio['min']:.2f}–{ratio['max']:.2f}"
            cells.append("" if ratio is None else f"{ratio['of_medians']:.2f}× ({range_})")
        lines.append(_row(cells))
    return lines


def _switch(part: Mapping[str, Any]) -> list[str]:
    lines = _head(["", "tokens/s", "seconds", "times TopK"])
    for name, result in part["results"].items():
        cells = [name, f"{result['tokens_per_second']:,.0f}", _digits(result["median"])]
        lines.append(_row([*cells, f"{result['times_topk']:.2f}"]))
    return lines


def _busy(part: Mapping[str, Any]) -> str:
    """What to know of a part during which others worked."""
    return "" if part["quiet"] else " **Other processes were at work in some rounds.**"


def growth(found: Mapping[str, Any]) -> str:
    """A row per quantity: sizes, seconds and memory at the largest, exponents beside demanded."""
    lines = [
        f"{found['processor']}, one thread.",
        "",
        *_head(["what", "with", "from–to", "seconds", "memory", "exponent", "demanded"]),
    ]
    for name, row in found["rows"].items():
        if "left_out" in row:
            continue
        what, quantity = name.split("/")
        last = [run for run in row["runs"] if run["size"] == row["sizes"][-1]]
        seconds = min(run["seconds"] for run in last)
        size = max(run["bytes"] for run in last) / 2**20
        fit = row["seconds_exponent"]
        interval = "" if fit["low"] is None else f" ({fit['low']:.2f}–{fit['high']:.2f})"
        mark = " **faster than it must**" if row["too_fast"] else ""
        cells = [what, quantity, f"{row['sizes'][0]:,}–{row['sizes'][-1]:,}", _digits(seconds)]
        cells += [f"{size:,.0f} MiB", f"{fit['value']:.2f}{interval}{mark}"]
        lines.append(_row([*cells, f"{row['demanded']:g}: {row['why']}"]))
    return "\n".join(lines)


def gpu(found: Mapping[str, Any]) -> str:
    """Steps and whole trainings beside peers, and Switch beside TopK."""
    lines = [f"{found['device']}, torch {found['versions']['torch']}.", ""]
    lines += _head(["", "", "tokens/s", "seconds", "times ours in bf16"])
    parts = {"step at C": found.get("step", {}), "pipeline": found.get("pipeline", {})}
    wide = found.get("wide", {})
    parts |= {f"step, {key}": part for key, part in wide.items() if isinstance(part, dict)}
    for title, part in parts.items():
        results = part.get("results", {})
        own = results.get("saeworks-bf16", {}).get("seconds_per_step", {}).get("median")
        for name, result in results.items():
            if "failed" in result:
                continue
            seconds = result["seconds_per_step"]["median"]
            times = "" if own is None else f"{seconds / own:.2f}"
            rate = f"{_rate(result):,.0f}"
            lines.append(_row([title, _label(name), rate, _digits(seconds), times]))
    for size, part in found.get("switch", {}).items():
        for name, result in part.get("results", {}).items() if isinstance(part, dict) else ():
            rate = f"{result['tokens_per_second']:,.0f}"
            times = f"{result['times_topk']:.2f} × TopK"
            lines.append(_row([f"switch, {size}", name, rate, _digits(result["median"]), times]))
    return "\n".join(lines)


def chart(found: Mapping[str, Any]) -> str:
    """Horizontal bars of rates, a panel per part, ours in colour; the fastest is the longest."""
    out, y = [], 0
    for part, (title, unit) in PARTS.items():
        if part not in found:
            continue
        results = found[part]["results"]
        rates = {name: _rate(result) for name, result in results.items()}
        y += ROW
        out.append(f'<text x="0" y="{y}" font-weight="bold">{title} ({unit})</text>')
        for name, rate in sorted(rates.items(), key=lambda one: -one[1]):
            y += ROW
            length = BAR * rate / max(rates.values())
            colour = "#3f51b5" if name.startswith("saeworks") else "#9e9e9e"
            out += [
                f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{_label(name)}</text>',
                f'<rect x="{LEFT}" y="{y - 12}" width="{length:.1f}" height="15" fill="{colour}"/>',
                f'<text x="{LEFT + length + 6:.1f}" y="{y}">{rate:,.0f}</text>',
            ]
        y += ROW // 2
    width, height = LEFT + BAR + RIGHT, y + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Rates of saeworks and its peers; the tables below have the numbers" '
        'font-size="12" fill="currentColor" style="max-width: 100%">'
    )
    return "".join([head, *out, "</svg>"])


def _rate(result: Mapping[str, Any]) -> float:
    whole = result.get("layer_tokens_per_second")
    return float(result["tokens_per_second"] if whole is None else whole["median"])


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _digits(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
