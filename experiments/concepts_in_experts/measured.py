"""What every SAE codes in every expert, asked with the grammar's truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from experiments.concepts_in_experts.table import CONTROL, HEADLINE, SHOWN
from experiments.criteria import number, over_seeds, side
from experiments.runs import Found, machine
from saeworks.config import RunConfig
from saeworks.dictionary.cosines import unit
from saeworks.lm.model import LanguageModel
from saeworks.measure.engine import sweep
from saeworks.measure.known import Truth, truth_of
from saeworks.measure.studies.consistency import (
    CODED,
    METRICS,
    THRESHOLDS,
    Firing,
    PlaceFirings,
    Watch,
    by_place,
    by_tokens,
    find,
    first_half,
    judge,
    summarise,
)
from saeworks.measure.studies.consistency import Found as Answer
from saeworks.measure.suites import held_out_tokens
from saeworks.suite import find_suites, load_suite

MEASURED = (*SHOWN, "one_latent")


def measured(runs: dict[int, Path], tokens: int) -> Found:
    """Everything that is told of the SAEs; `runs` by seed."""
    asked = [ask(run, seed, tokens) for seed, run in runs.items()]
    first = load_suite(find_suites(next(iter(runs.values())))[0])
    rows = [combined(of_seeds) for of_seeds in zip(*(a["rows"] for a in asked), strict=True)]
    return {
        "config": first.meta["config"],
        "seeds": list(runs),
        "held_out": [{"tokens": a["tokens"], "documents": a["documents"]} for a in asked],
        "intervals": "95%, Student's t over seeds",
        "metrics": {name: METRICS[name].description for name in SHOWN},
        "afterwards": ["one_latent"],
        "versions": first.meta["versions"],
        "machine": machine(),
        "rows": rows,
        "verdicts": [verdict(row, rows) for row in rows if row["kind"] == "switch"],
        "different": different([a["words"] for a in asked]),
    }


def ask(run: Path, seed: int, tokens: int) -> Found:
    """Every SAE of one seed, and the controls of those that have experts."""
    suites = [load_suite(path) for path in find_suites(run)]
    config: RunConfig = suites[0].run
    lm = LanguageModel.load(config.model)
    held_out = held_out_tokens(lm, config.text, config.seed, tokens)
    truth = truth_of(config.text, config.seed, lm, held_out)
    firings = PlaceFirings({str(s.path): s.bank() for s in suites}, held_out, 1)
    sweep(lm, [firings])
    watches = firings.watches
    asked = Asked(truth, held_out.row_NT[held_out.keep_NT].numpy(), seed)
    for (_, site), of in watches.items():
        experts = getattr(of.sae.config, "experts", None)
        if experts is None:
            continue
        k = of.sae.config.k
        firing, options = of.firing(), {"experts": experts, "k": k}
        dense = next(
            w
            for (_, other), w in watches.items()
            if other == site and w.sae.arch == "topk" and w.sae.config.k == k
        )
        asked.add("switch", firing, of, options)
        asked.add(CONTROL, by_tokens(dense.firing().fires, firing.visits), dense, options)
        blocks = Watch(dense.sae, experts, dense.fires, [])
        asked.add("topk, blocks", blocks.firing(), dense, options)
    return {
        "rows": asked.rows,
        "words": asked.words,
        "tokens": held_out.kept,
        "documents": held_out.documents,
    }


class Asked:
    """What the SAEs of one seed answered: a row per SAE, and the headline's concepts."""

    def __init__(self, truth: Truth, row_N: NDArray[Any], seed: int) -> None:
        self.rows: list[Found] = []
        self.words: dict[str, int] = {}
        self._truth, self._row_N, self._seed = truth, row_N, seed

    def add(self, kind: str, firing: Firing, of: Watch, options: dict[str, int]) -> None:
        stands, row_N, seed = self._truth.stands, self._row_N, self._seed
        answer = find(firing, stands, row_N, unit(of.sae.w_dec).numpy(), 0, seed)
        values = {name: value.value for name, value in summarise(answer).items()}
        values["one_latent"] = one_latent(answer, firing, of, stands, row_N, seed)
        curve = [summarise(answer, threshold)["queen"].value for threshold in THRESHOLDS]
        row = {"kind": kind, **options, "seed": seed, **values, "by_threshold": curve}
        self.rows.append(row)
        if kind == "switch" and options == HEADLINE:
            coded = answer.phi_SQ[0] > CODED
            for concept in sorted(set(answer.concept_Q[coded].tolist())):
                if answer.asked[concept] > 1:
                    places = answer.place_Q[coded & (answer.concept_Q == concept)]
                    name = " = ".join(self._truth.concepts[concept])
                    self.words[name] = len(set(places.tolist()))


