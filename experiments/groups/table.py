"""The tables of the study of groups, below its verdicts."""

from experiments.criteria import known
from experiments.groups.variants import BASELINE
from experiments.groups.verdicts import verdicts
from experiments.runs import Found
from experiments.tables import layer, table

METRICS = {"fvu": "FVU", "delta_ce": "ΔCE (nats)"}


def markdown(found: Found, setting: str) -> str:
    """The verdicts on the criteria, then the tables."""
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [
        f"# Groups: {found['model']}",
        "",
        f"Made by `{found['command']}` from `experiments/groups/{setting}.yaml`; seeds {seeds}, "
        f"{found['tokens']:,} vectors per SAE, all SAEs of a seed on the same batches of one pass. "
        f"Intervals: {found['intervals']}. Ĝ = {found['chosen']} of {len(found['sites'])} layers.",
        "",
        f"![Per layer, against cost, transfer]({setting}.svg)",
        "",
        "## Against the criteria",
        "",
        "Written before the runs: [criteria.md](../criteria.md).",
        "",
        *(f"{i}. {text}" for i, text in enumerate(verdicts(found), 1)),
        "",
        *(line for metric in METRICS for line in per_layer(found, metric)),
        *aligned(found),
        *groups_of(found),
        f"saeworks {found['versions']['saeworks']}, torch {found['versions']['torch']}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} cores; training took "
        f"{' + '.join(f'{s / 60:.0f}' for s in found['seconds'])} minutes, other jobs on the "
        "machine.",
    ]
    return "\n".join(lines) + "\n"


def per_layer(found: Found, metric: str) -> list[str]:
    sites = found["sites"]
    some = next(iter(found["variants"].values()))
    baseline = [some["sites"][site][metric]["baseline"] for site in sites]
    baseline.append(some["mean"][metric]["baseline"])
    rows = [[BASELINE, *(f"{n['value']:.4g}" for n in baseline), ""]]
    for name, entry in found["variants"].items():
        cells = [
            f"{entry['sites'][s][metric]['suite']['value']:.4g} "
            f"({entry['sites'][s][metric]['difference']['value']:+.3f})"
            for s in sites
        ]
        mean = entry["mean"][metric]
        cells += [f"{mean['suite']['value']:.4g}", f"{known(mean['difference']):+.4f}"]
        rows.append([name, *cells])
    return [
        f"## {METRICS[metric]} per layer",
        "",
        "Value (difference from one SAE per layer).",
        "",
        *table(["variant", *sites, "mean", "difference of the mean"], rows),
        "",
    ]


def groups_of(found: Found) -> list[str]:
    rows = []
    for name, entry in found["variants"].items():
        if len(entry["groups"]) == len(found["sites"]):
            continue
        groups = "; ".join(", ".join(map(layer, sites)) for sites in entry["groups"].values())
        amad = entry["grouping"].get("amad")
        rows.append([name, groups, "" if amad is None else f"{amad:.3f}"])
    return ["## Which layers share an SAE", "", *table(["variant", "groups", "AMAD"], rows), ""]


def aligned(found: Found) -> list[str]:
    head = ("variant", "MMCS", "other seed", "MMCO", "other seed", "sites where a latent lives")
    rows = []
    for name, entry in found["alignment"].items():
        lives = "; ".join(
            f"{spread['sites']}: {', '.join(map(str, spread['latents']))}"
            for spread in entry["lives_at"][: len(found["variants"][name]["groups"])]
        )
        cells = [entry.get(k) for k in ("mmcs", "mmcs_seeds", "mmco", "mmco_seeds")]
        rows.append([name, *("–" if n is None else f"{n:.3f}" for n in cells), lives])
    return [
        "## How the dictionaries correspond",
        "",
        "MMCS and MMCO: mean over the baseline's live latents of the largest cosine of decoder "
        "directions, and of the largest Jaccard index of firing sets, with any latent of the "
        "variant's SAE; beside them the same with the baseline of another seed. Last, for each "
        "group: its sites, and how many latents live at one of them, at two, and so on.",
        "",
        *table(head, rows),
        "",
    ]
