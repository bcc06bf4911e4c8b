"""A trained suite on disk: one SAE per site, with what is needed to use and reproduce it.

A folder of `suite.json`, `groups/<group>/{config.json, weights.safetensors}`,
`normalisers.safetensors`, `metrics.jsonl`, `results/`, `report/`. `suite.json` is written last and
holds the SHA-256 of the other files of the suite and a seal over itself (`saeworks.files.seals`),
so a half-written suite is no suite, and a changed one is noticed. A folder may come from anybody:
nothing in it is executed, and no path in it leads outside it.
"""

import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saeworks import __version__
from saeworks.config import RunConfig, from_mapping
from saeworks.dictionary.base import SAE, described
from saeworks.dictionary.normaliser import Normaliser
from saeworks.dictionary.registry import ARCHS, sae_config
from saeworks.errors import UserError, one_line
from saeworks.files.access import (
    check_finite,
    head_digest,
    inside,
    is_dir,
    is_file,
    own_folder,
    read_json,
    read_shapes,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from saeworks.files.seals import (
    REPAIR,
    SUITE,
    SUITE_SCHEMA,
    read_suite_json,
    verify_files,
    write_sealed,
)
from saeworks.results import regime
from saeworks.results.names import LOG
from saeworks.results.records import parse
from saeworks.results.suite_meta import SuiteMeta

TEXT_DIGEST = "text_digest"
"""Key of suite.json: the digest of a text that is one file, to know it again elsewhere."""
ERROR_MAPS = "error.safetensors"
HELD_OUT = "held_out.safetensors"


class Suite:
    """A suite that has been read and verified; SAEs are loaded when first asked for.

    Attributes:
        path: its folder.
        meta: its `suite.json`.
        sites: canonical site names, in the model's order.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path, self.meta = path, meta
        self.sites: list[str] = list(meta["sites"])
        self._trained: dict[str, SAE] = {}
        self._folded: dict[str, SAE] = {}
        self._normalisers: dict[str, Normaliser] = {}

    def __repr__(self) -> str:
        sites = "1 site" if len(self.sites) == 1 else f"{len(self.sites)} sites"
        return f"Suite({str(self.path)!r}: {self.variant}, {sites})"

    def __str__(self) -> str:
        """The architecture, d, M and k of every site's SAE; sites that are alike share a line."""
        alike: dict[str, list[str]] = {}
        for group, sites in self.groups.items():
            arch, d, config = self._config(group)
            what = described(ARCHS[arch], d, config) + (", shared" if len(sites) > 1 else "")
            alike.setdefault(what, []).extend(sites)
        lines = [f"  {', '.join(sites)}: {what}" for what, sites in alike.items()]
        return "\n".join([repr(self), *lines])

    @property
    def arch(self) -> str:
        return str(self.meta["arch"])

    @property
    def variant(self) -> str:
        return str(self.meta["variant"])

    @property
    def run(self) -> RunConfig:
        """The configuration of the run that trained it.

        Raises:
            UserError: if it has none that this version reads.
        """
        return from_mapping(RunConfig, self.meta["config"], f"{self.path / SUITE}: config")

    def at(self, site: str) -> SAE:
        """The site's SAE on raw activations (its normaliser folded in).

        Raises:
            UserError: if the suite has no such site.
        """
        if site not in self._folded:
            normaliser = self.normaliser(site)
            self._folded[site] = self.trained(site).folded(normaliser.mean, normaliser.scale)
        return self._folded[site]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Name of a group → the sites that share its SAE."""
        return {group: list(entry["sites"]) for group, entry in self.meta["groups"].items()}

    @property
    def norm_limits(self) -> dict[str, float]:
        """Site → the norm above which tokens were left out of training, and so are of evaluation;
        empty where none were.

        Raises:
            UserError: if what stands there are no such numbers.
        """
        limits = self.meta.get("norm_limits", {})
        if not isinstance(limits, dict) or not all(
            isinstance(limit, float | int) and 0 < limit < float("inf") for limit in limits.values()
        ):
            raise UserError(f"{self.path / 'suite.json'}: norm_limits are no norms; restore it")
        return {str(site): float(limit) for site, limit in limits.items()}

    def tokens_per_latent(self, site: str) -> float | None:
        """Vectors that the site's SAE was trained on, per latent; None where that is not known."""
        group = self._site(site)["group"]
        ratio = regime.of_groups(self.meta).get(group)
        if ratio is not None:
            return ratio
        config = read_json(self.path / "groups" / group / "config.json", "SAE")
        options = config.get("options") if isinstance(config, dict) else None
        width = options.get("width") if isinstance(options, dict) else None
        return regime.tokens_per_latent(self.meta["tokens"], width)

    def trained(self, site: str) -> SAE:
        """The site's SAE in normalised units, as it was trained; sites of a group share it (but
        for what an architecture keeps per site, such as BatchTopK's threshold).

        Raises:
            UserError: if the suite has no such site, or the weights do not fit their config or are
                not finite.
        """
        group = self._site(site)["group"]
        if group not in self._trained:
            self._trained[group] = self._load(group)
        return self._trained[group].for_site(self.groups[group].index(site))

    def normaliser(self, site: str) -> Normaliser:
        """The site's affine map from raw to normalised units."""
        d = self._site(site)["d"]
        if not self._normalisers:
            tensors = self._tensors("normalisers.safetensors")
            self._normalisers = {
                s: Normaliser(tensors[f"{s}.mean"].float(), tensors[f"{s}.scale"].float())
                for s in self.sites
                if f"{s}.mean" in tensors and f"{s}.scale" in tensors
            }
        normaliser = self._normalisers.get(site)
        if normaliser is None or normaliser.mean.shape != (d,) or normaliser.scale.shape != ():
            raise UserError(f"{self.path}: the normaliser of {site} is missing or ill-shaped")
        if not normaliser.scale > 0:
            raise UserError(
                f"{self.path}: the normaliser of {site} has the scale "
                f"{normaliser.scale.item():g}; it must be positive: restore it from a copy or "
                "train the suite again"
            )
        return normaliser

    def bank(self) -> dict[str, SAE]:
        """site → SAE on raw activations, for every site.

        Raises:
            UserError: as `check_on_activations`.
        """
        self.check_on_activations()
        return {site: self.at(site) for site in self.sites}

    def check_on_activations(self) -> None:
        """Refuse what is trained on the error of other SAEs: it cannot stand in for a site.

        Raises:
            UserError: if it is; see `error`.
        """
        if self.error is not None:
            part, of = self.error["component"], self.error["suite"]
            raise UserError(
                f"{self.path} codes the error ({part}) of {of}, not activations, so it cannot "
                "stand in for a site; measure it with `"
                + shlex.join(["saeworks", "audit", of, "--error-saes", str(self.path)])
                + "`"
            )

    @property
    def error(self) -> dict[str, Any] | None:
        """Where the suite was trained on another's error: which `component` of which `suite`, its
        `digest`, and by site what the linear map was fitted on; else None."""
        error: dict[str, Any] | None = self.meta.get("error")
        return error

    @property
    def held_out(self) -> Int[Tensor, " rows"] | None:
        """Where `sw.train` trained the suite on a tensor: the numbers of the rows that were kept
        for evaluation, ascending; else None."""
        if HELD_OUT not in self.meta["files"]:
            return None
        return self._tensors(HELD_OUT)["rows"]

    def error_maps(self) -> dict[str, dict[str, Tensor]]:
        """site → the tensors of ℓ(x) = (x − x_mean) weight + mean, where `error` needs it."""
        if self.error is None or ERROR_MAPS not in self.meta["files"]:
            return {}
        maps: dict[str, dict[str, Tensor]] = {site: {} for site in self.sites}
        for key, tensor in self._tensors(ERROR_MAPS).items():
            site, _, name = key.rpartition(".")
            if site in maps:
                maps[site][name] = tensor
        return maps

    def digest(self) -> str:
        """SHA-256 of suite.json, and so of all its files."""
        return sha256(self.path / "suite.json")

    def _site(self, site: str) -> Any:
        if site not in self.meta["sites"]:
            raise UserError(
                f"suite {self.path} has no site {site!r}; it has {', '.join(self.sites)}"
            )
        return self.meta["sites"][site]

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of the suite's files, all finite."""
        tensors = read_tensors(self.path / name)
        check_finite(self.path / name, tensors)
        return tensors

    def _config(self, group: str) -> tuple[str, int, Any]:
        """Architecture, d and options of a group's SAE."""
        file = inside(self.path, f"groups/{group}/config.json")
        config = read_json(file, "SAE")
        try:
            arch, d = str(config["arch"]), int(config["d"])
            options = dict(config["options"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{file} is not an SAE's config") from None
        return arch, d, sae_config(arch, options, str(file))

    def _load(self, group: str) -> SAE:
        folder = inside(self.path, f"groups/{group}")
        arch, d, config = self._config(group)
        sites = len(self.groups[group])
        self._check_weights(folder / "weights.safetensors", arch, d, config, sites)
        sae = ARCHS[arch](d, config)
        sae.share(sites)
        tensors = self._tensors(f"groups/{group}/weights.safetensors")
        try:
            sae.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"{folder}: weights do not fit config.json ({one_line(error)})"
            ) from None
        return sae.requires_grad_(False).eval()

    def _check_weights(self, file: Path, arch: str, d: int, config: Any, sites: int) -> None:
        """Refuse shapes that are not the config's, before anything has the size that it claims."""
        try:
            with torch.device("meta"):
                sae = ARCHS[arch](d, config)
                sae.share(sites)
        except NotImplementedError:  # an architecture of a script that asks for values while made
            return
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{file.parent / 'config.json'} makes no SAE ({one_line(error)})"
            ) from None
        wanted = {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}
        shapes = read_shapes(file)
        for name in sorted(wanted.keys() | shapes.keys()):
            if wanted.get(name) != shapes.get(name):
                raise UserError(
                    f"{file.parent}: weights do not fit config.json ({name} is "
                    f"{_shape(shapes.get(name))}, config.json makes it {_shape(wanted.get(name))})"
                )


def text_digest(source: object) -> str | None:
    """The digest of a text's content where it is one file, wherever that lies; else None."""
    return head_digest(Path(source)) if isinstance(source, str) and is_file(Path(source)) else None


def load_suite(path: str | Path) -> Suite:
    """Read a suite, verifying that every file of it is the one that was written.

    Raises:
        UserError: if it is not a suite, is of a newer schema, or a file is missing or corrupt.
    """
    path = Path(path)
    if not is_file(path / SUITE):
        below = _below(path)
        hint = f"; it holds the suites {', '.join(p.name for p in below)}" if below else ""
        raise UserError(f"{path} is not a suite (it has no suite.json){hint}")
    meta = read_suite_json(path)
    _check_shape(path, meta)
    verify_files(path, meta)
    return Suite(path, meta)


def find_suites(path: str | Path) -> list[Path]:
    """The suite at `path`, or those in the folders right below it.

    Raises:
        UserError: if there are none.
    """
    path = Path(path)
    if not is_dir(path):
        raise UserError(f"{path}: no such folder; give a suite or the --out of a training run")
    if is_file(path / SUITE):
        return [path]
    suites = _below(path)
    for suite in suites:
        if not suite.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{suite} is a link to {suite.resolve()}, outside {path}; name that suite itself"
            )
    if not suites:
        raise UserError(f"{path} holds no suite; {_why_none(path)}")
    return suites


