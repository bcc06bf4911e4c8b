"""Single studies of given banks on given tokens, without suites."""

from collections.abc import Mapping

from saeworks.config import EvalConfig
from saeworks.lm.model import LanguageModel
from saeworks.measure.banks import Bank
from saeworks.measure.engine import Study, Subject, measure
from saeworks.measure.held_out import HeldOut
from saeworks.measure.known import Labels
from saeworks.measure.studies.experts import Experts
from saeworks.measure.studies.geometry import Geometry
from saeworks.measure.studies.latents import Latents
from saeworks.measure.studies.reconstruction import Reconstruction
from saeworks.measure.studies.splice import Splice
from saeworks.results.result import Result

Banks = Mapping[str, Bank]


def results(lm: LanguageModel, study: Study) -> dict[str, Result]:
    """Bank → what the study finds."""
    (found,) = measure(lm, [study])
    assert all(isinstance(one.result, Result) for one in found.values())
    return {name: one.result for name, one in found.items() if isinstance(one.result, Result)}


def reconstruction(
    banks: Banks, lm: LanguageModel, held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    return results(lm, Reconstruction(Subject.of(banks, lm, held_out), config))


def splice(
    banks: Banks, lm: LanguageModel, held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    subject = Subject.of(banks, lm, held_out)
    return results(lm, Splice(subject, config, Reconstruction(subject, config).means))


def latents(
    banks: Banks, lm: LanguageModel, held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    subject = Subject.of(banks, lm, held_out)
    return results(lm, Latents(subject, config, Reconstruction(subject, config).tally))


def geometry(
    banks: Banks, lm: LanguageModel, held_out: HeldOut, config: EvalConfig
) -> dict[str, Result]:
    subject = Subject.of(banks, lm, held_out)
    return results(lm, Geometry(config, Reconstruction(subject, config).tally))


def experts(
    banks: Banks,
    lm: LanguageModel,
    held_out: HeldOut,
    config: EvalConfig,
    labels: Labels | None = None,
) -> dict[str, Result]:
    subject = Subject.of(banks, lm, held_out)
    return results(lm, Experts(config, Reconstruction(subject, config).tally, labels))
