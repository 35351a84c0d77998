"""The cache of operators that were compiled on first use: who compiles, who waits, what is kept."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import logging
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ftbench.ops import build, isolated

_log = logging.getLogger("ftbench")
_REMEMBERED_SECONDS = 24 * 3600
_REPEAT_SECONDS = 60.0  # what is waited for is said again
# Of processor time, measured with g++ 12 and nvcc 13 on an EPYC, and of the longest file alone.
_COMPILE_SECONDS = {"the CPU": 130, "the CPU and CUDA": 160}
_LONGEST_SECONDS = 30
_ELSEWHERE = "set FTBENCH_CACHE to a folder that you can write to"
# What compilers read beside their arguments, and what they are asked for.
_CIRCUMSTANCES = (
    *("CXX", "CC", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
    *("COMPILER_PATH", "GCC_EXEC_PREFIX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"),
    *("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "FTBENCH_SANITIZE"),
)


def cache_folder() -> Path:
    """Return where operators compiled on first use are kept: FTBENCH_CACHE, or the user's cache.

    Raises BuildError where there is no such folder, as for a user without a home.
    """
    named = os.environ.get("FTBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    if named:
        folder = named
    elif base and os.path.isabs(base):  # a relative one is to be ignored, its specification says
        folder = os.path.join(base, "ftbench")
    else:
        folder = "~/.cache/ftbench"
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        raise build.BuildError("there is no home folder to keep compiled operators in", _ELSEWHERE)
    try:
        return Path(found).absolute()
    except OSError as error:  # a relative one, in a folder that is gone
        raise build.BuildError(f"there is no folder {found}: {error}", _ELSEWHERE) from error


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
    folder = cache_folder()
    try:
        # Before anything is locked or written: the cache may be another's, or on a read-only disk.
        found = find(folder, wanted)
        return found or _compile_once(folder, wanted, clock, repeat_seconds)
    except OSError as error:
        raise build.BuildError(f"the cache {folder} cannot be used: {error}", _ELSEWHERE) from error


def find(folder: Path, wanted: build.Stamp) -> Path | None:
    """Return a finished binary that serves what is wanted; None where there is none.

    One by another compiler serves where this machine has none that works.
    """
    try:
        version = compiler_version()
        exact = f"ops-{key_of(wanted, version)}"
    except build.BuildError:
        version, exact = None, ""
    # Its own folder first, then those of binaries that do more.
    folders = sorted(folder.glob("ops-*"), key=lambda each: (each.name != exact, each.name))
    for each in folders:
        for binary in sorted(each.glob(f"**/_C{importlib.machinery.EXTENSION_SUFFIXES[0]}")):
            stamp = _stamp_of(binary)
            if stamp is None or not stamp.serves(wanted):
                continue
            if version is None or each.name == f"ops-{key_of(stamp, version)}":
                return binary
    return None


def _stamp_of(binary: Path) -> build.Stamp | None:
    try:
        return build.read_stamp(binary)
    except OSError:  # another user's, who keeps it to himself
        return None


def key_of(stamp: build.Stamp, version: str | None = None) -> str:
    """Return the cache's name for a binary: its stamp, this Python's and the compiler's.

    ``version`` is the compiler's; it is asked where that is not given.
    """
    told = compiler_version() if version is None else version
    return _hash(str(stamp), importlib.machinery.EXTENSION_SUFFIXES[0], told)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def compiler_version() -> str:
    """Return the first line that the C++ compiler says of itself; BuildError without one."""
    command = build.compiler_command()
    if not command:
        raise build.BuildError(
            "no C++ compiler was found; install g++ (Debian, Ubuntu: apt install g++)",
            "install g++, then run ftbench again",
        )
    told = build.ask([*command, "--version"])
    if told.returncode != 0:
        raise build.BuildError(
            f"the C++ compiler {command[0]} fails with exit status {told.returncode} when asked "
            "for its version",
            "name one that works in CXX, then run ftbench again",
        )
    return told.stdout.partition("\n")[0]


def forget_failures() -> None:
    """Let the next use compile again what failed to compile before."""
    with contextlib.suppress(build.BuildError, OSError):  # no cache, so nothing to forget
        for path in cache_folder().glob("ops-*.failed.txt"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s cannot be deleted, and is believed: %s", path, error)


def _compile_once(
    folder: Path, wanted: build.Stamp, clock: Callable[[], float], repeat_seconds: float
) -> Path:
    """Compile what the cache does not have, unless another process does so at the moment."""
    name = f"ops-{key_of(wanted)}"
    failures = _Failures(folder, f"{name}-{_circumstances()}", clock)
    failures.check()
    folder.mkdir(parents=True, exist_ok=True)
    arrived = clock()
    with _turn(folder / name, repeat_seconds) as waited:
        found = find(folder, wanted)
        if found is not None:
            return found
        failures.check(since=arrived if waited else None)
        _clear(folder, clock() - _REMEMBERED_SECONDS)
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


def _compile(folder: Path, name: str, wanted: build.Stamp, failures: _Failures) -> Path:
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
    found = find(target.parent, wanted)
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


def _circumstances() -> str:
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
    return _hash(*parts)


class _Failures:
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
        if failed is not None and 0 <= self._clock() - failed < _REMEMBERED_SECONDS:
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
        again = time.strftime("%Y-%m-%d %H:%M", time.localtime(failed + _REMEMBERED_SECONDS))
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
