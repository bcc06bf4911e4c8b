"""The sample of tokens behind the scatter of predicted against actual ‖e‖²."""

import numpy as np
import pytest
import torch

from helpers.audit_arrays import documents, nonlinear, rows
from saeworks.measure.audit import folds, norm
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.engine import SaeAudit, SaeOutput, SiteAudit
from saeworks.measure.audit.fits import Tokens
from saeworks.measure.audit.measurement import Place


def audited(chunks: int) -> SaeAudit:
    """Arrays through the engine, the test fold in so many pieces."""
    x = rows()
    x_hat, document = nonlinear(x), documents(len(x))
    place = Place(x.shape[1], int(document[-1]) + 1, x.device, 0)
    site = SiteAudit("x", place, ["sae"], base)
    fold_N = torch.from_numpy(folds.assign(torch.bincount(document).numpy(), 0))[document]
    for phase in range(3):
        for at in (fold_N == phase).nonzero()[:, 0].chunk(chunks if phase == folds.TEST else 1):
            made = {"sae": lambda _, at=at: SaeOutput(x_hat[at])}
            site.add(phase, x[at], Tokens(document[at]), made)
        site.finish(phase)
    return site.saes["sae"]


def test_the_sample_is_of_the_numbers_that_are_reported() -> None:
    found = audited(1)
    values, series = found.values(0, 0), found.series()["norm"]
    predicted, actual = np.array(series["predicted"]), np.array(series["actual"])
    assert len(predicted) == len(actual) == norm.SAMPLE < series["of_tokens"]
    fvu, r2 = values["split"]["fvu"].value, values["norm"]["r2_error_norm"].value
    assert actual.mean() == pytest.approx(fvu, rel=0.1)
    own = 1 - np.square(actual - predicted).sum() / np.square(actual - actual.mean()).sum()
    assert own == pytest.approx(r2, abs=0.15)


def test_the_sample_is_seeded_and_of_all_chunks() -> None:
    one, again, cut = (audited(n).series()["norm"] for n in (1, 1, 5))
    assert one == again
    assert one["of_tokens"] == cut["of_tokens"]
    assert one["actual"] == cut["actual"]  # keys are drawn token by token
