"""What the expert of a token tells of the label of its document: mutual information.

Shapes: R documents, N experts, L labels; S rows: of all documents, with each left out, of each
resample.
"""

import numpy as np
from jaxtyping import Float, Int

from saeworks.measure import bootstrap
from saeworks.results.metric import Metric, Value

SHUFFLES = 200
ADJUSTED = "domain_information_adjusted"
METRICS = {
    "domain_information": Metric(
        "Expert × domain",
        "Mutual information of the expert of a visit and the label of its document, by relative "
        "frequencies; the interval's resamples are centred on the value, since each of them has "
        "the bias of small samples once more.",
        "bits",
    ),
    "domain_information_chance": Metric(
        "Expert × domain, shuffled",
        f"Mean of the same over {SHUFFLES} shuffles of the labels among the documents, with the "
        "range of 95% of them: what a router that is blind to the labels would show.",
        "bits",
    ),
    ADJUSTED: Metric(
        "Expert × domain, adjusted",
        "(I − chance) / (H(label) − chance): 0 of a router blind to the labels, 1 where the "
        "expert determines the label (Vinh et al. 2010, adjusted mutual information).",
    ),
}
SENTENCES = {
    "domains": "{domain_information} bits of mutual information; documents shuffled, "
    "{domain_information_chance}. Of all that could be told, beyond chance: "
    "{domain_information_adjusted%}.",
}


def mutual_information(joint_LN: Float[np.ndarray, "*S L N"]) -> Float[np.ndarray, "*S"]:
    """I = Σ_ln p_ln log2(p_ln / (p_l p_n)), in bits, of counts; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_LN = joint_LN / joint_LN.sum((-2, -1), keepdims=True)
    rows, columns = entropy(p_LN.sum(-1)), entropy(p_LN.sum(-2))
    return np.asarray(rows + columns - entropy(p_LN.reshape(*p_LN.shape[:-2], -1)))


def entropy(counts_N: Float[np.ndarray, "*S N"]) -> Float[np.ndarray, "*S"]:
    """H = −Σ p log2 p, in bits, of counts; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_N = counts_N / counts_N.sum(-1, keepdims=True)
    logs_N = np.log2(p_N, where=p_N > 0, out=np.zeros_like(p_N))
    return np.asarray(-(p_N * logs_N).sum(-1) + 0.0)


def domain_information(
    visits_RN: Float[np.ndarray, "R N"],
    label_R: Int[np.ndarray, " R"],
    labels: int,
    resamples: int,
    seed: int,
) -> dict[str, Value]:
    """The metrics, of the visits of each document to each expert.

    Args:
        label_R: of each document, −1 where unknown: such documents are left out.
    """
    known = (label_R >= 0) & (visits_RN.sum(1) > 0)
    visits_RN, label_R = visits_RN[known], label_R[known]
    one_hot_RL = label_R[:, None] == np.arange(labels)
    joint_LN = one_hot_RL.T.astype(np.float64) @ visits_RN
    rng = np.random.default_rng(seed)
    shuffled = np.array(
        [
            mutual_information(rng.permutation(one_hot_RL).T.astype(np.float64) @ visits_RN)
            for _ in range(SHUFFLES)
        ]
    )
    chance = float(shuffled.mean())
    drawn = {
        (label, expert): one_hot_RL[:, label] * visits_RN[:, expert]
        for label in range(labels)
        for expert in range(visits_RN.shape[1])
    }
    sums = bootstrap.resampled(drawn, visits_RN.sum(1) > 0, resamples, seed)
    sums_SLN = np.stack(list(sums.sums.values()), axis=1).reshape(-1, labels, visits_RN.shape[1])
    found_S, most_S = mutual_information(sums_SLN), entropy(sums_SLN.sum(-1))
    assert not len(found_S) or np.isclose(found_S[0], mutual_information(joint_LN), equal_nan=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted_S = (found_S - chance) / (most_S - chance)
    low, high = np.percentile(shuffled, [2.5, 97.5])
    return {
        "domain_information": _centred(found_S, sums.documents, resamples),
        "domain_information_chance": (
            Value(chance, float(low), float(high)) if np.isfinite(chance) else Value(None)
        ),
        ADJUSTED: _centred(adjusted_S, sums.documents, resamples),
    }


def _centred(values_S: Float[np.ndarray, " S"], documents: int, resamples: int) -> Value:
    """The first, with its interval from resamples that are centred on it."""
    centred_S = values_S.copy()
    if len(values_S) > 1:
        centred_S[-resamples:] += values_S[0] - values_S[-resamples:].mean()
    return bootstrap.interval(centred_S, documents)
