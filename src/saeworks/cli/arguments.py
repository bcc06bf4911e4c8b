"""Options that several commands have. It imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc
from tyro.conf import Positional, UseAppendAction

from saeworks.config import (
    PRESETS,
    ModelConfig,
    RunConfig,
    TextConfig,
    from_mapping,
    merge,
    override,
    read_yaml,
)
from saeworks.errors import UserError


@dataclass(frozen=True)
class SameAs:
    """In an option's annotation: its help is the text under this field of a configuration."""

    config: type
    field: str


Suites = Annotated[
    tuple[Path, ...],
    Positional,
    Doc("Folders of suites, or of runs (all their suites); at least one."),
]
Json = Annotated[bool, Doc("Print one JSON object on stdout instead of tables and lines.")]
Model = Annotated[str, SameAs(ModelConfig, "name")]
Text = Annotated[str, SameAs(TextConfig, "source")]
OtherModel = Annotated[
    str | None,
    Doc(
        "Another language model than the suites' own, such as theirs in another folder: a Hugging "
        "Face id, a folder, or `embedded`. With it, or with --text, results go to a folder of "
        "their own, `results/<name>/`, unless it is the suites' own in another place."
    ),
]
OtherText = Annotated[
    str | None,
    Doc(
        "Another text than the suites' own, packed as theirs is and measured on whole: a Hugging "
        "Face dataset, a .txt, .jsonl or .parquet file, or `embedded`."
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """Where a run is read from."""

    run: Annotated[Path | None, Positional] = None
    """RUN.yaml: a file of the keys that `saeworks train --keys` lists."""
    preset: str | None = None
    """`quick`: every layer, minutes on a CPU, whatever the model. `error`: SAEs on the error of a
    suite (`--set error.suite=…`)."""
    model: Annotated[str | None, SameAs(ModelConfig, "name")] = None
    text: Annotated[str | None, SameAs(TextConfig, "source")] = None
    set: Annotated[tuple[str, ...], UseAppendAction] = ()
    """key.sub=value, as often as needed; the value is YAML (`--set 'sites=[layers.1]'`)."""
    device: Annotated[str | None, SameAs(RunConfig, "device")] = None

    def config(self, **keys: Any) -> RunConfig:
        """The run's configuration. Order, later ones winning: defaults, preset, YAML file, `keys`,
        named options, `--set`.

        Raises:
            UserError: for an unknown preset, an unreadable file, an unknown key or a wrong value.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(
                f"--preset {self.preset!r} is unknown; choose one of {', '.join(PRESETS)}"
            )
        data: dict[str, Any] = dict(PRESETS[self.preset]) if self.preset else {}
        if self.run is not None:
            data = merge(data, read_yaml(self.run))
            from_mapping(RunConfig, data, str(self.run))  # so that a message names the file
        named = {"model": {"name": self.model}, "text": {"source": self.text}}
        data = merge(data, _given({**keys, **named, "device": self.device}))
        for text in self.set:
            data = override(data, text)
        if (cache := _cache(data)) is not None:
            from saeworks.train.cached_job import settings_of

            data = merge(settings_of(Path(cache)), data)
        return from_mapping(RunConfig, data, "options")

    def name(self, config: RunConfig) -> str:
        """What to call the run's folder, where none is given."""
        if self.run:
            return self.run.stem
        model = Path(config.model.name).name
        return f"{self.preset}-{model}" if self.preset else model


def _cache(data: Mapping[str, Any]) -> str | None:
    """The `source.cache` of a run's data, if it has one."""
    source = data.get("source")
    cache = source.get("cache") if isinstance(source, Mapping) else None
    return cache if isinstance(cache, str) else None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that were not given (None)."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        kept = _given(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            out[key] = kept
    return out
