"""What the numbers on explanations say, in sentences."""

from collections.abc import Mapping

from saeworks.measure.explaining.metrics import (
    CONTEXT,
    CORRELATION,
    DIFFERENCE,
    F1,
    MODEL_DETECTION,
    MODEL_FUZZING,
    MODEL_LATENTS,
    SHUFFLED_F1,
    TOKEN_F1,
)
from saeworks.results.metric import Value
from saeworks.results.series import Drawn
from saeworks.results.words import decimal

Values = Mapping[str, Mapping[str, Value]]


def findings(sites: Values, drawn: Mapping[str, Drawn]) -> list[str]:
    """Sentences for one suite, the most important first."""
    known = [site for site in sites if sites[site][F1].value is not None]
    if not known:
        return [_rare(drawn)]
    best, worst = (
        pick(known, key=lambda site: sites[site][F1].value or 0.0) for pick in (max, min)
    )
    where = f"F1 {_in(sites, best, F1)} at {best}"
    if worst != best:
        where = f"{where} (the best site), {_in(sites, worst, F1)} at {worst} (the worst)"
    said = [
        "A small program tells on which tokens of unseen documents a latent fires, on average over "
        f"latents with {where}; by the token alone it is {_in(sites, best, TOKEN_F1)} at "
        f"{best}, and another latent's program reaches {_in(sites, best, SHUFFLED_F1)}."
    ]
    adds = [s for s in known if (sites[s][CONTEXT].low or 0.0) > 0]
    said.append(
        f"What lies before a token, its place and its concepts add to the token itself at "
        f"{len(adds)} of {len(known)} sites (interval above 0), most at "
        f"{_most(sites, known, CONTEXT)}."
        if adds
        else "What lies before a token, its place and its concepts add nothing to the token itself "
        f"that the intervals of the {len(known)} sites tell from 0."
    )
    return [*said, *_by_model(sites), _rare(drawn)]


def _by_model(sites: Values) -> list[str]:
    """What the language model adds, where it was asked."""
    asked = [
        site for site in sites if sites[site].get(MODEL_DETECTION, Value(None)).value is not None
    ]
    if not asked:
        return []
    site = max(asked, key=lambda site: sites[site][MODEL_DETECTION].value or 0.0)
    latents = sum(int(sites[site][MODEL_LATENTS].value or 0) for site in asked)
    return [
        f"By its own explanations ({latents:,} latents), the language model tells in which unseen "
        f"contexts a latent fires with a balanced accuracy of {_in(sites, site, MODEL_DETECTION)} "
        f"at {site}, its best site, and which tokens they are with "
        f"{_in(sites, site, MODEL_FUZZING)}; one half is chance. On the same contexts it does "
        f"better than the program by {_in(sites, site, DIFFERENCE)}, and over latents the two "
        f"correlate by {_in(sites, site, CORRELATION)}."
    ]


def _most(sites: Values, among: list[str], key: str) -> str:
    site = max(among, key=lambda site: sites[site][key].value or 0.0)
    return f"{site}: {_in(sites, site, key)}"


def _rare(drawn: Mapping[str, Drawn]) -> str:
    rare, dead = (sum(counts) for counts in zip(*((of.rare, of.dead) for of in drawn.values())))
    width, explained = (
        sum(counts) for counts in zip(*((of.width, of.explained) for of in drawn.values()))
    )
    least = max((of.least for of in drawn.values()), default=0)
    how = ", ".join(dict.fromkeys(of.how for of in drawn.values()))
    return (
        f"Explained: {explained:,} of {width:,} latents, {how}; nothing is said of {rare:,} that "
        f"fire on fewer than {least} tokens of either half, or of {dead:,} that never fire."
    )


def _in(sites: Values, site: str, key: str) -> str:
    return decimal(sites[site][key])
