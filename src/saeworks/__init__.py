"""saeworks: train, scale and audit sparse autoencoders over a whole language model.

The public names; each is imported when first used, so that `import saeworks` stays fast.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Torch's CPU blocks of 2 MiB and more in large pages, where Linux gives them on request: a step's
# fresh gradients cost more in page faults than in arithmetic. Read by torch at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_PUBLIC = {
    "ARCHS": "saeworks.dictionary.registry",
    "build_sae": "saeworks.dictionary.registry",
    "register": "saeworks.dictionary.registry",
    "main": "saeworks.cli.main",
    "SAE": "saeworks.dictionary.base",
    "SparseCode": "saeworks.dictionary.base",
    "Batch": "saeworks.dictionary.base",
    "Context": "saeworks.dictionary.base",
    "StepOut": "saeworks.dictionary.base",
    "LanguageModel": "saeworks.lm.model",
    "Suite": "saeworks.suite",
    "load_suite": "saeworks.suite",
    "load_foreign": "saeworks.interop",
    "angular_distances": "saeworks.groups.distances",
    "AngularDistances": "saeworks.groups.distances",
    "partition": "saeworks.groups.partition",
    "amad": "saeworks.results.groups",
    "choose_groups": "saeworks.groups.partition",
    "Plan": "saeworks.results.plan",
    "latents": "saeworks.measure.looking.latents",
    "evaluate": "saeworks.measure.rows",
    "flops": "saeworks.cost.estimate",
    "advise": "saeworks.advice.run",
    "Advice": "saeworks.advice.advice",
    "audit": "saeworks.measure.audit.arrays",
    "Audit": "saeworks.measure.audit.arrays",
    "UserError": "saeworks.errors",
}

__all__ = ["__version__", "train", *_PUBLIC]  # noqa: PLE0604 - the keys are strings


if TYPE_CHECKING:  # for checkers of types a function, and no module
    from saeworks.train.tensors import train


class _Train(ModuleType):
    """The trainer's package, `saeworks.train`; called, `saeworks.train.tensors.train`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Train on activations of one's own: see `saeworks.train.tensors.train`."""
        from saeworks.train.tensors import train

        return train(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):  # set by its first import
            value.__class__ = _Train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("saeworks.train")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'saeworks' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
