"""What the tests of every foreign format share."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saeworks.errors import UserError
from saeworks.interop import load_foreign


def rows(n: int = 200, d: int = 16) -> Tensor:
    return 0.5 + 2 * torch.randn(n, d, generator=torch.Generator().manual_seed(7))


def close(ours: Tensor, theirs: Tensor, share: float = 1e-6) -> None:
    """To a share of the largest value."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=share * float(theirs.abs().max()))


def refused(folder: Path, expected: str) -> None:
    """One line that names the folder, and nothing written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        load_foreign(folder)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert str(folder) in message
    assert sorted(folder.rglob("*")) == before
