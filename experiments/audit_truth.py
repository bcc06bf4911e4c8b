"""The audit beside the truth: what its parts find, and what they take for something else.

    python experiments/audit_truth.py           # everything
    python experiments/audit_truth.py table     # the tables again, from results/audit_truth.json

Activations are x = Σ w_i y_i + g: of 256 unit directions y in 64 dimensions six are active at a
time, and g is a dense part. An SAE is made by hand, so that every part of its error is known:

    missing       Σ w_i y_i over the features that it has no latent for
    dense         g: isotropic noise, noise of rank 8, or a curve (four harmonics of one angle)
    scale         latents that give a fixed share of the right activation
    coefficients  random factors on them, or crosstalk (what the other features and g add to a
                  linear readout; with g, the introduced error is correlated with the dense part)
    choice        a share of active latents replaced by the most similar ones, or a TopK of the
                  linear readout, which errs in choice and coefficients
    directions    decoder rows turned

The last four are the introduced error. Each part's truth is its power in shares of the variance of
x; where there are several, they are added in this order, and what their sum lacks of the FVU (their
correlations) is given as `cross`.

Readings, and what counts as found (written before the first run). A reading says that a number of
the audit is the power of a part. In one setting it agrees where it is off by at most a quarter of
the truth or a tenth of the FVU, whichever is more. A setting has a part if its power is above a
tenth of the FVU. A reading is *found* if it agrees in at least four fifths of the settings that
have the part (hits) and in at least four fifths of those that do not (no false alarm); *half found*
if only in one of both; else *not found*. It is *confused with* what is wrong in the settings where
it raises a false alarm. Only point estimates are judged: 40,000 tokens, a quarter of them to
measure on.

    1 FVU_nl is the introduced error          2 the linear share is missing + dense
    3 σ_r of the synthetic test, the same     4 σ_a, the same
    5 scale is scale                          6 coefficients, less chance, are coefficients
    7 choice is choice                        8 directions are directions
    9 rest is missing + dense                10 FVU_nl at α* is the introduced error less scale
   11 FVU_nl with each latent rescaled, the same

Reading 12, that directions beyond what a factor for each latent mends are directions, and the last
column of the probes, came after the first run, which showed that reading 8 counts shrinkage; the
audit's own `directions` has been that since.

Two more SAEs, trained on such activations, are shown without being judged: their truth depends on
which latent is taken for which feature.

Writes results/audit_truth.json and results/audit_truth.md, in 25 minutes on one thread of a busy
machine.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeworks.dictionary.base import (
    SAE,
    Batch,
    Context,
    SparseCode,
)
from saeworks.dictionary.registry import build_sae
from saeworks.measure.audit import folds
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.engine import Reconstruction, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.synthetic import SyntheticTest

HERE = Path(__file__).parent
TOKENS, DOCUMENT, D, F, K = 40_000, 100, 64, 256, 6
RANK = 8
PARTS = ("missing", "dense", "scale", "coefficients", "choice", "directions")
INTRODUCED = PARTS[2:]
AGREES, SHARE_OF_FVU, FOUND = 0.25, 0.1, 0.8


@dataclass(frozen=True)
class Setting:
    """One SAE and its faults; those not named are absent.

    Attributes:
        missing: share of the features without a latent.
        dense: kind of g; `power` is its share of the power of the features.
        scale: the activation's factor at the latents, uniform between these.
        coefficients: standard deviation of the random factors.
        choice: share of the active latents that are replaced.
        encoder: codes are a TopK of the linear readout.
        directions: norm of what is added to the unit decoder rows before they are unit again.
    """

    name: str
    missing: float = 0.0
    dense: str = ""
    power: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    coefficients: float = 0.0
    crosstalk: bool = False
    choice: float = 0.0
    encoder: bool = False
    directions: float = 0.0


SETTINGS = (
    Setting("missing, few", missing=0.1),
    Setting("missing, many", missing=0.3),
    Setting("noise, weak", dense="noise", power=0.05),
    Setting("noise, strong", dense="noise", power=0.25),
    Setting("noise of rank 8", dense="low-rank", power=0.15),
    Setting("curve, weak", dense="curve", power=0.05),
    Setting("curve, strong", dense="curve", power=0.25),
    Setting("shrinkage, weak", scale=(0.8, 0.8)),
    Setting("shrinkage, strong", scale=(0.6, 0.6)),
    Setting("shrinkage, uneven", scale=(0.4, 1.0)),
    Setting("random factors, weak", coefficients=0.2),
    Setting("random factors, strong", coefficients=0.4),
    Setting("crosstalk", crosstalk=True),
    Setting("wrong choice, few", choice=0.1),
    Setting("wrong choice, many", choice=0.3),
    Setting("directions, weak", directions=0.2),
    Setting("directions, strong", directions=0.5),
    Setting("TopK encoder", encoder=True),
    Setting("noise and crosstalk", dense="noise", power=0.15, crosstalk=True),
    Setting("curve and crosstalk", dense="curve", power=0.15, crosstalk=True),
    Setting("missing and crosstalk", missing=0.2, crosstalk=True),
    Setting("missing and shrinkage", missing=0.2, scale=(0.7, 0.7)),
    Setting("noise and shrinkage", dense="noise", power=0.15, scale=(0.7, 0.7)),
    Setting("missing and directions", missing=0.2, directions=0.3),
    Setting("noise and TopK encoder", dense="noise", power=0.1, encoder=True),
    Setting(
        "everything",
        missing=0.15,
        dense="curve",
        power=0.1,
        scale=(0.7, 0.9),
        coefficients=0.2,
        choice=0.1,
        directions=0.2,
    ),
)


@dataclass(frozen=True)
class World:
    """Rows of which everything is known.

    Attributes:
        y_FD: directions.
        w_NF: the features' activations.
        g_ND: the dense part.
    """

    y_FD: Tensor
    w_NF: Tensor
    g_ND: Tensor

    @property
    def x_ND(self) -> Tensor:
        return self.w_NF @ self.y_FD + self.g_ND


def world(setting: Setting, seed: int) -> World:
    random = torch.Generator().manual_seed(seed)
    y_FD = normalize(torch.randn(F, D, generator=random), dim=1)
    active_NK = torch.rand(TOKENS, F, generator=random).topk(K, dim=1).indices
    w_NK = torch.rand(TOKENS, K, generator=random) + 0.5
    w_NF = torch.zeros(TOKENS, F).scatter_(1, active_NK, w_NK)
    dense = dense_part(setting.dense, random)
    strength = (setting.power * variance(w_NF @ y_FD)) ** 0.5
    return World(y_FD, w_NF, strength * dense)


def dense_part(kind: str, random: torch.Generator) -> Tensor:
    """g of power 1."""
    if not kind:
        return torch.zeros(TOKENS, D)
    if kind == "noise":
        return torch.randn(TOKENS, D, generator=random) / D**0.5
    basis_DR = torch.linalg.qr(torch.randn(D, RANK, generator=random)).Q
    if kind == "low-rank":
        return torch.randn(TOKENS, RANK, generator=random) @ basis_DR.T / RANK**0.5
    angle_N1 = 2 * torch.pi * torch.rand(TOKENS, 1, generator=random)
    harmonics_NR = angle_N1 * torch.arange(1, RANK // 2 + 1)
    curve_NR = torch.cat([harmonics_NR.cos(), harmonics_NR.sin()], dim=1)
    return curve_NR @ basis_DR.T / (RANK / 2) ** 0.5


def variance(v_ND: Tensor) -> float:
    """tr Var."""
    return float((v_ND - v_ND.mean(dim=0)).double().square().sum()) / len(v_ND)


@dataclass(frozen=True)
class Made:
    """An SAE and its codes, with the power of each part of its error in shares of tr Var x."""

    sae: SAE
    f_NM: Tensor
    truth: dict[str, float]


def by_hand(setting: Setting, at: World, seed: int) -> Made:
    """The SAE of a setting, its faults put in one after another."""
    random = torch.Generator().manual_seed(seed + 1000)
    learned_M = torch.randperm(F, generator=random)[round(setting.missing * F) :].sort().values
    y_MD, right_NM = at.y_FD[learned_M], at.w_NF[:, learned_M]
    low, high = setting.scale
    scaled_NM = right_NM * (low + (high - low) * torch.rand(len(y_MD), generator=random))
    on_NM, readout_NM = right_NM > 0, (at.x_ND @ y_MD.T).relu()
    factor_NM = 1 + setting.coefficients * torch.randn(right_NM.shape, generator=random)
    coefficients_NM = (scaled_NM * factor_NM).relu()
    if setting.crosstalk:
        coefficients_NM = torch.where(on_NM, readout_NM, 0.0)
    f_NM = replaced(coefficients_NM, y_MD, setting.choice, random)
    if setting.encoder:
        top = readout_NM.topk(K, dim=1)
        f_NM = torch.zeros_like(readout_NM).scatter_(1, top.indices, top.values)
        coefficients_NM = torch.where(on_NM & (f_NM > 0), f_NM, right_NM)
    turned_MD = torch.randn(y_MD.shape, generator=random) * setting.directions / D**0.5
    decoder_MD = normalize(y_MD + turned_MD, dim=1)
    parts = {
        "missing": at.w_NF @ at.y_FD - right_NM @ y_MD,
        "dense": at.g_ND,
        "scale": (right_NM - scaled_NM) @ y_MD,
        "coefficients": (scaled_NM - coefficients_NM) @ y_MD,
        "choice": (coefficients_NM - f_NM) @ y_MD,
        "directions": f_NM @ (y_MD - decoder_MD),
    }
    return Made(sae_of(decoder_MD, at.x_ND, f_NM), f_NM, powers(parts, at.x_ND))


def replaced(f_NM: Tensor, y_MD: Tensor, share: float, random: torch.Generator) -> Tensor:
    """The code with a share of its active latents replaced by their nearest neighbours."""
    if not share:
        return f_NM
    nearest_M = (y_MD @ y_MD.T).fill_diagonal_(-1.0).argmax(dim=1)
    swapped_NM = torch.where(torch.rand(f_NM.shape, generator=random) < share, f_NM, 0.0)
    return (f_NM - swapped_NM).index_add(1, nearest_M, swapped_NM)


def sae_of(decoder_MD: Tensor, x_ND: Tensor, f_NM: Tensor) -> SAE:
    """With the bias that centres the error."""
    sae = build_sae("topk", d=D, width=len(decoder_MD), k=K)
    with torch.no_grad():
        sae.w_dec.copy_(decoder_MD)
        sae.b_dec.copy_((x_ND - f_NM @ decoder_MD).mean(dim=0))
    return sae


def powers(parts: dict[str, Tensor], x_ND: Tensor) -> dict[str, float]:
    total = variance(x_ND)
    found = {name: variance(part) / total for name, part in parts.items()}
    introduced_ND = sum((parts[name] for name in INTRODUCED), torch.zeros_like(x_ND))
    not_scale_ND = introduced_ND - parts["scale"]
    fvu = variance(sum(parts.values(), torch.zeros_like(x_ND))) / total
    return found | {
        "missing + dense": variance(parts["missing"] + parts["dense"]) / total,
        "introduced": variance(introduced_ND) / total,
        "introduced less scale": variance(not_scale_ND) / total,
        "fvu": fvu,
        "cross": fvu - sum(found.values()),
    }


def trained(width: int, at: World, seed: int) -> Made:
    """A TopK SAE trained on the rows. A feature is learned where a latent's direction has a cosine
    of at least .9 with it; that latent is taken for it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae, x_ND = build_sae("topk", d=D, width=width, k=K), at.x_ND
        mean_D, scale = x_ND.mean(dim=0), (variance(x_ND) / D) ** 0.5
        rows_ND = (x_ND - mean_D) / scale
        sae.initialise(rows_ND[:4096], torch.Generator().manual_seed(seed))
        optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
        nothing = Context(torch.zeros(0, dtype=torch.long), 0.0)
        for step in range(3000):
            optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, (3000 - step) / 1000)
            batch_BD = rows_ND[torch.randint(len(rows_ND), (1024,))]
            loss = sum(sae.step(Batch(batch_BD, batch_BD), nothing).loss_terms.values())
            optimiser.zero_grad()
            torch.as_tensor(loss).backward()
            optimiser.step()
            with torch.no_grad():
                sae.w_dec.copy_(normalize(sae.w_dec, dim=1))
    with torch.no_grad():
        sae = sae.folded(mean_D, torch.tensor(scale))
        f_NM = sae.encode(x_ND)
        weight_M1 = sae.w_dec.norm(dim=1, keepdim=True)
        cosine_FM = at.y_FD @ (sae.w_dec / weight_M1).T
        best_F, latent_F = cosine_FM.max(dim=1)
        learned_F = best_F >= 0.9
        own_NF = torch.where(learned_F, (f_NM * weight_M1[:, 0])[:, latent_F], 0.0)
        right_NF = at.w_NF * learned_F
        matched_FD = (sae.w_dec / weight_M1)[latent_F]
        others_ND = f_NM @ sae.w_dec - own_NF @ matched_FD
        agreed_NF = torch.where((own_NF > 0) & (right_NF > 0), own_NF, right_NF)
        parts = {
            "missing": (at.w_NF * ~learned_F) @ at.y_FD,
            "dense": at.g_ND,
            "scale": torch.zeros_like(x_ND),
            "coefficients": (right_NF - agreed_NF) @ at.y_FD,
            "choice": (agreed_NF - own_NF) @ at.y_FD - others_ND,
            "directions": own_NF @ (at.y_FD - matched_FD),
        }
    truth = powers(parts, x_ND) | {"learned": float(learned_F.float().mean())}
    return Made(sae, f_NM, truth)


