"""`saeworks audit`: every site of any number of suites, one sweep per phase."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

from saeworks.config import AuditConfig, ModelConfig, TextConfig
from saeworks.dictionary.base import SAE
from saeworks.lm.model import LanguageModel
from saeworks.measure import bootstrap
from saeworks.measure.asked import Work
from saeworks.measure.audit import folds
from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.downstream import Downstream, PutBack
from saeworks.measure.audit.engine import Make, SaeOutput, SiteAudit
from saeworks.measure.audit.error_saes import ErrorSaes, match, on_error_at
from saeworks.measure.audit.fits import Before, Fit, Tokens
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.positions import ErrorByPosition
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.scaling_section import Scaling, scaling_sections
from saeworks.measure.audit.synthetic import SyntheticTest
from saeworks.measure.audit.verdict import concluded
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.audit.widths import TrainedWith
from saeworks.measure.audit.zeroing import Zeroing
from saeworks.measure.banks import Bank, widest
from saeworks.measure.engine import (
    Chunk,
    Measured,
    ModelBatch,
    Reading,
    Study,
    Subject,
    measure,
)
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import Tick, Tracker, silent
from saeworks.measure.studies.splice import Losses
from saeworks.measure.suites import Results, StudySet, loaded, measure_suites
from saeworks.results.audit import AuditResult, Fold
from saeworks.results.metric import Value
from saeworks.results.section import Section
from saeworks.suite import Suite

PHASES = ("fit", "second", "test")
"""Names of the phases, in the result's folds and in the progress shown."""


def audit_suites(
    paths: Sequence[Path],
    config: AuditConfig,
    say: Callable[[str], None] | None = None,
    error_saes: Sequence[Path] = (),
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, AuditResult]:
    """Audit suites and write `results/audit.json` into each.

    Suites of the same model and text are audited together: in the same passes of the language
    model, with one factor of each site's x per fold.

    Args:
        error_saes: suites that were trained on the error of these.
        model: another language model than the suite's own, such as the same one moved to another
            folder; a name alone keeps the suite's precision.
        text: another text than the suite's own; a source alone keeps the suite's way of packing.
            With another model or text the result goes where `saeworks.measure.asked.placed` says,
            and the suite's own stays.

    Raises:
        UserError: if a suite is missing or corrupt, its language model is not the one it was
            trained on, an SAE does not fit its site, there are too few held-out tokens or
            documents for a well-posed fit, activations are constant, NaN or infinite, or
            `error_saes` are not on the error of these.
    """
    suites = loaded(paths)
    asked = audits(config, match(error_saes, suites))
    (results,) = measure_suites(suites, [asked], config.device, say, model=model, text=text)
    return audit_results(results)


def audits(config: AuditConfig, on_error: Mapping[str, Mapping[str, Suite]]) -> StudySet:
    """The one study of `saeworks audit`.

    Args:
        on_error: bank → e, l or u → a suite that is trained on that part of its error.
    """

    def studies(subject: Subject, work: Work) -> list[Study]:
        trained = {str(suite.path): _trained(suite) for suite in work.suites}
        return [ErrorAudit(subject, config, on_error, trained)]

    return StudySet(config.tokens, studies)


def audit_results(found: Results) -> dict[Path, AuditResult]:
    """Suite → the audit among its results."""
    return {
        path: result
        for path, of_suite in found.items()
        for result in of_suite
        if isinstance(result, AuditResult)
    }


def _trained(suite: Suite) -> dict[str, TrainedWith]:
    """Site → how its SAE was trained."""
    tokens = suite.meta["tokens"]
    known = tokens if isinstance(tokens, int) else None
    return {
        site: TrainedWith(known, len(sites)) for sites in suite.groups.values() for site in sites
    }


def audit_banks(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: AuditConfig,
    progress: Tracker = silent,
    on_error: Mapping[str, Mapping[str, Suite]] = MappingProxyType({}),
    trained: Mapping[str, Mapping[str, TrainedWith]] = MappingProxyType({}),
) -> dict[str, AuditResult]:
    """Audit every SAE of every bank on the same tokens.

    Args:
        on_error, trained: as for `ErrorAudit`.

    Raises:
        UserError: as `audit_suites`.
    """
    study = ErrorAudit(Subject.of(banks, lm, held_out), config, on_error, trained)
    measure(lm, [study], progress)
    return study.audited()


