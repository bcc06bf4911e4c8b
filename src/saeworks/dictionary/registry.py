"""ARCHS: the sole place where architectures are registered; torch is imported with the first."""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from saeworks.config import STRICT, from_mapping
from saeworks.errors import UserError

if TYPE_CHECKING:
    from saeworks.dictionary.base import SAE

_MODULES = {
    "topk": "saeworks.dictionary.archs.topk:TopK",
    "batchtopk": "saeworks.dictionary.archs.batchtopk:BatchTopK",
    "matryoshka": "saeworks.dictionary.archs.matryoshka:Matryoshka",
    "relu": "saeworks.dictionary.archs.relu:ReLU",
    "jumprelu": "saeworks.dictionary.archs.jumprelu:JumpReLU",
    "gated": "saeworks.dictionary.archs.gated:Gated",
    "switch": "saeworks.dictionary.archs.switch:Switch",
}


Architecture = TypeVar("Architecture", bound=type)


class Registry(Mapping[str, "type[SAE]"]):
    """Architectures by name: the package's own, imported when asked for, and those of scripts."""

    def __init__(self) -> None:
        self._registered: dict[str, type[SAE]] = {}

    def __getitem__(self, name: str) -> "type[SAE]":
        if name in self._registered:
            return self._registered[name]
        if name not in _MODULES:
            raise UserError(
                f"arch {name!r} is unknown; choose one of {', '.join(self)} (one of your own is "
                "known in the script that calls sw.register)"
            )
        module, _, attribute = _MODULES[name].partition(":")
        architecture: type[SAE] = getattr(import_module(module), attribute)
        return architecture

    def __iter__(self) -> Iterator[str]:
        yield from _MODULES
        yield from self._registered

    def __len__(self) -> int:
        return len(_MODULES) + len(self._registered)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES or name in self._registered

    def add(self, architecture: Any) -> None:
        """Take an architecture in; again under the same name in place of the one before, as a
        notebook's cell that is run twice does.

        Raises:
            UserError: as `register`.
        """
        _check_architecture(architecture)
        config = architecture.Config
        if not hasattr(config, "__pydantic_config__"):  # a plain dataclass, read as strictly
            config.__pydantic_config__ = STRICT
        self._registered[architecture.arch] = architecture


ARCHS = Registry()


def register(architecture: Architecture) -> Architecture:
    """Make an architecture of your own usable wherever one is named (`build_sae`, `train`,
    `load_suite`, run files); a decorator of its class.

    ```python
    @dataclass(frozen=True)
    class AbsoluteConfig:
        width: int
        k: int

    @sw.register
    class Absolute(sw.SAE):
        arch, Config = "absolute", AbsoluteConfig
        ...
    ```

    For the command line, end the script with `sw.main()`, and run it in the place of `saeworks`:
    `python absolute.py train run.yaml`. Nothing else ever runs a script: no run file and no suite
    can name one.

    Args:
        architecture: a subclass of `SAE` with all its abstract methods, `arch` (lower case), and
            `Config`, a frozen dataclass with a field `width`.

    Raises:
        UserError: if it is not that, or its name is one of the package's.
    """
    ARCHS.add(architecture)
    return architecture


def _check_architecture(given: Any) -> None:
    from saeworks.dictionary.base import SAE

    if not (inspect.isclass(given) and issubclass(given, SAE)):
        raise UserError(f"register: {given!r} is no subclass of sw.SAE; give the class itself")
    where = f"register: {given.__name__}"
    if inspect.isabstract(given):
        missing = ", ".join(sorted(given.__abstractmethods__))
        raise UserError(f"{where} lacks {missing}; write them (the base class says what they do)")
    name, config = getattr(given, "arch", None), getattr(given, "Config", None)
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", name)):
        raise UserError(f"{where}.arch = {name!r}: a name in lower case, such as 'absolute'")
    if name in _MODULES:
        raise UserError(f"{where}.arch = {name!r} is one of the package's; choose another name")
    frozen = getattr(getattr(config, "__dataclass_params__", None), "frozen", False)
    if not (frozen and "width" in getattr(config, "__dataclass_fields__", {})):
        raise UserError(f"{where}.Config must be a frozen dataclass with a field width")


def sae_config(arch: str, options: Mapping[str, Any], where: str) -> Any:
    """The architecture's own config dataclass (`width`, `k`, …) from plain data, strictly.

    Raises:
        UserError: if the architecture is unknown, or an option is unknown, ill-typed or impossible.
    """
    return from_mapping(ARCHS[arch].Config, options, f"{where} (arch {arch})")


def build_sae(arch: str, d: int, **options: Any) -> "SAE":
    """Build an initialised SAE: `build_sae("topk", d=768, width=24576, k=32)`.

    Raises:
        UserError: as `sae_config`, and if d is no whole number of at least 1.
    """
    if not isinstance(d, int) or d < 1:
        raise UserError(
            f"d = {d!r}: a whole number; an SAE needs activations of at least one dimension"
        )
    return ARCHS[arch](d, sae_config(arch, options, "build_sae"))
