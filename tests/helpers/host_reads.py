"""What makes the host wait for a device."""

import sys
from contextlib import AbstractContextManager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostReads(TorchDispatchMode):
    """Refuses the operators whose result the host has to wait for, and the methods that copy a
    tensor to the host (on the CPU they are no operators). Triton's interpreter may use them."""

    WAIT: ClassVar[set[str]] = {
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
        *("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    }
    COPY = ("tolist", "numpy", "cpu", "item", "__bool__")

    def __enter__(self) -> Any:
        self._patches = [_refused(name) for name in self.COPY]
        for method in self._patches:
            method.__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for method in self._patches:
            method.__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in self.WAIT, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            assert all(a is None or a.dtype != torch.bool for a in args[1]), f"{name} by mask"
        return func(*args, **(kwargs or {}))


def _refused(name: str) -> AbstractContextManager[Any]:
    method = getattr(torch.Tensor, name)

    def refuse(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        assert caller.startswith("triton."), f"{name} in {caller} waits for the device"
        return method(tensor, *args, **kwargs)

    return patch.object(torch.Tensor, name, refuse)
