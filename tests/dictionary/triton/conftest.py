"""The kernels run on a GPU where there is one, and otherwise in Triton's interpreter, which
`tests/conftest.py` turns on."""

from collections.abc import Callable

import pytest
import torch

from saeworks.dictionary import kernels

pytest.importorskip("triton")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def through_triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, everything takes the path of a GPU, in the interpreter too."""

    def take() -> None:
        monkeypatch.setattr(kernels, "TRITON_DEVICES", {"cpu", "cuda"})

    return take


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These are device tests: `pytest -m cuda` runs them on the GPU."""
    for item in items:
        if "tests/dictionary/triton" in item.nodeid and torch.cuda.is_available():
            item.add_marker(pytest.mark.cuda)
