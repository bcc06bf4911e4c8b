"""A verdict claims no more than the numbers carry."""

import pytest

from saeforge.eval.audit.guard import degenerate
from saeforge.eval.audit.verdict import ASSUMPTIONS, verdict
from saeforge.eval.result import Value


def sections(**changed: Value | None) -> dict[str, dict[str, Value]]:
    """A site of which everything is known, but for what is changed (`section__metric`)."""
    found = {
        "vector": {"r2_error": Value(0.6, 0.58, 0.62), "fit_cost": Value(0.01)},
        "split": {"fvu": Value(0.2, 0.19, 0.21), "fvu_nonlinear": Value(0.08, 0.07, 0.09)},
        "norm": {"r2_error_norm": Value(0.7, 0.68, 0.72), "r2_token": Value(0.3, 0.28, 0.32)},
        "shrinkage": {
            "alpha": Value(1.1),
            "r2_scalar": Value(0.2, 0.19, 0.21),
            "r2_full": Value(0.6, 0.58, 0.62),
            "shrinkage_share": Value(0.33, 0.3, 0.36),
            "r2_error_affine": Value(0.4, 0.38, 0.42),
            "fvu_nonlinear_scaled": Value(0.09, 0.08, 0.1),
        },
        "null": {"r2_noise": Value(-0.01, -0.011, -0.009)},
    }
    for key, value in changed.items():
        section, metric = key.split("__")
        if value is None:
            del found[section][metric]
        else:
            found.setdefault(section, {})[metric] = value
    return found


def text(**changed: Value | None) -> str:
    return " ".join(verdict(sections(**changed)).sentences)


def test_a_side_is_taken_only_where_the_interval_lies_on_it() -> None:
    assert "More than half of the error's variance is linear" in text()
    assert "Less than half of the error's variance" in text(vector__r2_error=Value(0.3, 0.28, 0.32))
    for unsettled in (Value(0.52, 0.48, 0.56), Value(0.6)):
        assert "half of the error's variance is linear in x is not settled" in text(
            vector__r2_error=unsettled
        )
    assert "(point estimate)" in text(vector__r2_error=Value(0.6))


def test_baselines() -> None:
    assert "better than every baseline (best: the mean by token" in text()
    assert "worse than the mean by token" in text(norm__r2_token=Value(0.9, 0.88, 0.92))
    assert "not clearly different" in text(norm__r2_token=Value(0.69, 0.66, 0.71))
    assert "baseline" not in text(norm__r2_token=None)


def test_shrinkage() -> None:
    assert "Less than half of what is linear is plain shrinkage" in text()
    assert "Most of what is linear is plain shrinkage" in text(
        shrinkage__shrinkage_share=Value(0.8, 0.7, 0.9)
    )
    assert "shrinkage" not in text(shrinkage__r2_full=Value(0.0, -0.01, 0.01)).split("Of FVU")[0]


def test_doubts_come_first() -> None:
    assert text(vector__fit_cost=Value(0.3)).startswith("Too few tokens")
    assert text(null__r2_noise=Value(0.1, 0.08, 0.12)).startswith("The probe finds R²")


def test_a_degenerate_sae_gets_no_other_claim() -> None:
    found = verdict(sections(split__fvu=Value(1.0, 0.99, 1.01)))
    assert found.degenerate is not None and len(found.sentences) == 2
    assert "Degenerate: trivially linear" in found.sentences[0]
    assert "linear in x:" not in " ".join(found.sentences)


@pytest.mark.parametrize(
    ("numbers", "flagged"),
    [
        ((0.2, 0.6, 1.0), False),
        ((0.94, 0.98, 1.0), False),
        ((0.96, 0.5, 1.0), True),
        ((0.2, 0.995, 1.0), True),
        ((1.2, 1.0, None), True),
        ((0.0, None, 1.0), True),
    ],
)
def test_guard(numbers: tuple[float | None, float | None, float | None], flagged: bool) -> None:
    assert (degenerate(*numbers) is not None) == flagged


def test_assumptions_say_that_the_hypothesis_may_be_false() -> None:
    assert any("may be false" in line for line in ASSUMPTIONS)
    assert verdict(sections()).assumptions == ASSUMPTIONS
    for word in ("constant", "prove"):
        assert word not in text()


def test_sections_that_were_not_measured_are_not_spoken_of() -> None:
    for word in ("pursuit", "MLP", "site before", "loss gap"):
        assert word not in text()
