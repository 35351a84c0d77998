"""Compiling on first use, once: who compiles, who waits for it, and how the binary is kept."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ftbench.ops import build
from ftbench.ops.first_use import cache, isolated
from ftbench.ops.first_use.failures import REMEMBERED_SECONDS, Failures, circumstances

_log = logging.getLogger("ftbench")
_REPEAT_SECONDS = 60.0  # what is waited for is said again
# Of processor time, measured with g++ 12 and nvcc 13 on an EPYC, and of the longest file alone.
_COMPILE_SECONDS = {"the CPU": 130, "the CPU and CUDA": 160}
_LONGEST_SECONDS = 30


def binary_for(
    wanted: build.Stamp,
    *,
    clock: Callable[[], float] = time.time,
    repeat_seconds: float = _REPEAT_SECONDS,
) -> Path:
    """Return a binary that serves what is wanted, compiling it if the cache has none.

    Raises CompilationError where compiling fails, or failed before, and BuildError where it cannot
    be tried. ``clock`` gives seconds since 1970, as files are dated.
    """
    folder = cache.cache_folder()
    try:
        # Before anything is locked or written: the cache may be another's, or on a read-only disk.
        found = cache.find(folder, wanted)
        return found or _compile_once(folder, wanted, clock, repeat_seconds)
    except OSError as error:
        raise build.BuildError(
            f"the cache {folder} cannot be used: {error}", cache.ELSEWHERE
        ) from error


def _compile_once(
    folder: Path, wanted: build.Stamp, clock: Callable[[], float], repeat_seconds: float
) -> Path:
    """Compile what the cache does not have, unless another process does so at the moment."""
    name = f"ops-{cache.key_of(wanted)}"
    failures = Failures(folder, f"{name}-{circumstances()}", clock)
    failures.check()
    folder.mkdir(parents=True, exist_ok=True)
    arrived = clock()
    with _turn(folder / name, repeat_seconds) as waited:
        found = cache.find(folder, wanted)
        if found is not None:
            return found
        failures.check(since=arrived if waited else None)
        _clear(folder, clock() - REMEMBERED_SECONDS)
        return _compile(folder, name, wanted, failures)


@contextlib.contextmanager
def _turn(name: Path, repeat_seconds: float) -> Iterator[bool]:
    """Hold the lock, saying what is waited for; yields whether it had to be waited for.

    Where there can be no lock, as where another user made its file, there is none: binaries are
    made beside each other, and moved to their place in one step.
    """
    note = name.with_suffix(".builder.txt")
    lock = FileLock(f"{name}.lock")
    waited = False
    try:
        timeout = 0.0
        while not lock.is_locked:
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                again = "still waiting" if waited else "waiting"
                _log.warning("%s for %s to compile ftbench's operators", again, _builder(note))
                waited, timeout = True, repeat_seconds
    except (OSError, NotImplementedError):
        yield waited
        return
    try:
        with contextlib.suppress(OSError):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            note.write_text(
                f"process {os.getpid()} on {platform.node()} (since {now})", encoding="utf-8"
            )
        yield waited
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _builder(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _compile(folder: Path, name: str, wanted: build.Stamp, failures: Failures) -> Path:
    _log.warning(
        "compiling ftbench's operators for torch %s, once: %s", wanted.torch, _cost(wanted)
    )
    partial = Path(tempfile.mkdtemp(prefix=f"partial-{name}-", dir=folder))
    try:
        outcome = isolated.compile_apart(wanted, partial)
        if outcome.binary is None:
            failures.keep(outcome)
        else:
            return _keep(outcome.binary, partial / "finished", folder / name, wanted)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    raise failures.error(outcome)


def _clear(folder: Path, before: float) -> None:
    """Delete what builds that were killed have left, if it is older than any build can be."""
    for partial in folder.glob("partial-*"):
        with contextlib.suppress(OSError):
            if partial.stat().st_mtime < before:
                shutil.rmtree(partial)


def _keep(binary: Path, finished: Path, target: Path, wanted: build.Stamp) -> Path:
    """Move a binary to its place all at once: a process that is killed leaves nothing there."""
    finished.mkdir()
    binary.replace(finished / binary.name)
    found = cache.find(target.parent, wanted)
    if found is not None:  # by a process that had no lock
        return found
    if target.exists():
        shutil.rmtree(target)  # damaged, or for something else
    finished.replace(target)
    return target / binary.name


def _cost(wanted: build.Stamp) -> str:
    """Return what compiling costs, in the words of a message."""
    what = "the CPU and CUDA" if wanted.cuda else "the CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seconds = max(_LONGEST_SECONDS, _COMPILE_SECONDS[what] / (cores or 1))
    return f"for {what}, about {round(seconds, -1):.0f} s on {cores} cores that are free"
