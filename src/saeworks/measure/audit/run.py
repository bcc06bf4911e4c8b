"""`saeworks audit`: every site of any number of suites, one language-model pass per phase."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeworks.config import AuditConfig, ModelConfig, TextConfig
from saeworks.dictionary.base import SAE
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel
from saeworks.measure import bootstrap
from saeworks.measure.asked import (
    measured_on,
    placed,
    ready_for_results,
    results_folder,
    works,
)
from saeworks.measure.audit import downstream, folds
from saeworks.measure.audit.adjacent import AdjacentSites
from saeworks.measure.audit.arrays import base
from saeworks.measure.audit.attribution import Attribution
from saeworks.measure.audit.downstream import Downstream
from saeworks.measure.audit.engine import (
    Make,
    Reconstruction,
    SiteAudit,
    rows_at_once,
)
from saeworks.measure.audit.error_saes import ErrorSaes, match, on_error_at
from saeworks.measure.audit.fits import Before, Tokens
from saeworks.measure.audit.measurement import Measurement, Place
from saeworks.measure.audit.mlp import MlpProbe
from saeworks.measure.audit.positions import ErrorByPosition
from saeworks.measure.audit.pursuit import Pursuit
from saeworks.measure.audit.scaling_section import Scaling, scaling_sections
from saeworks.measure.audit.synthetic import SyntheticTest
from saeworks.measure.audit.verdict import verdict
from saeworks.measure.audit.wide import WideSae
from saeworks.measure.audit.widths import Trained
from saeworks.measure.audit.zeroing import Zeroing
from saeworks.measure.banks import (
    LM_TOKENS,
    Bank,
    kept_rows,
    row_chunks,
    sites_of,
)
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import (
    Tick,
    Tracker,
    silent,
    tracker,
)
from saeworks.measure.run import held_out_tokens
from saeworks.measure.studies.splice import (
    counted,
    logit_batch,
    logits,
    prediction_losses,
)
from saeworks.results.audit import AuditResult
from saeworks.results.metric import Value
from saeworks.results.names import AUDIT
from saeworks.results.section import Section
from saeworks.suite import Suite, load_suite

PHASES = ("fit", "second", "test")
"""Of the result's folds, and of the progress shown."""


