"""The peak memory of a stretch of code: on a GPU what torch allocated, on a CPU what it added.

And making many objects without the garbage collector's looks at them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """Counts from its making; :meth:`peak_bytes` is None where the system cannot tell.

    On CUDA, the most bytes that torch's allocator held at once. On a Linux CPU, the growth of the
    process's peak resident memory, with freed memory handed back first so that an earlier run in
    the same process does not hide it.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._earlier = 0  # the peak of the stretches before the last skip
        self._base: int | None = None  # resident bytes when the current stretch began
        self._begin()

    def mark(self) -> None:
        """Take in the peak so far; what runs between here and :meth:`skip` does not count."""
        self._earlier = self.peak_bytes() or 0

    def skip(self) -> None:
        """Count on from here, leaving out what ran since :meth:`mark`."""
        self._begin()

    def peak_bytes(self) -> int | None:
        """Return the highest peak of the stretches that count, in bytes."""
        if self._device.startswith("cuda"):
            import torch

            return max(self._earlier, int(torch.cuda.max_memory_allocated(self._device)))
        if self._base is None:
            return None
        return max(self._earlier, _peak_resident_bytes() - self._base)

    def _begin(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            return
        with contextlib.suppress(OSError, AttributeError):  # not Linux with glibc
            ctypes.CDLL(None).malloc_trim(0)
            _CLEAR.write_text("5")  # resets the peak, see proc(5)
            self._base = _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no VmHWM")


@contextlib.contextmanager
def making_many() -> Iterator[None]:
    """Make many objects that all stay, without the collector's looks at each of them meanwhile."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