def measured(place: Place) -> Sequence[Measurement]:
    tokens = 4096
    return [
        *base(place),
        SyntheticTest(place),
        Pursuit(place, tokens),
        Attribution(place),
        MlpProbe(place, 4 * tokens),
    ]


@torch.no_grad()
def audited(made: Made, x_ND: Tensor) -> dict[str, Any]:
    """Section → metric → [value, low, high]."""
    document_N = torch.arange(TOKENS) // DOCUMENT
    fold_R = folds.assign(torch.bincount(document_N).numpy(), 0)
    place = Place(D, len(fold_R), x_ND.device, 0, codes=16384)
    site = SiteAudit("x", place, ["sae"], measured)
    fold_N = torch.from_numpy(fold_R)[document_N]
    for phase in range(3):
        for rows_n in torch.split((fold_N == phase).nonzero()[:, 0], 4096):
            through = {"sae": through_code(made, made.f_NM[rows_n])}
            site.add(phase, x_ND[rows_n], Tokens(document_N[rows_n]), through)
        site.finish(phase)
    return {
        section: {key: [v.value, v.low, v.high] for key, v in values.items()}
        for section, values in site.saes["sae"].values(200, 0).items()
    }


def through_code(made: Made, f_NM: Tensor) -> Callable[[Tensor], Reconstruction]:
    top = f_NM.topk(K, dim=1)
    code = SparseCode(top.indices, top.values, made.sae.width, (len(f_NM),))
    return lambda x_ND: Reconstruction(made.sae.decode(code), made.sae, code)


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """What the readings read, in shares of the variance of x."""

    def at(section: str, metric: str) -> float:
        value = found[section][metric][0]
        return float("nan") if value is None else float(value)

    fvu, nonlinear = at("split", "fvu"), at("split", "fvu_nonlinear")
    chance = at("attribution", "coefficients_chance")
    return {
        "fvu": fvu,
        "linear": fvu - nonlinear,
        "nonlinear": nonlinear,
        "σ_a": at("synthetic", "activation_noise"),
        "σ_r": at("synthetic", "reconstruction_noise"),
        "scale": at("attribution", "scale"),
        "coefficients": at("attribution", "coefficients") - chance,
        "chance": chance,
        "choice": at("attribution", "choice"),
        "choice chance": at("attribution", "choice_chance"),
        "rest": at("attribution", "rest"),
        "directions": at("pursuit", "fvu_encoder") - at("pursuit", "fvu_decoder"),
        "beyond scale": at("pursuit", "fvu_per_latent") - at("pursuit", "fvu_decoder"),
        "nonlinear at α*": at("shrinkage", "fvu_nonlinear_scaled"),
        "nonlinear per latent": at("shrinkage", "fvu_nonlinear_per_latent"),
        "R² of e": at("vector", "r2_error"),
        "R² of ‖e‖²": at("norm", "r2_error_norm"),
        "R² of u (MLP)": at("mlp", "r2_u_best"),
        "artefact": at("shrinkage", "artefact_per_latent"),
        "linear gone": 1
        - (at("shrinkage", "fvu_per_latent") - at("shrinkage", "fvu_nonlinear_per_latent"))
        / (fvu - nonlinear),
    }


