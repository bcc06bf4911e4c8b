"""ARCHS: the sole place where architectures are registered; torch is imported with the first."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from saeforge.config import from_mapping
from saeforge.errors import UserError

if TYPE_CHECKING:
    from saeforge.dictionary.base import SAE

_MODULES = {
    "topk": "saeforge.dictionary.topk:TopK",
    "batchtopk": "saeforge.dictionary.batchtopk:BatchTopK",
    "matryoshka": "saeforge.dictionary.matryoshka:Matryoshka",
    "relu": "saeforge.dictionary.relu:ReLU",
    "jumprelu": "saeforge.dictionary.jumprelu:JumpReLU",
    "gated": "saeforge.dictionary.gated:Gated",
    "switch": "saeforge.dictionary.switch:Switch",
}


class Registry(Mapping[str, "type[SAE]"]):
    """Architectures by name, imported when asked for."""

    def __getitem__(self, name: str) -> "type[SAE]":
        if name not in _MODULES:
            raise UserError(f"arch {name!r} is unknown; choose one of {', '.join(_MODULES)}")
        module, _, attribute = _MODULES[name].partition(":")
        architecture: type[SAE] = getattr(import_module(module), attribute)
        return architecture

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES


ARCHS = Registry()


def sae_config(arch: str, options: Mapping[str, Any], where: str) -> Any:
    """The architecture's own config dataclass (`width`, `k`, …) from plain data, strictly.

    Raises:
        UserError: if the architecture is unknown, or an option is unknown, ill-typed or impossible.
    """
    return from_mapping(ARCHS[arch].Config, options, f"{where} (arch {arch})")


def build_sae(arch: str, d: int, **options: Any) -> "SAE":
    """Build an initialised SAE: `build_sae("topk", d=768, width=24576, k=32)`.

    Raises:
        UserError: as `sae_config`, and if d is not positive.
    """
    if d < 1:
        raise UserError(f"d = {d}: an SAE needs activations of at least one dimension")
    return ARCHS[arch](d, sae_config(arch, options, "build_sae"))
