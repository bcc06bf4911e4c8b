"""The tables of the study of Switch SAEs, below its verdicts."""

from statistics import fmean

from experiments.criteria import known
from experiments.runs import Found
from experiments.switch.parts import ALL
from experiments.switch.summary import summary
from experiments.tables import table


def markdown(found: Found, regime_runs: Found) -> str:
    """The verdicts, then everything that was measured."""
    main = found["runs"][0]
    total = sum(run["seconds"] for run in found["runs"]) / 60
    lines = [
        f"# Switch SAEs: {found['model']}",
        "",
        f"Made by `{found['command']}` from `experiments/switch/*.yaml`: {main['tokens']:,} "
        f"vectors per SAE in batches of {main['batch']:,} unless a part says otherwise, all SAEs "
        "of a seed on the same batches of one pass, AuxK in all of them. FVU on 100,000 held-out "
        f"tokens, ΔCE on {main['splice_tokens']:,} of {main['documents']} documents. Intervals "
        "are 95%: Student's t over seeds where there are three, a paired bootstrap over documents "
        "where there is one. In the frontiers k = 32 is the mean of the seeds; all of the third "
        "figure is seed 0.",
        "",
        "![Frontiers](frontiers.svg)",
        "",
        "![Operations and seconds](cost.svg)",
        "",
        "![Width, balance and batch](sweeps.svg)",
        "",
        "![Routers](routers.svg)",
        "",
        "## In which regime",
        "",
        regime(regime_runs),
        "",
        "## In short",
        "",
        *summary(found),
        "",
        "## Against the criteria",
        "",
        "Written before the runs: [criteria.md](../criteria.md), which also says how "
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
    return "\n".join(lines) + "\n"


def regime(runs: Found) -> str:
    """What the same comparison gives where each latent has thousands of tokens."""
    ratios = [
        fmean(
            saes[f"switch-w{256 * n}-k16-experts{n}"]["fvu"] / saes["topk-w256-k16"]["fvu"]
            for saes in runs.values()
        )
        for n in (2, 4, 8)
    ]
    below = ", ".join(f"{1 - ratio:.1%}" for ratio in ratios)
    return (
        "These SAEs had 60 to 480 tokens per latent; the paper's dense baseline had 33,000. Where "
        "each latent has thousands of tokens the comparison at equal FLOPs turns round: on the "
        f"embedded model (layer 3, k 16, 10.0M tokens, seeds {', '.join(runs)}) Switch SAEs of 2, "
        f"4, 8 experts of 256 latents have an FVU {below} *below* that of a TopK SAE of 256 "
        "([tokens_per_latent.md](../../tokens_per_latent/results/tokens_per_latent.md); the paper: "
        '10–21% below). So "not reproduced" below says what happens in short runs of wide SAEs, '
        "and nothing about the paper's regime."
    )


def claim_lines(claim: Found) -> list[str]:
    verdict = claim["verdict"].capitalize() or "No prediction"
    rows = []
    for part in claim["parts"]:
        counted = part["verdict"] if part["judged"] else f"beside: {part['verdict']}"
        rows.append((part["name"], part["shown"], part["remark"], counted))
    title = f"### {claim['number']}. {claim['title']}: {verdict}"
    return [title, "", *table(("", "ours", "paper", ""), rows), ""]


def not_run(found: Found) -> list[str]:
    """Runs that are planned and were not made, by their folder."""
    made = {(run["part"], run["seed"], run["folder"]) for run in found["runs"]}
    left = [run for run in ALL if (run.part, run.seed, run.folder.name) not in made]
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
    head = ("SAE", "site", "L0", "FVU", "ΔCE (nats)", "loss recovered", "live", "MFLOP", "s")
    for part in dict.fromkeys(arm["part"] for arm in found["arms"]):
        rows = []
        for arm in (arm for arm in found["arms"] if arm["part"] == part):
            timed = timing.get(arm["variant"]) if part in ("seeds", "sweeps") else None
            rows.append(
                [
                    *(arm["variant"], arm["site"], f"{arm['l0']['value']:.1f}"),
                    *(f"{known(arm[key]):.4f}" for key in ("fvu", "delta_ce")),
                    f"{arm['loss_recovered_zero']['value']:.4f}",
                    f"{arm['live_share']:.1%}",
                    f"{arm['flops'] / 1e6:.3g}",
                    "" if timed is None else f"{timed['seconds']:.3f}",
                ]
            )
        lines += [f"### {part}", "", *table(head, rows), ""]
    return lines


def load_table(found: Found) -> list[str]:
    head = ("part", "SAE", "site", "experts per token", "busiest", "unused", "entropy")
    rows = [
        [
            *(arm["part"], arm["variant"], arm["site"]),
            f"{arm['loads']['experts_per_token']:.2f}",
            f"{arm['loads']['busiest']:.3f}",
            f"{arm['loads']['unused']:.1f}",
            *(f"{arm['loads'][key]:.3f}" for key in ("load_entropy", "confidence")),
        ]
        for arm in found["arms"]
        if arm["loads"]
    ]
    return [
        "## Loads",
        "",
        "On 50,000 held-out tokens: experts per token; the busiest expert's share of the routed "
        "visits; experts without any; entropy of the shares over ln N; mean probability of the "
        "best expert. An expert that is always on is left out.",
        "",
        *table((*head, "confidence"), rows),
        "",
    ]


def geometry_table(found: Found) -> list[str]:
    """Share of duplicates at fixed width, experts × k, at three thresholds."""
    shares = {
        arm["variant"]: " / ".join(f"{arm['duplicates'][c]:.2%}" for c in ("0.7", "0.9", "0.99"))
        for arm in reversed(found["arms"])
        if arm["part"] in ("seeds", "sweeps")
    }
    rows = [
        [experts]
        + [
            shares[f"topk-w4096-k{k}" if experts == 1 else f"switch-w4096-k{k}-experts{experts}"]
            for k in (8, 16, 32, 64)
        ]
        for experts in (1, 4, 16, 64)
    ]
    return [
        "## Duplicates",
        "",
        "Share of live latents whose decoder row has another live one above a cosine of 0.7 / "
        "0.9 / 0.99, at M = 4,096.",
        "",
        *table(("experts", "k = 8", "16", "32", "64"), rows),
        "",
    ]
