"""What is remembered of failed compilations: the compiler's word is believed for a day."""

from __future__ import annotations

import contextlib
import logging
import os
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from ftbench.ops import build
from ftbench.ops.first_use import cache, isolated

_log = logging.getLogger("ftbench")
REMEMBERED_SECONDS = 24 * 3600
# What compilers read beside their arguments, and what they are asked for.
_CIRCUMSTANCES = (
    *("CXX", "CC", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
    *("COMPILER_PATH", "GCC_EXEC_PREFIX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"),
    *("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "FTBENCH_SANITIZE"),
)


def forget_failures() -> None:
    """Let the next use compile again what failed to compile before."""
    with contextlib.suppress(build.BuildError, OSError):  # no cache, so nothing to forget
        for path in cache.cache_folder().glob("ops-*.failed.txt"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s cannot be deleted, and is believed: %s", path, error)


def circumstances() -> str:
    """Return a hash of what may change a compiler's mind: its file, and what it reads."""
    parts = [f"{name}={os.environ.get(name, '')}" for name in _CIRCUMSTANCES]
    toolkit = build.cuda_toolkit()[0]
    files = [Path(word) for word in build.compiler_command()[:1]]
    files += [] if toolkit is None else [toolkit / "bin" / "nvcc"]
    # Its absence is the usual reason, and installing it the usual remedy.
    files.append(Path(sysconfig.get_path("include")) / "Python.h")
    for file in files:
        try:
            status = file.stat()
            parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            parts.append(f"{file} is missing")
    return cache.short_hash(*parts)


class Failures:
    """What is remembered of compilations that failed, for one binary in one environment.

    A compiler's verdict is believed for a day. Whatever else cut a compilation short is believed
    only by those who waited for that compilation.
    """

    def __init__(self, folder: Path, name: str, clock: Callable[[], float]) -> None:
        self._verdict = folder / f"{name}.failed.txt"
        self._trouble = folder / f"{name}.interrupted.txt"
        self._clock = clock

    def keep(self, outcome: isolated.Outcome) -> None:
        """Write down what was said, dated now."""
        path = self._verdict if outcome.verdict else self._trouble
        path.unlink(missing_ok=True)  # it may be another user's
        path.write_text(outcome.said, encoding="utf-8")
        now = self._clock()
        os.utime(path, (now, now))

    def error(self, outcome: isolated.Outcome) -> build.CompilationError:
        """Return the error for a compilation that has just failed."""
        return self._refused() if outcome.verdict else self._interrupted(outcome.summary)

    def check(self, since: float | None = None) -> None:
        """Raise the error that is remembered; ``since``, that of a compilation that was awaited."""
        failed = self._failed_at(self._verdict)
        if failed is not None and 0 <= self._clock() - failed < REMEMBERED_SECONDS:
            raise self._refused("before")
        interrupted = self._failed_at(self._trouble)
        if since is not None and interrupted is not None and interrupted >= since:
            raise self._interrupted("in the process that was waited for")

    def _failed_at(self, path: Path) -> float | None:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _refused(self, when: str = "") -> build.CompilationError:
        failed = self._failed_at(self._verdict) or self._clock()
        again = time.strftime("%Y-%m-%d %H:%M", time.localtime(failed + REMEMBERED_SECONDS))
        return build.CompilationError(
            f"compiling failed{f' {when}' if when else ''}; {self._verdict} says how (tried again "
            f"from {again} on, at once by `ftbench doctor --build`)",
            f"remove what {self._verdict} names, then `ftbench doctor --build`",
        )

    def _interrupted(self, summary: str) -> build.CompilationError:
        return build.CompilationError(
            f"compiling was cut short: {summary} ({self._trouble} says more; the next use tries "
            "again)",
            "remove what stands in the way, then run ftbench again",
        )