def _why_none(path: Path) -> str:
    """Why a folder holds no suite, and what to do."""
    if not is_file(path / "run.json"):
        return "give a suite or the --out of a training run"
    run = read_json(path / "run.json", "run")
    stopped = run.get("stopped") if isinstance(run, dict) else None
    return str(stopped or "its training is not finished: run the same command again")


def find_all_suites(paths: Sequence[str | Path]) -> list[Path]:
    """Every suite in the folders given, as `find_suites` finds them, each once, in order.

    Raises:
        UserError: if no folder is given, or one has no suite.
    """
    if not paths:
        raise UserError("name at least one folder of a suite or of a run")
    return list(dict.fromkeys(suite for path in paths for suite in find_suites(path)))


def write_suite(
    path: Path,
    *,
    variant: str,
    groups: Mapping[str, tuple[SAE, Sequence[str]]],
    normalisers: Mapping[str, Normaliser],
    model: Mapping[str, Any],
    text: Mapping[str, Any],
    config: Mapping[str, Any],
    seed: int,
    tokens: int,
    steps: int,
    epochs: int | None = None,
    train: Mapping[str, Any] | None = None,
    grouping: Mapping[str, Any] | None = None,
    normaliser: str | None = None,
    seconds: float | None = None,
    cost: Mapping[str, float] | None = None,
    error: Mapping[str, Any] | None = None,
    error_maps: Mapping[str, Mapping[str, Tensor]] | None = None,
    norm_limits: Mapping[str, float] | None = None,
    mean_over_std: Mapping[str, float | None] | None = None,
    precision: str | None = None,
    held_out: Tensor | None = None,
) -> None:
    """Write a suite's folder; `suite.json` comes last.

    Args:
        groups: group → its SAE in normalised units, and its sites.
        normalisers: by site, in the model's order.
        model: name, revision, fingerprint, layers.
        text: the fields of TextConfig.
        config: the whole RunConfig.
        epochs: whole passes over the text.
        train: this variant's own settings of optimiser and schedule.
        grouping: how the groups were found.
        normaliser: the kind of its sites' normalisers.
        seconds: of the training loop, with all variants that were trained in it.
        cost: FLOPs of the training, by part.
        error: which error the SAEs were trained on, if on one; see `Suite.error`.
        error_maps: site → tensors of its linear map.
        norm_limits: site → the norm above which tokens were left out.
        mean_over_std: site → ‖μ‖/‖σ‖ of the rows that its normaliser was estimated on.
        precision: in which active latents were looked for in training.
        held_out: the rows that were held out, where it was trained on a tensor.

    Raises:
        UserError: if a group's name is no folder name, or the disk is full.
    """
    tensors = {"normalisers.safetensors": _by_site({s: vars(n) for s, n in normalisers.items()})}
    tensors |= {ERROR_MAPS: _by_site(error_maps)} if error_maps else {}
    tensors |= {HELD_OUT: {"rows": held_out}} if held_out is not None else {}
    files = _write_saes(path, groups)
    files |= {name: write_tensors(path / name, content) for name, content in tensors.items()}
    if is_file(path / LOG):
        files[LOG] = sha256(path / LOG)
    first, _ = next(iter(groups.values()))
    meta = {
        "schema": SUITE_SCHEMA,
        "model": dict(model),
        "text": dict(text),
        TEXT_DIGEST: text_digest(text.get("source")),
        "variant": variant,
        "arch": first.arch,
        "sites": _sites(groups, normalisers, mean_over_std or {}),
        "groups": {g: {"sites": list(s), "width": sae.width} for g, (sae, s) in groups.items()},
        "tokens": tokens,
        "steps": steps,
        "epochs": epochs,
        "config": dict(config),
        "train": dict(train or {}),
        "grouping": dict(grouping or {}),
        "normaliser": normaliser,
        "precision": precision,
        "seconds": seconds,
        "cost": dict(cost or {}),
        **({"error": dict(error)} if error else {}),
        **({"norm_limits": dict(norm_limits)} if norm_limits else {}),
        "seed": seed,
        "versions": _versions(),
        "files": files,
    }
    write_sealed(path / SUITE, meta)


