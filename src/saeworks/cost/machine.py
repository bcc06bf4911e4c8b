"""What a measurement must know of the machine: memory of this process, business of others."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

_ENOUGH_TICKS = 0.25  # seconds: /proc/stat counts in hundredths, per core
_BUSY_CORES = 0.1
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h; the defaults are 128 KiB and 65536


def resident_bytes() -> int:
    """Memory of this process now."""
    if (size := _status("VmRSS")) is not None:
        return size
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most memory this process has had, since its start or the last `forget_peak`."""
    if (size := _status("VmHWM")) is not None:
        return size
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let the peak start again from now, where the system can (Linux)."""
    with suppress(OSError):  # where it cannot, the peak covers the whole process: an upper bound
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def memory_kept() -> Iterator[None]:
    """Have glibc keep what is freed for the next tensor instead of giving it back to the system.

    A step frees hundreds of megabytes that the next one asks for again, and a fresh page costs more
    than to write to it: 6 to 11% of a TopK step at D 768, M 24,576. Elsewhere nothing happens.
    """
    libc = ctypes.CDLL(None) if platform.system() == "Linux" else None
    if libc is None or not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 2**16)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**17)
        libc.malloc_trim(0)


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith(key + ":")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


class Neighbours:
    """How many cores other processes kept busy since this was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def busy_cores(self) -> float | None:
        """Cores used by others on average, or None where it cannot be told."""
        now = self._now()
        if now is None or self.start is None:
            return None
        wall, busy, ours = (end - start for end, start in zip(now, self.start, strict=True))
        return max(0.0, busy - ours) / wall if wall > 0 else None

    def verdict(self) -> tuple[bool | None, str]:
        """Whether a measurement since the start counts as undisturbed (None where that cannot be
        told), and why."""
        now, cores = self._now(), self.busy_cores()
        if now is None or self.start is None or cores is None:
            return None, "cannot tell: no /proc/stat here"
        if now[0] - self.start[0] < _ENOUGH_TICKS:
            return None, "cannot tell: the measurement was too short"
        if cores > _BUSY_CORES:
            return False, f"other processes kept {cores:.2f} cores busy"
        return True, f"other processes kept only {cores:.2f} cores busy"

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds: wall, busy on all cores (waiting for discs is idle), and this process's own."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return None
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
        times = os.times()
        busy = (user + nice + system + irq + softirq + steal) / ticks
        return perf_counter(), busy, times.user + times.system


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
