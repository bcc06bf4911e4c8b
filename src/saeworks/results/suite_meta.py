"""`suite.json`: what a suite says of itself."""

from dataclasses import field
from typing import Any

from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

_OPEN = ConfigDict(extra="ignore", strict=True)
"""Keys that nobody reads are let pass: a suite outlives the version that trained it."""


@dataclass(frozen=True, config=_OPEN)
class ModelMeta:
    """The language model."""

    name: str = ""
    revision: str | None = None
    fingerprint: str | None = None
    layers: int | None = None


@dataclass(frozen=True, config=_OPEN)
class SiteMeta:
    """Where a site's SAE is, and the width of its activations."""

    group: str
    d: PositiveInt


@dataclass(frozen=True, config=_OPEN)
class GroupMeta:
    """The sites that share an SAE, and its number of latents."""

    sites: list[str]
    width: int | None = None


@dataclass(frozen=True, config=_OPEN)
class ErrorMeta:
    """Which error of which suite the SAEs were trained on."""

    component: str
    suite: str
    digest: str


@dataclass(frozen=True, config=_OPEN)
class SuiteMeta:
    """The parts of suite.json that are read."""

    model: ModelMeta
    text: dict[str, Any]
    """The fields of TextConfig."""
    variant: str
    arch: str
    sites: dict[str, SiteMeta]
    groups: dict[str, GroupMeta]
    tokens: int
    """That each SAE was trained on."""
    config: dict[str, Any]
    """The whole RunConfig."""
    files: dict[str, str]
    """File → SHA-256."""
    seed: int | None = None
    steps: int | None = None
    epochs: float | None = None
    train: dict[str, Any] = field(default_factory=dict)
    """This variant's own settings of optimiser and schedule."""
    grouping: dict[str, Any] = field(default_factory=dict)
    """How the groups were found."""
    seconds: float | None = None
    """Of the training loop, with all variants that were trained in it."""
    cost: dict[str, Any] = field(default_factory=dict)
    """FLOPs of the training, by part."""
    versions: dict[str, str | None] = field(default_factory=dict)
    error: ErrorMeta | None = None
