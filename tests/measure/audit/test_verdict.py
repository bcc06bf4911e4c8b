"""A verdict claims no more than the numbers carry."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest

from saeworks.measure import audit
from saeworks.measure.audit.guard import degenerate
from saeworks.measure.audit.study import AuditStudy
from saeworks.measure.audit.verdict import ASSUMPTIONS, FIRST, LAST, verdict
from saeworks.measure.audit.words import percent, shown
from saeworks.results.metric import Value


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
            "artefact_scaled": Value(0.2, 0.18, 0.22),
            "r2_error_scaled": Value(0.48, 0.46, 0.5),
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
    assert "More than half of the error is linear" in text()
    assert "Less than half of the error" in text(vector__r2_error=Value(0.3, 0.28, 0.32))
    little = text(vector__r2_error=Value(0.013, 0.01, 0.016))
    assert "Next to none of the error is linear" in little
    assert "an affine map of x predicts R² 0.013" in little
    unsettled = text(vector__r2_error=Value(0.52, 0.48, 0.56))
    assert "half of the error is linear in x is not settled" in unsettled


SIDES = (
    "More than", "Less than", "not settled", "Most of", "Part of", "Next to none", "falls", "rises",
    "No clear", "lowers", "not clearly", "better", "worse", "is not predicted", "is not linear",
)  # fmt: skip


def test_without_intervals_no_side_is_taken_nor_no_difference_claimed() -> None:
    """Too few documents: everything is a point estimate, and every sentence says so or is silent
    on what it would need an interval for."""
    known = sections(
        **PURSUED,
        **SPLICED,
        scaling__fvu_nonlinear_slope=Value(-0.2),
        error_saes__fvu_l=Value(0.5),
        error_saes__fvu_u=Value(0.6),
        error_saes__u_minus_l=Value(0.1),
        mlp__r2_u_best=Value(0.2),
        adjacent__r2_u_from_u=Value(0.1),
    )
    bare = {
        section: {name: Value(value.value) for name, value in values.items()}
        for section, values in known.items()
    }
    first, *rest = verdict(bare).sentences
    assert first.startswith("No intervals: too few test documents")
    assert len(rest) >= 9
    for sentence in rest:
        claimed = sentence.replace("Better inference", "").replace("might do better", "")
        assert not any(side in claimed for side in SIDES), sentence
    assert "was measured on too few documents for an interval" in " ".join(rest)


def test_a_lost_interval_is_not_no_change() -> None:
    lost = {**PURSUED, "pursuit__fvu_change": Value(-0.1)}
    assert "whether it changes FVU cannot be told (−10% (point estimate))" in text(**lost)
    assert "does not clearly change" not in text(**lost)
    assert not text(**lost).startswith("No intervals")


NAN = float("nan")


@pytest.mark.parametrize("ends", [(NAN, NAN), (None, 0.3), (-0.3, None), (-float("inf"), 0.3)])
def test_an_interval_without_an_end_is_none(ends: tuple[float | None, float | None]) -> None:
    lost = Value(0.1, *ends)
    said = text(**dict.fromkeys(("pursuit__fvu_change", "downstream__gap"), lost))
    said += text(vector__r2_error=lost, scaling__fvu_nonlinear_slope=lost)
    assert "not clearly" not in said and "not settled" not in said
    assert "0.100 (point estimate)" in said and "nan" not in said and "−inf" not in said


def test_baselines() -> None:
    assert "better than every baseline (best: the mean by token" in text()
    assert "worse than the mean by token" in text(norm__r2_token=Value(0.9, 0.88, 0.92))
    unclear = text(norm__r2_token=Value(0.69, 0.66, 0.71))
    assert "not clearly better than every baseline (best: the mean by token" in unclear
    assert "baseline" not in text(norm__r2_token=None)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Value(0.2, 0.18, 0.22), "Part of that, 20% [18%, 22%], is shrinkage (α* = 1.100)"),
        (Value(0.7, 0.6, 0.8), "Most of that, 70% [60%, 80%], is shrinkage"),
        (Value(0.01, -0.01, 0.03), "Next to none of that is shrinkage"),
        (Value(-0.2, -0.3, -0.1), "Next to none of that is shrinkage"),
        (Value(0.1, -0.1, 0.3), "How much of that is shrinkage is not settled"),
        (Value(0.3), "is shrinkage (α* = 1.100) is known as a point estimate only, 30%"),
    ],
)
def test_shrinkage(share: Value, words: str) -> None:
    found = text(shrinkage__artefact_scaled=share)
    assert words in found
    assert "R² would be 0.480 [0.460, 0.500] with x̂ rescaled as a whole, 0.400" in found


def test_shrinkage_that_is_mended_whole_is_not_denied() -> None:
    """What little is left may be as linear as before: R² alone would say that nothing shrank."""
    found = text(
        shrinkage__artefact_scaled=Value(0.01, -0.01, 0.03),
        shrinkage__linear_gone_scaled=Value(0.97, 0.96, 0.98),
    )
    assert "Rescaling mends most of the linear error, 97% [96%, 98%] (α* = 1.100)" in found
    assert "Next to none" not in found


def test_the_sharpest_control_of_shrinkage_speaks() -> None:
    found = text(
        shrinkage__artefact_per_latent=Value(0.8, 0.7, 0.9),
        shrinkage__r2_error_per_latent=Value(0.1, 0.09, 0.11),
    )
    assert "Most of that, 80% [70%, 90%], is shrinkage" in found
    assert "0.100 [0.090, 0.110] with each latent rescaled" in found


def test_a_scalar_map_of_x_is_not_called_shrinkage() -> None:
    """An SAE whose error is orthogonal to its output has R² of e ~ a·x equal to FVU, unshrunk."""
    found = text(
        shrinkage__alpha=Value(1.0),
        shrinkage__artefact_scaled=Value(0.0, -0.001, 0.001),
        shrinkage__r2_scalar=Value(0.59, 0.57, 0.61),
    )
    assert "Next to none of that is shrinkage (α* = 1.000)" in found
    assert "0.590" not in found


def test_nothing_linear_has_no_shrinkage_to_speak_of() -> None:
    assert "shrinkage" not in text(vector__r2_error=Value(0.0, -0.01, 0.01))


def test_doubts_come_first() -> None:
    assert text(vector__fit_cost=Value(0.3)).startswith("Too few tokens")
    assert text(null__r2_noise=Value(0.1, 0.08, 0.12)).startswith("The probe finds R²")


def test_what_is_too_large_is_not_called_shrunk() -> None:
    found = text(shrinkage__alpha=Value(0.667), shrinkage__artefact_scaled=Value(0.7, 0.6, 0.8))
    assert "Most of that, 70% [60%, 80%], is wrong scale (α* = 0.667)" in found
    assert "shrinkage" not in found


def test_a_degenerate_sae_gets_no_other_claim() -> None:
    empty = {"split__fvu": Value(1.0, 0.99, 1.01), "vector__r2_error": Value(0.95, 0.94, 0.96)}
    found = verdict(sections(**empty))
    assert found.degenerate is not None and len(found.sentences) == 2
    assert "Degenerate: trivially linear" in found.sentences[0]
    assert "linear in x:" not in " ".join(found.sentences)


def test_a_wrong_sae_is_not_called_linear() -> None:
    """FVU 3 by noise: its error is not x, and little of it is linear."""
    found = verdict(sections(split__fvu=Value(3.0, 2.9, 3.1)))
    assert found.degenerate is not None and len(found.sentences) == 2
    assert "no better than its mean" in found.sentences[0]
    assert "trivially" not in " ".join(found.sentences)


@pytest.mark.parametrize(
    ("numbers", "flagged"),
    [
        ((0.2, 0.6, 1.0), False),
        ((0.94, 0.98, 1.0), False),
        ((0.96, 0.95, 1.0), True),
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
    for word in ("pursuit", "MLP", "site before", "costs the model", "chosen anew", "width over"):
        assert word not in text()


PURSUED = {
    "pursuit__fvu_change": Value(-0.1, -0.12, -0.08),
    "pursuit__fvu_nonlinear_change": Value(-0.05, -0.06, -0.04),
    "pursuit__fvu_nonlinear_encoder": Value(0.085, 0.08, 0.09),
}


def test_pursuit() -> None:
    assert "lowers FVU by 10% [8%, 12%], FVU_nl by 5.0% [4.0%, 6.0%]." in text(**PURSUED)
    raised = {**PURSUED, "pursuit__fvu_change": Value(0.1, 0.08, 0.12)}
    assert "raises FVU by 10% [8%, 12%]: it is no better" in text(**raised)
    unclear = {**PURSUED, "pursuit__fvu_change": Value(0.1, -0.08, 0.12)}
    assert "does not clearly change FVU" in text(**unclear)


def test_pursuit_on_too_few_tokens_does_not_split_the_error() -> None:
    starved = {**PURSUED, "pursuit__fvu_nonlinear_encoder": Value(0.2, 0.18, 0.22)}
    assert "lowers FVU by 10% [8%, 12%]; its tokens are too few" in text(**starved)
    assert "FVU_nl by" not in text(**starved)


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (Value(-0.2, -0.3, -0.1), "FVU_nl falls with width over the widths audited"),
        (Value(0.2, 0.1, 0.3), "FVU_nl rises with width"),
        (Value(0.0, -0.1, 0.1), "No clear change of FVU_nl with width"),
    ],
)
def test_width(slope: Value, words: str) -> None:
    found = text(scaling__fvu_nonlinear_slope=slope)
    assert words in found
    assert "beyond them it may not" in found or "does not make it constant" in found


SPLICED = {
    "downstream__gap": Value(0.2, 0.15, 0.25),
    "downstream__recovered_linear": Value(0.5, 0.4, 0.6),
    "downstream__recovered_nonlinear": Value(0.7, 0.6, 0.8),
    "downstream__squared_share_linear": Value(0.2, 0.18, 0.22),
}


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Value(0.2, 0.18, 0.22), "is more than its share of ‖e‖², 20%"),
        (Value(0.8, 0.78, 0.82), "is less than its share"),
        (Value(0.45, 0.4, 0.5), "is not clearly different from its share"),
    ],
)
def test_downstream(share: Value, words: str) -> None:
    found = text(**{**SPLICED, "downstream__squared_share_linear": share})
    assert "0.200 [0.150, 0.250] nats; putting ℓ back recovers 50% [40%, 60%]" in found
    assert words in found


def test_of_no_clear_gap_no_share_is_told() -> None:
    found = text(**{**SPLICED, "downstream__gap": Value(0.001, -0.001, 0.003)})
    assert "not clearly above 0" in found
    assert "putting" not in found


def test_attribution() -> None:
    known = {
        "attribution__fvu": Value(0.2, 0.19, 0.21),
        "attribution__rest": Value(0.15, 0.14, 0.16),
    }
    assert "leave 75% [70%, 80%] of FVU: missing features" in text(**known)


def test_extractors() -> None:
    some, none = Value(0.2, 0.1, 0.3), Value(-0.1, -0.2, -0.05)
    assert "Part of u is predicted from x, by a small MLP (R² 0.200" in text(mlp__r2_u_best=some)
    assert "u is not predicted from x by a small MLP" in text(mlp__r2_u_best=none)
    both = text(mlp__r2_u_best=none, wide__r2_u_best=some)
    assert "Part of u is predicted from x, by a small MLP (R² −0.100" in both
    assert "and a wide SAE without penalty (R² 0.200 [0.100, 0.300]); larger ones" in both


def test_adjacent() -> None:
    none, some = Value(0.0, -0.01, 0.01), Value(0.1, 0.08, 0.12)
    unclear = text(adjacent__r2_u_from_x_hat=none)
    assert "u is not clearly linear in what the site before has: from its x̂ R² 0.000" in unclear
    found = text(adjacent__r2_u_from_x_hat=none, adjacent__r2_u_from_u=some)
    assert "Part of u is linear in what the site before has" in found
    assert "from its u R² 0.100 [0.080, 0.120]" in found


def test_what_noise_would_give_is_not_laid_at_the_encoder() -> None:
    parts = {"attribution__coefficients": Value(0.01), "attribution__choice": Value(0.03)}
    null = {"attribution__coefficients_chance": Value(0.01)}
    found = text(**parts, **null, attribution__choice_chance=Value(0.01))
    assert "would mend 50% as much of noise in the error's place" in found
    found = text(**parts, **null, attribution__choice_chance=Value(0.04))
    assert "would mend at least as much of noise" in found
    assert "noise in the error's place" not in text(**parts, **null)


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (Value(0.1, 0.05, 0.15), "An SAE trained on ℓ reconstructs it better"),
        (Value(-0.1, -0.15, -0.05), "An SAE trained on ℓ reconstructs it worse"),
        (Value(0.1, -0.05, 0.25), "do not clearly differ"),
        (Value(0.1), "How SAEs trained on ℓ and on u differ is known as a point estimate only"),
    ],
)
def test_saes_on_the_error(apart: Value, words: str) -> None:
    each = {"error_saes__fvu_l": Value(0.5, 0.45, 0.55), "error_saes__fvu_u": Value(0.6)}
    found = text(**each, error_saes__u_minus_l=apart)
    assert words in found and "FVU 0.500 [0.450, 0.550] and 0.600 (point estimate)" in found
    assert "the seed of its training is in no interval" in found
    assert "trained on ℓ" not in text(error_saes__fvu_l=each["error_saes__fvu_l"])


def test_numbers() -> None:
    assert shown(Value(-0.0001, -0.002, 0.001)) == "0.000 [−0.002, 0.001]"
    assert percent(Value(0.05, 0.04, 0.06)) == "5.0% [4.0%, 6.0%]"
    assert percent(Value(None)) == shown(Value(None)) == "undefined"


def studies(cls: type[AuditStudy] = AuditStudy) -> Iterator[type[AuditStudy]]:
    for study in cls.__subclasses__():
        yield study
        yield from studies(study)


def test_every_study_that_says_something_is_in_the_verdict() -> None:
    for module in pkgutil.iter_modules(audit.__path__):
        import_module(f"{audit.__name__}.{module.name}")
    ours = [study for study in studies() if study.__module__.startswith(audit.__name__)]
    speaking = {study for study in ours if "sentences" in vars(study)}
    assert {*FIRST, *LAST} <= speaking, "a study without a sentence stands in the verdict"
    missing = speaking - {*FIRST, *LAST}
    assert not missing, f"put into FIRST or LAST of verdict.py: {missing}"