READINGS = (
    ("FVU_nl is the introduced error", "nonlinear", "introduced"),
    ("the linear share is missing + dense", "linear", "missing + dense"),
    ("σ_r is the introduced error", "σ_r", "introduced"),
    ("σ_a is missing + dense", "σ_a", "missing + dense"),
    ("scale is scale", "scale", "scale"),
    ("coefficients, less chance, are coefficients", "coefficients", "coefficients"),
    ("choice is choice", "choice", "choice"),
    ("directions are directions", "directions", "directions"),
    ("rest is missing + dense", "rest", "missing + dense"),
    ("FVU_nl at α* is the introduced error less scale", "nonlinear at α*", "introduced less scale"),
    (
        "FVU_nl with each latent rescaled is the introduced error less scale",
        "nonlinear per latent",
        "introduced less scale",
    ),
    ("directions beyond scale are directions (after the first run)", "beyond scale", "directions"),
)


def judged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each reading over the settings, as the docstring says."""
    found = []
    for text, number, part in READINGS:
        hits, quiet = list[bool](), list[bool]()
        alarms, misses = list[str](), list[str]()
        for row in rows:
            fvu, truth, seen = row["truth"]["fvu"], row["truth"][part], row["audit"][number]
            off = abs(seen - truth)
            agrees = bool(off <= max(AGREES * truth, SHARE_OF_FVU * fvu))
            has = truth > SHARE_OF_FVU * fvu
            (hits if has else quiet).append(agrees)
            if not agrees:
                (misses if has else alarms).append(row["name"])
        good = [bool(side) and float(np.mean(side)) >= FOUND for side in (hits, quiet)]
        verdict = {2: "found", 1: "half found", 0: "not found"}[sum(good)]
        found.append(
            {
                "reading": text,
                "number": number,
                "part": part,
                "verdict": verdict,
                "hits": [sum(hits), len(hits)],
                "quiet": [sum(quiet), len(quiet)],
                "misses": misses,
                "alarms": alarms,
            }
        )
    return found


WORDS = """
## In plain words

