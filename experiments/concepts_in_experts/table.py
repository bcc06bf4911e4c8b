"""The tables of the concepts in experts, below its headline."""

from collections.abc import Mapping

from experiments.criteria import number
from experiments.runs import Found
from experiments.tables import table

HEADLINE = {"experts": 16, "k": 32}
CONTROL = "topk, same tokens"
SHOWN = ("concepts", "coded", "queen", "consistency", "duplicate_pairs", "places")


def shown(value: Mapping[str, float | None], digits: int = 2) -> str:
    n = number(value)
    return "–" if n is None else f"{n:.{digits}f}"


def markdown(found: Found) -> str:
    """The headline, what was measured, the verdicts, and what was looked at afterwards."""
    head = next(
        row
        for row in found["rows"]
        if row["kind"] == "switch" and {key: row[key] for key in HEADLINE} == HEADLINE
    )
    held = found["held_out"][0]
    counts = (f"{name} {'/'.join(map(str, n))}" for name, n in found["different"].items())
    lines = [
        "# Known concepts in different experts",
        "",
        "What is counted, the controls and the rules of the verdicts: "
        "[criteria.md](../criteria.md). "
        f"Made by `{found['command']}`: "
        f"{len(found['seeds'])} seeds; {held['tokens']:,} held-out tokens of "
        f"{held['documents']:,} documents; intervals: {found['intervals']}.",
        "",
        f"**With 16 experts and k = 32, {shown(head['queen'])} of the concepts coded at all are "
        "coded by different latents in different experts.**",
        "",
        reading(found),
        "",
        *measured(found),
        "",
        "## Verdicts",
        "",
        *verdicts(found),
        "",
        "## One latent (looked at afterwards, not in the criteria)",
        "",
        "Of the experts that code a concept, the share in which one and the same latent does, the "
        "one that codes it best over all tokens of the first half: where it is high, a dictionary "
        "could do with one latent although another is a little better here and there. A latent of "
        "a Switch SAE is in one expert, so its number is at most 1 / places.",
        "",
        *one_latent(found),
        "",
        "## By the threshold of φ",
        "",
        *by_threshold(found),
        "",
        "## Concepts",
        "",
        "Experts that code each concept, by seed (16 experts, k = 32; 0: coded in none, or not "
        "asked about in two):",
        "",
        ", ".join(counts),
        "",
    ]
    return "\n".join(lines)


def reading(found: Found) -> str:
    """The verdicts in words."""
    verdicts = found["verdicts"]
    anew = sum(v["learnt_anew"] == "yes" for v in verdicts)
    turned = sum(v["other_directions"] == "yes" for v in verdicts)
    return (
        f"More often than a TopK SAE of the same width does on the same tokens: in {anew} of "
        f"{len(verdicts)} settings; there, too, another latent is often the best one. In "
        f"directions less alike than the TopK SAE's: in {turned} of {len(verdicts)}. No pair of "
        "experts has near duplicates for a concept unless the column says so."
    )


def measured(found: Found) -> list[str]:
    head = ("experts", "k", "SAE", "concepts", "coded", "different latents", "cosine")
    rows = [
        [row["experts"], row["k"], row["kind"]]
        + [shown(row[name], 0 if name in ("concepts", "coded") else 2) for name in SHOWN]
        for row in found["rows"]
    ]
    return table((*head, "duplicate pairs", "places"), rows)


def verdicts(found: Found) -> list[str]:
    head = ("experts", "k", "Switch − TopK on the same tokens", "learnt anew", "mean cosine")
    rows = [
        [
            *(v["experts"], v["k"], shown(v["difference"]), v["learnt_anew"]),
            *(shown(v[key]) for key in ("cosine", "cosine_of_control", "cosine_difference")),
            v["other_directions"],
        ]
        for v in found["verdicts"]
    ]
    return table((*head, "of the control", "difference", "other directions"), rows)


def one_latent(found: Found) -> list[str]:
    of = {(row["experts"], row["k"], row["kind"]): row["one_latent"] for row in found["rows"]}
    rows = [
        [f"{experts}, {k}", *(shown(of[experts, k, kind]) for kind in ("switch", CONTROL))]
        for experts, k in dict.fromkeys((row["experts"], row["k"]) for row in found["rows"])
    ]
    return table(("experts, k", "Switch", "TopK on the same tokens"), rows)


def by_threshold(found: Found) -> list[str]:
    rows = [
        [f"{row['kind']}, N = {row['experts']}, k = {row['k']}"]
        + [shown(value) for value in row["by_threshold"].values()]
        for row in found["rows"]
    ]
    return table(("SAE", *found["rows"][0]["by_threshold"]), rows)
