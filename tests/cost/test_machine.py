import sys
from types import SimpleNamespace

import psutil
import pytest

from saeworks.cost import machine


def test_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch):
    assert 2**20 < machine.resident_bytes() <= machine.peak_bytes() < 2**40
    monkeypatch.setattr(machine, "_status", lambda key: None)  # a system without /proc
    assert 2**20 < machine.resident_bytes() <= 1.1 * machine.peak_bytes() < 2**40
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    memory = SimpleNamespace(rss=3, peak_wset=5)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: memory)
    assert (machine.resident_bytes(), machine.peak_bytes()) == (3, 5)