@final
class FoldReading(Reading):
    """One fold of the documents on its way through every site's audit.

    Args:
        fold: the tokens, of which those of the fold are kept.
    """

    def __init__(
        self,
        phase: int,
        subject: Subject,
        fold: HeldOut,
        audits: Mapping[str, SiteAudit],
        losses: Losses,
        needs: Sequence[Reading],
    ) -> None:
        self.title, self.held_out = f"audit, {PHASES[phase]}", fold
        self.sites, self.width, self.needs = subject.sites, widest(subject.banks), needs
        self._phase, self._audits, self._banks = phase, audits, subject.banks
        self._losses, self._length = losses, fold.tokens_NT.shape[1]
        self._before: dict[tuple[str, int], Before | None] = {}

    def rows(self, site: str, chunk: Chunk) -> None:
        audit, place_N = self._audits[site], chunk.place_N
        loss_X = self._losses.loss_NT.view(-1)
        tokens = Tokens(
            document_N=chunk.document_N,
            token_N=chunk.token_N,
            position_N=place_N % self._length,
            loss_N=loss_X[place_N.to(loss_X.device)].to(place_N.device),
        )
        made = {name: _through(chunk, self._banks[name][site]) for name in audit.saes}
        before = {name: self._before.get((name, chunk.number)) for name in made}
        by_bank = audit.add(self._phase, chunk.x_ND, tokens, made, before)
        if any("adjacent" in sae.measurements for sae in audit.saes.values()):
            for name, parts in by_bank.items():
                alone = None if parts is None else parts.alone()
                self._before[name, chunk.number] = alone

    def batch(self, batch: ModelBatch, tick: Tick) -> None:
        self._before = {}

    def finish(self, progress: Tracker) -> None:
        if self._phase != folds.TEST:  # probes and fits to codes take longer than the sweep
            saes = sum(len(audit.saes) for audit in self._audits.values())
            with progress(f"fits after {PHASES[self._phase]}", saes, "SAEs") as tick:
                for audit in self._audits.values():
                    audit.finish(self._phase, tick)


def _through(chunk: Chunk, sae: SAE) -> Callable[[Tensor], SaeOutput]:
    return lambda _: SaeOutput(chunk.x_hat(sae), sae, chunk.code(sae))


