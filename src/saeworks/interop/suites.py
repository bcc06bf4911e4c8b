"""Whole suites to and from the formats of other libraries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saeworks.config import ModelConfig, RunConfig, TextConfig
from saeworks.dictionary.normaliser import Normaliser
from saeworks.errors import UserError
from saeworks.interop import WRITTEN, find_foreign, format_module
from saeworks.interop.base import (
    Foreign,
    Model,
    folder_name,
    new_folder,
    short_names,
)
from saeworks.interop.hooks import one_site, site_of
from saeworks.suite import Suite, write_suite


def export(
    suite: Suite, out: Path, fmt: str, model: Model, sites: Sequence[str] | None = None
) -> dict[str, Path]:
    """Write a suite's SAEs, their normalisers folded in, in another library's format.

    Args:
        out: gets one folder per site.
        fmt: one of WRITTEN.
        model: the suite's language model.
        sites: only these, by default all.

    Returns:
        Site → its folder.

    Raises:
        UserError: if `out` has something in it, the format has no counterpart of an architecture
            or a site, `sites` are not the suite's, or its SAEs are not on activations. Nothing is
            written then.
    """
    if fmt not in WRITTEN:
        raise UserError(f"format {fmt!r} is not written; choose one of {', '.join(WRITTEN)}")
    suite.check_on_activations()
    chosen = list(suite.sites if sites is None else sites)
    module = format_module(fmt)
    with new_folder(out) as folder:
        for site in chosen:
            module.export(folder / folder_name(site), suite, site, model)
    return {site: out / site for site in chosen}


def read_all(path: Path) -> list[Foreign]:
    """Every SAE of a folder in another library's format; all of one architecture.

    Raises:
        UserError: as `load_foreign`, and if their architectures differ.
    """
    module, folders = find_foreign(path)
    saes: list[Foreign] = [module.load(folder) for folder in folders]
    first = saes[0]
    for other in saes:
        if other.sae.arch != first.sae.arch:
            raise UserError(
                f"{first.path} is {first.sae.arch} and {other.path} is {other.sae.arch}; a suite is"
                " of one architecture: convert them one by one"
            )
    return saes


def model_of(found: Sequence[Foreign]) -> ModelConfig:
    """The language model that the SAEs' files name.

    Raises:
        UserError: if they name none.
    """
    first = found[0]
    if first.model is None:
        raise UserError(f"{first.path} does not say its language model; name it with --model")
    for other in found:
        if other.model != first.model:
            raise UserError(
                f"{first.path} and {other.path} are of different language models; convert them one"
                " by one, or name the model with --model"
            )
    return first.model


def text_of(found: Sequence[Foreign], source: str | None, model: Model) -> TextConfig:
    """The text that the SAEs' files name, or `source` packed as they say.

    Raises:
        UserError: if there is none.
    """
    text = found[0].text or TextConfig(source="")
    if source is not None:
        text = replace(text, source=source, subset=None, split=TextConfig.split)
    if not text.source:
        raise UserError(f"{found[0].path} does not say its text; name it with --text")
    if model.bos_id is None and text.bos not in {"auto", "none"}:
        text = replace(text, bos="none")
    return text


def write(
    found: Sequence[Foreign],
    out: Path,
    model: Model,
    config: ModelConfig,
    text: TextConfig,
    sites: Sequence[str] | None = None,
) -> list[str]:
    """Write SAEs as a suite that eval and report accept; its normalisers are the identity.

    Args:
        config: how `model` is loaded again.
        sites: a pattern for each SAE in turn, in place of the hooks that their files name.

    Returns:
        The canonical sites.

    Raises:
        UserError: if `out` has something in it, a site is unknown or taken twice, or an SAE does
            not fit its site. Nothing is written then.
    """
    placed = _placed(found, model, sites)
    first = found[0]
    options = {"arch": first.sae.arch, **asdict(first.sae.config)}
    run = RunConfig(model=config, text=text, sites=tuple(placed), saes=(options,), seed=first.seed)
    with new_folder(out) as folder:
        write_suite(
            folder,
            variant=first.variant,
            groups={site: (foreign.sae, (site,)) for site, foreign in placed.items()},
            normalisers={
                site: Normaliser.identity(foreign.sae.d) for site, foreign in placed.items()
            },
            model={
                "name": config.name,
                "revision": config.revision,
                "fingerprint": model.fingerprint,
                "layers": model.layers,
            },
            text=asdict(text),
            config=asdict(run),
            seed=first.seed,
            tokens=first.tokens if len({foreign.tokens for foreign in found}) == 1 else 0,
            steps=0,
            norm_limits=first.norm_limits,
        )
    return list(placed)


def _placed(
    saes: Sequence[Foreign], model: Model, patterns: Sequence[str] | None
) -> Mapping[str, Foreign]:
    """Site → SAE, in the model's order."""
    if patterns and len(patterns) != len(saes):
        raise UserError(
            f"--site names {len(patterns)} sites for {len(saes)} SAEs "
            f"({short_names([foreign.path for foreign in saes])}); name one for each, in that order"
        )
    placed: dict[str, Foreign] = {}
    for number, foreign in enumerate(saes):
        site = one_site(patterns[number], model) if patterns else _own_site(foreign, model)
        if site in placed:
            raise UserError(
                f"{placed[site].path} and {foreign.path} are both of site {site}; a suite has one "
                "SAE per site: convert them one by one"
            )
        if model.width(site) != foreign.sae.d:
            raise UserError(
                f"{foreign.path} is for activations of width {foreign.sae.d}, but site {site} of "
                f"{model.name} has {model.width(site)}; check --model and --site"
            )
        folder_name(site)
        placed[site] = foreign
    return {site: placed[site] for site in model.sites(list(placed))}


def _own_site(foreign: Foreign, model: Model) -> str:
    if foreign.hook is None:
        raise UserError(
            f"{foreign.path} does not say where in the model it belongs; name it with --site"
        )
    if foreign.is_site:
        return one_site(foreign.hook, model)
    return site_of(foreign.hook, model)


def check_model(found: Sequence[Foreign], model: Any) -> None:
    """Refuse another model than the one that the files record.

    Raises:
        UserError: if its fingerprint differs.
    """
    for foreign in found:
        if foreign.fingerprint is not None and (reason := model.unlike(foreign.fingerprint)):
            raise UserError(
                f"{foreign.path} is of a model with fingerprint {foreign.fingerprint[:12]}, but "
                f"{model.name} is {model.fingerprint[:12]}: {reason}; name the model with --model"
            )
