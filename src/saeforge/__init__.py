"""saeforge: train, scale and audit sparse autoencoders over a whole language model.

The public names; each is imported when first used, so that `import saeforge` stays fast.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# Torch's CPU blocks of 2 MiB and more in large pages, where Linux gives them on request: a step's
# fresh gradients cost more in page faults than in arithmetic. Read by torch at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_PUBLIC = {
    "ARCHS": "saeforge.dictionary.registry",
    "build_sae": "saeforge.dictionary.registry",
    "register": "saeforge.dictionary.registry",
    "main": "saeforge.cli",
    "SAE": "saeforge.dictionary.base",
    "SparseCode": "saeforge.dictionary.base",
    "Batch": "saeforge.dictionary.base",
    "Context": "saeforge.dictionary.base",
    "StepOut": "saeforge.dictionary.base",
    "LanguageModel": "saeforge.lm.model",
    "Suite": "saeforge.suite",
    "load_suite": "saeforge.suite",
    "load_foreign": "saeforge.interop",
    "angular_distances": "saeforge.groups.distances",
    "AngularDistances": "saeforge.groups.distances",
    "partition": "saeforge.groups.partition",
    "amad": "saeforge.groups.partition",
    "choose_groups": "saeforge.groups.partition",
    "Plan": "saeforge.groups.plan",
    "evaluate": "saeforge.eval.rows",
    "flops": "saeforge.cost",
    "audit": "saeforge.eval.audit.arrays",
    "Audit": "saeforge.eval.audit.arrays",
    "UserError": "saeforge.errors",
}

__all__ = ["__version__", "train", *_PUBLIC]  # noqa: PLE0604 - the keys are strings


class _Train(ModuleType):
    """The trainer's package, `saeforge.train`; called, `saeforge.tensors.train`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Train on activations of one's own: see `saeforge.tensors.train`."""
        from saeforge.tensors import train

        return train(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):  # set by its first import
            value.__class__ = _Train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("saeforge.train")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'saeforge' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