@final
class ErrorAudit(Study):
    """Every SAE's error, decomposed.

    Args:
        on_error: bank → e, l or u → a suite that is trained on that part of its error.
        trained: bank → site → how its SAE was trained, where that is known: only SAEs that agree
            in it are compared over widths.

    Raises:
        UserError: if there are too few tokens or documents for a well-posed fit.
    """

    name = "audit"
    title = "Audit: what the SAEs miss, decomposed"

    def __init__(
        self,
        subject: Subject,
        config: AuditConfig,
        on_error: Mapping[str, Mapping[str, Suite]],
        trained: Mapping[str, Mapping[str, TrainedWith]],
    ) -> None:
        self.subject, self.config = subject, config
        self.held_out = held_out = subject.held_out(config.tokens)
        kept_n = held_out.row_NT[held_out.keep_NT]
        self.tokens_R = torch.bincount(kept_n, minlength=held_out.rows).cpu().numpy()
        self.fold_R = folds.assign(self.tokens_R, config.seed)
        for site in subject.sites:
            width = subject.lm.width(site)
            folds.check_size(self.tokens_R, self.fold_R, width, f"site {site}")
        self.audits = _site_audits(subject, held_out, config, on_error, trained)
        losses = Losses(subject.lm, held_out)
        needs: Sequence[Reading] = (losses,)
        for phase, fold in enumerate(folds.phases(self.fold_R)):
            last = FoldReading(phase, subject, self._kept(fold), self.audits, losses, needs)
            before, needs = needs, (last,)
        self.readings: Sequence[Reading] = (last,)
        self.downstream: PutBack | None = None
        if config.downstream:
            test = last.held_out
            self.downstream = PutBack(
                subject, test, losses, self._fit, config.downstream, needs=before, beside=last
            )
            self.readings = (last, self.downstream)

    def _kept(self, fold: int) -> HeldOut:
        in_fold_R = torch.from_numpy(self.fold_R == fold)
        keep_NT = self.held_out.keep_NT & in_fold_R[self.held_out.row_NT.clamp_min(0)]
        return replace(self.held_out, keep_NT=keep_NT)

    def _fit(self, name: str, site: str) -> Fit:
        fit = self.audits[site].saes[name].fit
        assert fit is not None
        return fit

    def results(self) -> dict[str, Measured]:
        return {name: Measured(result) for name, result in self.audited().items()}

    def audited(self) -> dict[str, AuditResult]:
        """Bank → its audit."""
        config, banks = self.config, self.subject.banks
        results = {name: self._result(name, bank) for name, bank in banks.items()}
        compared = scaling_sections(list(banks), self.audits, config.bootstrap, config.seed)
        results |= {
            name: _with(results[name], Scaling.name, scaling) for name, scaling in compared.items()
        }
        if self.downstream is not None:
            for name in banks:
                section = self.downstream.section(name, config.bootstrap, config.seed)
                results[name] = _with(results[name], Downstream.name, section)
        return results

    def _sizes(self) -> dict[str, Fold]:
        """Phase → the number of its tokens and documents."""
        sizes = {}
        for fold, name in enumerate(PHASES):
            tokens_r = self.tokens_R[self.fold_R == fold]
            sizes[name] = Fold(int(tokens_r.sum()), len(tokens_r))
        return sizes

    def _result(self, name: str, bank: Bank) -> AuditResult:
        audits, config, sizes = self.audits, self.config, self._sizes()
        measured = list(audits[next(iter(bank))].saes[name].measurements.values())
        values = {
            site: audits[site].saes[name].values(config.bootstrap, config.seed)
            for site in audits
            if site in bank
        }
        series = {site: audits[site].saes[name].series() for site in values}
        intervals = bootstrap.describe(sizes["test"].documents, config.bootstrap, config.seed)
        settings: dict[str, Any] = asdict(config) | {
            "intervals": intervals,
            "held_out": self.held_out.digest,
        }
        return AuditResult(
            title=self.title,
            config=settings,
            tokens=sizes["test"].tokens,
            documents=sizes["test"].documents,
            folds=sizes,
            **concluded(_sections(measured, values, series)),
        )


def _site_audits(
    subject: Subject,
    held_out: HeldOut,
    config: AuditConfig,
    on_error: Mapping[str, Mapping[str, Suite]],
    trained: Mapping[str, Mapping[str, TrainedWith]],
) -> dict[str, SiteAudit]:
    banks, lm = subject.banks, subject.lm
    audits = {
        site: SiteAudit(
            f"site {site}",
            Place(lm.width(site), held_out.rows, lm.device, config.seed, config.codes),
            [name for name, bank in banks.items() if site in bank],
            measurements(config),
            {name: bank[site] for name, bank in trained.items() if site in bank},
        )
        for site in subject.sites
    }
    for name, parts in on_error.items():
        for site in banks.get(name, {}):
            place = audits[site].place
            more = ErrorSaes(place, on_error_at(site, parts, place))
            audits[site].saes[name].also(more, place.documents)
    return audits


def measurements(config: AuditConfig) -> Make:
    """What is measured of every SAE of a suite."""

    def make(place: Place) -> list[Measurement]:
        made: list[Measurement] = [*base(place), SyntheticTest(place)]
        if config.zeroing:
            made.append(Zeroing(place, config.zeroing))
        made.append(ErrorByPosition(place))
        if config.adjacent:
            made.append(AdjacentSites(place))
        if config.pursuit:
            made.append(Pursuit(place, config.pursuit))
            if config.codes:
                made.append(Attribution(place))
        if config.mlp:
            made.append(MlpProbe(place, config.mlp))
        if config.wide:
            made.append(WideSae(place, config.wide))
        return made

    return make


def _sections(
    measured: Sequence[Measurement],
    values: Mapping[str, Mapping[str, Mapping[str, Value]]],
    series: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Section]:
    """Measurement → its section, from values and series by site."""
    return {
        measurement.name: measurement.section(
            {site: by_name[measurement.name] for site, by_name in values.items()},
            {
                site: by_name[measurement.name]
                for site, by_name in series.items()
                if measurement.name in by_name
            },
        )
        for measurement in measured
    }


def _with(result: AuditResult, name: str, section: Section) -> AuditResult:
    """The result with one more section, and with verdicts that take it into account."""
    return replace(result, **concluded(result.sections | {name: section}))