Written after the run. Power is always a share of the variance of x. The codes of these SAEs are
given, not read from x; a real SAE's are a function of x, and so is its u.

**What it finds.** A wrong scale of latents (all 5 settings, to a few percent). Random factors on
coefficients, by refitting them. Turned decoder rows (all 3), once what a factor for each latent
mends is taken off (`beyond scale`; the first definition counted shrinkage as directions). Missing
features and dense part *together*: they stay in `rest`, 7 to 11% low, because least squares on six
of 64 dimensions mends that much of anything (the column `chance`). Isotropic dense noise, by the
synthetic test, to a few percent (0.046 of 0.048, 0.198 of 0.200).

**What it confuses.**

- *FVU_nl with the introduced error.* SAEs that introduce nothing, with features missing or a dense
  part beside, have 29 to 93% of their error in FVU_nl: their codes are right, and the error is
  simply no linear function of x. Shrinkage, which is introduced, has none in it. Only errors that
  are no function of x (random factors, wrong choices at random) are nearly all there.
- *The linear share with missing features and dense part.* It is 6 to 23% of their power for
  isotropic noise, 31 to 46% for missing features, 33 to 71% for a curve: it says how far the
  covariance of what is missing differs from that of x, not how much is missing. All of shrinkage
  is linear.
- *σ_a and σ_r of the synthetic test* with anything but isotropic noise: in 17 of 26 settings no
  noise gives the numbers (null, judged as a miss), and otherwise crosstalk and wrong choices pass
  for activation noise.
