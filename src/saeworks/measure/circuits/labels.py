"""What latents are called, of what was measured of their suite before."""

from pathlib import Path

from saeworks.files.access import is_file
from saeworks.results.names import CONCEPTS
from saeworks.results.result import Result
from saeworks.results.series import OF_LATENTS, LatentConcept


def concept_labels(results: Path) -> dict[tuple[str, int], str]:
    """(site, latent) → the known concept that it detects best, with its F1; empty of a suite that
    `saeworks concepts` has not measured.

    Raises:
        UserError: if the result is damaged.
    """
    file = results / f"{CONCEPTS}.json"
    if not is_file(file):
        return {}
    best: dict[tuple[str, int], LatentConcept] = {}
    for site, series in Result.read(file).series.items():
        for of_latent in (LatentConcept(**fields) for fields in series.get(OF_LATENTS, ())):
            known = best.get((site, of_latent.latent))
            if of_latent.f1 is not None and (known is None or of_latent.f1 > (known.f1 or 0)):
                best[site, of_latent.latent] = of_latent
    return {place: f"{detects.concept} (F1 {detects.f1:.2f})" for place, detects in best.items()}