def one_latent(
    answer: Answer, firing: Firing, of: Watch, truth: csr_matrix, row_N: NDArray[Any], seed: int
) -> float | None:
    """Of the places that code a concept, the share in which one latent does, the one that codes it
    best over all tokens of the first half. A latent of a Switch SAE is in one place."""
    every = csr_matrix(np.ones((truth.shape[0], 1), np.int32))
    fires = vstack(of.fires, format="csr")
    anywhere = by_place(fires, np.zeros(fires.shape[1], int), 1, every, "all tokens")
    best = find(anywhere, truth, row_N, np.zeros((fires.shape[1], 1)), 0, seed)
    latent = dict(zip(best.concept_Q.tolist(), best.latent_Q.tolist(), strict=True))
    coded = np.flatnonzero((answer.phi_SQ[0] > CODED) & (answer.asked[answer.concept_Q] > 1))
    unit_of = {
        (place, latent): at
        for at, (place, latent) in enumerate(zip(firing.place_U, firing.latent_U, strict=True))
    }
    asked = [(int(answer.concept_Q[at]), int(answer.place_Q[at])) for at in coded]
    pairs = [(c, unit_of[p, latent[c]]) for c, p in asked if (p, latent.get(c)) in unit_of]
    if not asked:
        return None
    concept_Q, unit_Q = np.array(pairs, int).reshape(-1, 2).T
    phis = judge(firing, truth, row_N, ~first_half(row_N, seed), concept_Q, unit_Q, 0, seed)
    return float((phis[0] > CODED).sum() / len(asked))


def interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """The mean of the seeds with Student's interval; none where a seed has no value."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return {"value": None, "low": None, "high": None}
    return over_seeds(numbers).record()


def combined(seeds: Sequence[Found]) -> Found:
    """One row over the seeds."""
    by_threshold = zip(*(seed["by_threshold"] for seed in seeds), strict=True)
    return {
        **{key: seeds[0][key] for key in ("kind", "experts", "k")},
        **{name: interval([seed[name] for seed in seeds]) for name in MEASURED},
        "by_threshold": dict(
            zip(map(str, THRESHOLDS), map(interval, map(list, by_threshold)), strict=True)
        ),
        "by_seed": {str(seed["seed"]): {name: seed[name] for name in MEASURED} for seed in seeds},
    }


def verdict(row: Found, rows: Sequence[Found]) -> Found:
    """What the criteria make of a Switch SAE beside its TopK SAE on the same tokens."""
    control = next(
        other
        for other in rows
        if other["kind"] == CONTROL and (other["experts"], other["k"]) == (row["experts"], row["k"])
    )
    more, turned = (
        interval([row["by_seed"][s][name] - control["by_seed"][s][name] for s in row["by_seed"]])
        for name in ("queen", "consistency")
    )
    return {
        **{key: row[key] for key in ("experts", "k")},
        "difference": more,
        "learnt_anew": side(number(more), "yes", "the contrary", "not shown"),
        "cosine": row["consistency"],
        "cosine_of_control": control["consistency"],
        "cosine_difference": turned,
        "other_directions": side(number(turned), "the contrary", "yes", "not shown"),
    }


def different(words: Sequence[dict[str, int]]) -> dict[str, list[int]]:
    """Of the headline's SAEs: in how many experts each seed codes each concept (0: in none)."""
    names = sorted({name for seed in words for name in seed})
    return {name: [seed.get(name, 0) for seed in words] for name in names}