- *Noise in the codes with shrinkage.* Latents that are read with crosstalk, or chosen wrongly, look
  too large; the best factor for them is below 1 though nothing was shrunk. For a TopK of a linear
  readout half of the error goes that way: a factor mends it, and did not cause it.
- *Wrong choices with coefficients and scale.* Pursuit finds 60% of the power of choices that are
  wrong at random, 40% of a TopK's, and none where there are none; refitted coefficients and factors
  take the rest, and with many of them a part passes for directions. `choice chance`, what choosing
  anew mends of noise in the place of the refit's error, is 9 to 34% of what it mends where choices
  are wrong.
- *Wrong directions with missing features and dense part.* They are all in `rest`, too; only
  `directions`, beside it, tells them apart.
- *Missing features with a dense part.* Nothing here separates them. A predictable ‖e‖², and a u
  that an MLP predicts, speak against isotropic noise; a curve has them as missing features do.
- *R² ratios where little is left.* With uneven shrinkage alone `artefact` is 0.009, because what is
  left after the mending is as linear as before; `linear gone` says that all of the linear error
  went. Where R² of e is near 0, both are ratios of noise.

The trained SAEs show a limit of the question, too: with half as many latents as features, latents
stand for several features, the truth's parts cancel (cross −0.66), and no attribution is right.
"""


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str], which: str) -> list[str]:
    lines = ["| setting | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = [f"{row[which][column]:.3f}" for column in columns]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines


def markdown(
    rows: Sequence[dict[str, Any]], extra: Sequence[dict[str, Any]], readings: list[dict[str, Any]]
) -> str:
    truths = (*PARTS, "introduced", "cross", "fvu")
    split = ("linear", "nonlinear", "nonlinear at α*", "nonlinear per latent", "σ_a", "σ_r")
    shares = ("scale", "coefficients", "chance", "choice", "choice chance", "rest", "directions")
    shares = (*shares, "beyond scale")
    probes = ("R² of e", "R² of ‖e‖²", "R² of u (MLP)", "artefact", "linear gone")
    lines = [
        "# The audit beside the truth",
        "",
        "`python experiments/audit_truth.py`. Settings, readings and criteria are in the script's",
        "docstring, written before the run. All numbers but R², `artefact` and `linear gone` (the",
        "shares of R² of e and of the linear error that go when each latent is rescaled) are",
        "shares of the variance of x; `nan`: the audit says that no noise gives such numbers.",
        "",
        *WORDS.strip().split("\n"),
        "",
        "## Readings",
        "",
        "| reading | verdict | agrees where the part is there | where it is not | misses | false "
        "alarms |",
        "|---|---|---:|---:|---|---|",
    ]
    for one in readings:
        hits, quiet = ("{} of {}".format(*one[key]) for key in ("hits", "quiet"))
        lines.append(
            f"| {one['reading']} | **{one['verdict']}** | {hits} | {quiet} | "
            f"{'; '.join(one['misses']) or '–'} | {'; '.join(one['alarms']) or '–'} |"
        )
    everything = [*rows, *extra]
    for title, columns, which in (
        ("The truth", truths, "truth"),
        ("The audit: linear and nonlinear", split, "audit"),
        ("The audit: attribution", shares, "audit"),
        ("The audit: probes", probes, "audit"),
    ):
        lines += ["", f"## {title}", "", *table(everything, columns, which)]
    return "\n".join(lines) + "\n"


def main() -> None:
    results = HERE / "results"
    if sys.argv[1:] == ["table"]:
        data = json.loads((results / "audit_truth.json").read_text())
        write(results, data["settings"], data["trained"])
        return
    start, rows, extra = time.perf_counter(), [], []
    for number, setting in enumerate(SETTINGS):
        at = world(setting, number)
        made = by_hand(setting, at, number)
        found = audited(made, at.x_ND)
        row = {"name": setting.name, "setting": asdict(setting), "truth": made.truth}
        rows.append(row | {"audit": numbers(found), "sections": found})
        print(f"{setting.name}: {time.perf_counter() - start:.0f} s", flush=True)
    for width in (F, F // 2):
        at = world(Setting("", dense="noise", power=0.1), 99)
        made = trained(width, at, 99)
        found = audited(made, at.x_ND)
        row = {"name": f"trained TopK, M = {width}", "truth": made.truth}
        extra.append(row | {"audit": numbers(found), "sections": found})
        print(f"{row['name']}: {time.perf_counter() - start:.0f} s", flush=True)
    write(results, rows, extra)


def write(results: Path, rows: list[dict[str, Any]], extra: list[dict[str, Any]]) -> None:
    """The tables and what they are made of."""
    for row in (*rows, *extra):
        row["audit"] = numbers(row["sections"])
    readings = judged(rows)
    data = {"readings": readings, "settings": rows, "trained": extra}
    text = json.dumps(without_nan(data), indent=1, ensure_ascii=False)
    (results / "audit_truth.json").write_text(text + "\n")
    (results / "audit_truth.md").write_text(markdown(rows, extra, readings))
    for one in readings:
        print(f"{one['reading']}: {one['verdict']}")


def without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


if __name__ == "__main__":
    main()