@dataclass(frozen=True)
class Audited:
    """Held-out tokens with their folds and the model's losses.

    Attributes:
        fold_R: the fold of each document.
        tokens_R: kept tokens of each document.
        loss_NT: nats lost on the next token, float32; NaN where that is not counted.
    """

    held_out: HeldOut
    fold_R: NDArray[np.int64]
    tokens_R: NDArray[np.int64]
    loss_NT: Tensor

    def batches(
        self, phase: int, device: torch.device, tokens: int = LM_TOKENS
    ) -> Iterator[tuple[HeldOut, Tensor]]:
        """The sequences with tokens of a phase's fold, only those kept, and their losses."""
        fold = folds.phases(self.fold_R)[phase]
        in_fold_R = torch.from_numpy(self.fold_R == fold)
        keep_NT = self.held_out.keep_NT & in_fold_R[self.held_out.row_NT.clamp_min(0)]
        here_n = keep_NT.any(dim=1).nonzero()[:, 0]
        step = max(1, tokens // keep_NT.shape[1])
        for part in torch.split(here_n, step):
            batch = replace(
                self.held_out,
                tokens_NT=self.held_out.tokens_NT[part].to(device),
                document_NT=self.held_out.document_NT[part].to(device),
                row_NT=self.held_out.row_NT[part].to(device),
                keep_NT=keep_NT[part].to(device),
            )
            yield batch, self.loss_NT[part].to(device)

    def sequences(self, phase: int) -> int:
        """How many sequences a phase runs over, padding and all, in tokens."""
        return sum(batch.tokens_NT.numel() for batch, _ in self.batches(phase, torch.device("cpu")))

    def sizes(self) -> dict[str, dict[str, int]]:
        """Fold → tokens, documents."""
        found = {}
        for fold, name in enumerate(PHASES):
            tokens_r = self.tokens_R[self.fold_R == fold]
            found[name] = {"tokens": int(tokens_r.sum()), "documents": len(tokens_r)}
        return found


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
    suites = [load_suite(path) for path in dict.fromkeys(paths)]
    ready_for_results(suites, results_folder(model, text))
    on_error = match(error_saes, suites)
    found: dict[Path, AuditResult] = {}
    for work in works(suites, model, text):
        lm = work.language_model(choose_device(config.device), own=model is None)
        banks = work.banks(lm, fingerprinted=model is None)
        held_out = held_out_tokens(lm, work.text, work.seed, config.tokens, work.limits)
        if say is not None:
            say(
                f"{len(work.suites)} suite(s) of {lm.name}: {held_out.kept:,} "
                f"{'held-out ' if work.text.held_out < 1 else ''}tokens of "
                f"{held_out.documents:,} documents of {work.text.source}"
            )
        trained = {str(suite.path): _trained(suite) for suite in work.suites}
        measured = audit_banks(banks, lm, held_out, config, tracker(say), on_error, trained)
        for suite in work.suites:
            result = measured[str(suite.path)]
            about = measured_on(suite, lm, work.model, work.text)
            found[suite.path] = replace(result, config=result.config | about)
    for path, result in found.items():
        result.write(path / placed(result.config, model, text) / AUDIT)
    return {suite.path: found[suite.path] for suite in suites}


def _trained(suite: Suite) -> dict[str, Trained]:
    """Site → how its SAE was trained."""
    tokens = suite.meta["tokens"]
    known = tokens if isinstance(tokens, int) else None
    return {site: Trained(known, len(sites)) for sites in suite.groups.values() for site in sites}


@torch.no_grad()
def audit_banks(
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    held_out: HeldOut,
    config: AuditConfig,
    progress: Tracker = silent,
    on_error: Mapping[str, Mapping[str, Suite]] | None = None,
    trained: Mapping[str, Mapping[str, Trained]] | None = None,
) -> dict[str, AuditResult]:
    """Audit every SAE of every bank on the same tokens.

    Args:
        on_error: bank → e, l or u → a suite that is trained on that part of its error.
        trained: bank → site → how its SAE was trained, where that is known: only SAEs that agree
            in it are compared over widths.

    Raises:
        UserError: as `audit_suites`.
    """
    sites = sites_of(banks, lm)
    audited = _prepare(lm, held_out, sites, config, progress)
    audits = {
        site: SiteAudit(
            f"site {site}",
            Place(lm.width(site), held_out.rows, lm.device, config.seed, config.codes),
            [name for name, bank in banks.items() if site in bank],
            measurements(config),
            {name: bank[site] for name, bank in (trained or {}).items() if site in bank},
        )
        for site in sites
    }
    for name, parts in (on_error or {}).items():
        for site in banks.get(name, {}):
            place = audits[site].place
            more = ErrorSaes(place, on_error_at(site, parts, place))
            audits[site].saes[name].also(more, place.documents)
    for phase, name in enumerate(PHASES):
        with progress(f"audit, {name}", audited.sequences(phase)) as tick:
            _run_phase(phase, lm, audits, banks, audited, tick)
        _finish(phase, audits, progress)
    results = {name: _result(name, bank, audits, audited, config) for name, bank in banks.items()}
    compared = scaling_sections(list(banks), audits, config.bootstrap, config.seed)
    results |= {name: _with(results[name], Scaling.name, one) for name, one in compared.items()}
    if config.downstream:
        return _with_downstream(results, banks, lm, audits, audited, config, progress)
    return results


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


def _prepare(
    lm: LanguageModel,
    held_out: HeldOut,
    sites: Sequence[str],
    config: AuditConfig,
    progress: Tracker,
) -> Audited:
    """Folds, checked before anything long is done; then one pass for the model's losses."""
    kept_n = held_out.row_NT[held_out.keep_NT]
    tokens_R = torch.bincount(kept_n, minlength=held_out.rows).cpu().numpy()
    fold_R = folds.assign(tokens_R, config.seed)
    for site in sites:
        folds.check_size(tokens_R, fold_R, lm.width(site), f"site {site}")
    losses = []
    with progress("losses", held_out.tokens_NT.numel()) as tick:
        for batch in held_out.batches(logit_batch(lm), lm.device):
            loss_P, _ = prediction_losses(logits(lm, batch), batch)
            loss_NT = torch.full(batch.tokens_NT.shape, torch.nan, device=lm.device)
            loss_NT[counted(batch)] = loss_P.float()
            losses.append(loss_NT.cpu())
            tick(batch.tokens_NT.numel())
    return Audited(held_out, fold_R, tokens_R, torch.cat(losses))


def _run_phase(
    phase: int,
    lm: LanguageModel,
    audits: Mapping[str, SiteAudit],
    banks: Mapping[str, Bank],
    audited: Audited,
    tick: Tick,
) -> None:
    """One pass of the language model, every site's rows going to its audit as they come."""
    widest = max(sae.width for bank in banks.values() for sae in bank.values())
    step = rows_at_once(max(one.place.d for one in audits.values()))
    for number, (batch, loss_NT) in enumerate(audited.batches(phase, lm.device)):
        chunk = _Chunk(phase, number, batch, loss_NT, widest, step, {})
        lm.run(
            batch.tokens_NT,
            {site: _observer(site, one, banks, chunk) for site, one in audits.items()},
        )
        tick(batch.tokens_NT.numel())


def _finish(phase: int, audits: Mapping[str, SiteAudit], progress: Tracker) -> None:
    """What is fitted to the phase's rows; probes and fits to codes take longer than the pass."""
    if phase != folds.TEST:
        saes = sum(len(one.saes) for one in audits.values())
        with progress(f"fits after {PHASES[phase]}", saes, "SAEs") as tick:
            for one in audits.values():
                one.finish(phase, tick)


@dataclass(frozen=True)
class _Chunk:
    """One batch of a phase.

    Attributes:
        widest: latents of the widest SAE, so that all sites cut their rows alike.
        step: rows in float64 at once, at the site of the largest D.
        before: bank → what is kept of its site that ran last, one for each cut.
    """

    phase: int
    number: int
    batch: HeldOut
    loss_NT: Tensor
    widest: int
    step: int
    before: dict[str, list[Before | None]]

    def cuts(self, rows: int) -> Iterator[slice]:
        """Rows that go through an SAE and into float64 at once."""
        for part in row_chunks(rows, self.widest):
            for start in range(part.start, part.stop, self.step):
                yield slice(start, min(start + self.step, part.stop))


def _observer(
    site: str, audit: SiteAudit, banks: Mapping[str, Bank], chunk: _Chunk
) -> Callable[[Tensor], None]:
    made = {name: _through(banks[name][site]) for name in audit.saes}
    follows = any("adjacent" in sae.measurements for sae in audit.saes.values())

    def observe(x_BTD: Tensor) -> None:
        keep_NT = chunk.batch.keep_NT
        x_ND = kept_rows(x_BTD, keep_NT, site, chunk.number)
        tokens = Tokens(
            document_N=chunk.batch.row_NT[keep_NT],
            token_N=chunk.batch.tokens_NT[keep_NT],
            position_N=keep_NT.nonzero()[:, 1],
            loss_N=chunk.loss_NT[keep_NT],
        )
        kept: dict[str, list[Before | None]] = {name: [] for name in made}
        for at, rows in enumerate(chunk.cuts(len(x_ND))):
            before = {name: parts[at] for name, parts in chunk.before.items()}
            found = audit.add(chunk.phase, x_ND[rows], tokens.part(rows), made, before)
            for name, parts in found.items():
                kept[name].append(parts.alone() if follows and parts is not None else None)
        if follows:
            chunk.before.update(kept)

    return observe


def _through(sae: SAE) -> Callable[[Tensor], Reconstruction]:
    def reconstruct(x_ND: Tensor) -> Reconstruction:
        code = sae.encode_sparse(x_ND)
        return Reconstruction(sae.decode(code), sae, code)

    return reconstruct


def _result(
    name: str,
    bank: Bank,
    audits: Mapping[str, SiteAudit],
    audited: Audited,
    config: AuditConfig,
) -> AuditResult:
    sizes = audited.sizes()
    measured = list(audits[next(iter(bank))].saes[name].measurements.values())
    values = {
        site: audits[site].saes[name].values(config.bootstrap, config.seed)
        for site in audits
        if site in bank
    }
    series = {site: audits[site].saes[name].series() for site in values}
    intervals = bootstrap.describe(sizes["test"]["documents"], config.bootstrap, config.seed)
    settings: dict[str, Any] = asdict(config) | {
        "intervals": intervals,
        "held_out": audited.held_out.digest,
    }
    return AuditResult(
        title="Audit: what the SAEs miss, decomposed",
        config=settings,
        tokens=sizes["test"]["tokens"],
        documents=sizes["test"]["documents"],
        folds=sizes,
        sections=_sections(measured, values, series),
        verdicts={site: verdict(found) for site, found in values.items()},
    )


def _sections(
    measured: Sequence[Measurement],
    values: Mapping[str, Mapping[str, Mapping[str, Value]]],
    series: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Section]:
    """Site → measurement → metric, turned round."""
    return {
        one.name: one.section(
            {site: by_name[one.name] for site, by_name in values.items()},
            {site: by_name[one.name] for site, by_name in series.items() if one.name in by_name},
        )
        for one in measured
    }


def _with_downstream(
    results: dict[str, AuditResult],
    banks: Mapping[str, Bank],
    lm: LanguageModel,
    audits: Mapping[str, SiteAudit],
    audited: Audited,
    config: AuditConfig,
    progress: Tracker,
) -> dict[str, AuditResult]:
    """Each result with its section on the model's loss, and verdicts that know of it."""

    def batches(tokens: int) -> Iterator[tuple[HeldOut, Tensor]]:
        return audited.batches(folds.TEST, lm.device, tokens)

    saes = sum(len(bank) for bank in banks.values())
    limits = downstream.Limits(
        audited.held_out.rows, config.downstream, config.bootstrap, config.seed
    )
    found: dict[str, AuditResult] = {}
    used = list(downstream.first(lm, batches, config.downstream))
    total = 3 * saes * sum(batch.tokens_NT.numel() for batch, _ in used)
    extent = downstream.extent(used)
    with progress("downstream", total) as tick:
        for name, bank in banks.items():
            sites = {}
            for site in audits:
                if site in bank:
                    fit = audits[site].saes[name].fit
                    assert fit is not None
                    sites[site] = downstream.downstream(
                        site, bank[site], fit, lm, batches, limits, tick
                    )
            section = Downstream.section(sites, dict.fromkeys(sites, extent))
            found[name] = _with(results[name], Downstream.name, section)
    return found


def _with(result: AuditResult, name: str, section: Section) -> AuditResult:
    """The result with a section more, and verdicts that know of it."""
    sections = result.sections | {name: section}
    verdicts = {
        site: verdict({key: one.sites.get(site, {}) for key, one in sections.items()})
        for site in result.verdicts
    }
    return replace(result, sections=sections, verdicts=verdicts)
