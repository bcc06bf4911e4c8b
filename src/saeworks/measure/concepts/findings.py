"""What the numbers of known concepts say, in sentences."""

from collections.abc import Iterator, Mapping, Sequence

from saeworks.measure.concepts.values import (
    ABSORPTION,
    BEST_F1,
    CODING_EXPERTS,
    COVERAGE,
    DECISIVE,
    DENSE_F1,
    EXPERT_COSINE,
    FOUND,
    MISSED,
    NEEDED,
    ONE_EXPERT,
    SAME_LATENT,
    SPLIT_SHARE,
)
from saeworks.results.metric import Value
from saeworks.results.names import CONCEPTS
from saeworks.results.words import decimal, percent

Values = Mapping[str, Mapping[str, Value]]

_RIVALS = {
    "neuron": "MLP neurons",
    "direction": "PCA directions",
    "random": "random directions",
}


def findings(values: Values, ks: Sequence[int], left_out: int) -> tuple[str, ...]:
    """Sentences on one suite, the most important first.

    Args:
        values: site → metric → value.
        ks: latents of the sparse probes.
        left_out: concepts with too few tokens.
    """
    return (
        *_coverage(values),
        *_rivals(values),
        *_probes(values, ks),
        *_absorption(values),
        *_splitting(values),
        *_experts(values),
        *_groups(values),
        *_limits(values, left_out),
    )


def _coverage(values: Values) -> Iterator[str]:
    known = {site: of[COVERAGE] for site, of in values.items() if of[COVERAGE].value is not None}
    if not known:
        return
    best = max(known, key=lambda site: known[site].value or 0)
    worst = min(known, key=lambda site: known[site].value or 0)
    concepts = values[best][CONCEPTS].value or 0
    other = "" if best == worst else f", at {worst} {percent(known[worst])}"
    yield (
        f"A single latent finds {percent(known[best])} of {concepts:.0f} known concepts at {best}"
        f"{other} (F1 at least {FOUND} on documents on which nothing was chosen)."
    )


def _rivals(values: Values) -> Iterator[str]:
    for name, words in _RIVALS.items():
        pairs = {
            site: (of[COVERAGE], of[f"{name}_coverage"])
            for site, of in values.items()
            if f"{name}_coverage" in of
        }
        if not pairs:
            continue
        above = sum(_beyond(a, b) for a, b in pairs.values())
        below = sum(_beyond(b, a) for a, b in pairs.values())
        site = max(pairs, key=lambda site: pairs[site][0].value or 0)
        latents, other = pairs[site]
        yield (
            f"Latents find more concepts than {words} at {above} of {len(pairs)} sites, fewer at "
            f"{below} (95% intervals apart); at {site} {percent(latents)} against {percent(other)}."
        )


def _probes(values: Values, ks: Sequence[int]) -> Iterator[str]:
    most = max(ks)
    yield (
        f"Mean F1, over sites: best latent {_mean(values, BEST_F1):.2f}, probe on {most} "
        f"latents {_mean(values, f'probe_{most}_f1'):.2f}, probe on the whole activation "
        f"{_mean(values, DENSE_F1):.2f}."
    )


def _absorption(values: Values) -> Iterator[str]:
    known = {s: of[ABSORPTION] for s, of in values.items() if of[ABSORPTION].value is not None}
    if not known:
        yield (
            "The probe on the whole activation finds no concept, so nothing is said of absorption "
            "and splitting."
        )
        return
    worst = max(known, key=lambda site: known[site].value or 0)
    of = values[worst]
    yield (
        f"Absorption is largest at {worst}: the main latents are silent on {percent(of[MISSED])} "
        f"of the tokens on which the dense probe is right; on {percent(of[ABSORPTION])} one other "
        f"latent carries the concept (ablated, it lowers the probe's logit more than any other), "
        f"and on {percent(of[DECISIVE])} the probe fails without it."
    )


def _splitting(values: Values) -> Iterator[str]:
    known = {s: of[NEEDED] for s, of in values.items() if of[NEEDED].value is not None}
    if known:
        site = max(known, key=lambda site: known[site].value or 0)
        of = values[site]
        yield (
            f"Splitting is largest at {site}: {decimal(of[NEEDED], 1)} latents must be ablated, on "
            f"average, before the dense probe finds half as many tokens; one is not enough for "
            f"{percent(of[SPLIT_SHARE])} of the concepts."
        )


def _experts(values: Values) -> Iterator[str]:
    known = {s: of for s, of in values.items() if CODING_EXPERTS in of}
    if not any(of[CODING_EXPERTS].value is not None for of in known.values()):
        return
    text = (
        f"A concept that is coded in an expert is coded in {_mean(known, CODING_EXPERTS):.1f} of "
        f"them (mean over sites); {_mean(known, ONE_EXPERT):.0%} are coded in one alone of "
        "several that could"
    )
    cosine = _mean(known, EXPERT_COSINE)
    alike = "" if cosine != cosine else f"; the latents of two experts have cosine {cosine:.2f}"
    yield f"{text}{alike}."


def _groups(values: Values) -> Iterator[str]:
    known = {s: of[SAME_LATENT] for s, of in values.items() if SAME_LATENT in of}
    measured = {site: value for site, value in known.items() if value.value is not None}
    if measured:
        lowest = min(measured, key=lambda site: measured[site].value or 0)
        yield (
            "Where layers share an SAE, a concept that is found at two of them has the same latent "
            f"in {_mean(values, SAME_LATENT):.0%} of the cases (mean over {len(measured)} sites; "
            f"least at {lowest}, {percent(measured[lowest])})."
        )


def _limits(values: Values, left_out: int) -> Iterator[str]:
    if left_out:
        yield (
            f"{left_out} concepts stand on too few tokens of a half of the documents and are left "
            "out; raise --tokens (--texts) to ask about them."
        )
    yield (
        "That a latent tells where a concept stands does not say that the model uses it: only "
        "ablation and steering do."
    )


def _mean(values: Values, key: str) -> float:
    """Over the sites that have it; NaN where none has."""
    known = [of[key].value for of in values.values() if key in of and of[key].value is not None]
    return sum(v for v in known if v is not None) / len(known) if known else float("nan")


def _beyond(a: Value, b: Value) -> bool:
    """Whether the interval of a lies above that of b."""
    return a.low is not None and b.high is not None and a.low > b.high
