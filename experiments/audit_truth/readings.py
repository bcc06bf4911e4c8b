"""What the readings of criteria.md read, and whether it is there."""

from collections.abc import Sequence

import numpy as np

from experiments.runs import Found

AGREES, SHARE_OF_FVU, FOUND = 0.25, 0.1, 0.8


def numbers(found: Found) -> dict[str, float]:
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


def judged(rows: Sequence[Found]) -> list[Found]:
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