def _by_site(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`site.name` → tensor."""
    return {f"{s}.{name}": tensor for s, named in tensors.items() for name, tensor in named.items()}


def _sites(
    groups: Mapping[str, tuple[SAE, Sequence[str]]],
    order: Iterable[str],
    mean_over_std: Mapping[str, float | None],
) -> dict[str, dict[str, Any]]:
    """What suite.json says of every site, in this order."""
    place = {site: (group, sae.d) for group, (sae, sites) in groups.items() for site in sites}
    known = {site: {"mean_over_std": ratio} for site, ratio in mean_over_std.items()}
    return {
        site: {"group": place[site][0], "d": place[site][1], **known.get(site, {})}
        for site in order
    }


def _write_saes(path: Path, groups: Mapping[str, tuple[SAE, Sequence[str]]]) -> dict[str, str]:
    """Write each group's SAE; the SHA-256 of every file."""
    files: dict[str, str] = {}
    for group, (sae, _) in groups.items():
        folder = own_folder(path, f"groups/{group}")
        options = {"arch": sae.arch, "d": sae.d, "options": asdict(sae.config)}
        write_json(folder / "config.json", options)
        files[f"groups/{group}/config.json"] = sha256(folder / "config.json")
        name = f"groups/{group}/weights.safetensors"
        files[name] = write_tensors(path / name, sae.state_dict())
    return files


def _check_shape(path: Path, meta: Mapping[str, Any]) -> None:
    """Refuse a suite.json that lacks a part that is needed, or the SHA-256 of a file it uses."""
    file = path / SUITE
    record = parse(SuiteMeta, dict(meta), str(file), REPAIR)
    hashed = {"normalisers.safetensors"}
    for name, site in record.sites.items():
        inside(path, f"groups/{site.group}")
        hashed |= {f"groups/{site.group}/{file}" for file in ("config.json", "weights.safetensors")}
        if site.group not in record.groups or name not in record.groups[site.group].sites:
            raise UserError(f"{file}: site {name} is not among its group's; {REPAIR}")
    unlisted = sorted(hashed - record.files.keys())
    if unlisted:
        raise UserError(f"{file} has no SHA-256 of {', '.join(unlisted)}; {REPAIR}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))


def _below(path: Path) -> list[Path]:
    folders = [p.parent for p in path.glob("*/suite.json")] if is_dir(path) else []
    return sorted(folders, key=lambda folder: _natural(folder.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key in which k8 comes before k16."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _versions() -> dict[str, str | None]:
    return {
        "saeworks": __version__,
        "torch": _installed("torch"),
        "transformers": _installed("transformers"),
        "python": platform.python_version(),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
