"""Which implementation of the operators serves: the compiled one, or plain torch."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock

from ftbench.errors import FtbenchError
from ftbench.ops import build

_log = logging.getLogger("ftbench")
_HOW = "`ftbench doctor` says more"


@dataclass(frozen=True)
class Implementation:
    """What serves the operators in this process, and why.

    ``name`` is ``compiled`` or ``reference``; ``operators`` is ``torch.ops.ftbench``, None for the
    reference; ``cuda`` names the GPU architectures in the binary, ``""`` where it is for the CPU
    alone; ``advice`` is what would bring a faster one.
    """

    name: str
    reason: str
    operators: Any = None
    module: ModuleType | None = None
    path: Path | None = None
    cuda: str = ""
    advice: str = ""

    @property
    def instruction_set(self) -> str:
        """The CPU instruction set of the kernels in use, ``""`` for the reference."""
        return "" if self.module is None else str(self.module.instruction_set())

    def serves(self, device: torch.device) -> bool:
        """Return whether the compiled operators serve this device."""
        if self.operators is None:
            return False
        return device.type == "cpu" or (device.type == "cuda" and bool(self.cuda))

    def serving(self, device: torch.device) -> str:
        """Return what serves this device, in the words of a run's record."""
        if not self.serves(device):
            return "reference"
        return f"compiled {self.instruction_set if device.type == 'cpu' else 'cuda'}"


_chosen: Implementation | None = None


def implementation() -> Implementation:
    """Return what serves in this process, compiling the operators if nothing else is needed.

    ``FTBENCH_OPS=reference`` or ``compiled`` forces one; FtbenchError where it cannot be had.
    """
    global _chosen
    if _chosen is None:
        _chosen = _choose()
    return _chosen


def choose_again() -> None:
    """Let the next use choose anew, as when the environment has changed."""
    global _chosen
    _chosen = None


def _choose() -> Implementation:
    asked = os.environ.get("FTBENCH_OPS", "").strip()
    if asked not in {"", "reference", "compiled"}:
        raise FtbenchError(f"FTBENCH_OPS is {asked!r}; expected reference or compiled")
    if asked == "reference":
        return Implementation(
            "reference", "FTBENCH_OPS=reference asks for it", advice="unset FTBENCH_OPS"
        )
    try:
        return _compiled()
    except build.BuildError as error:
        if asked == "compiled":
            raise FtbenchError(f"FTBENCH_OPS=compiled, but {error}") from error
        _log.warning("mixing and penalties run in plain torch, slower: %s (%s)", error, _HOW)
        return Implementation("reference", str(error), advice=_advice(str(error)))


def operators(device: torch.device) -> Any:
    """Return ``torch.ops.ftbench`` if it serves this device, else None."""
    serving = implementation()
    return serving.operators if serving.serves(device) else None


def _advice(problem: str) -> str:
    if "compiler" in problem:
        return "install g++, then run ftbench again"
    return "remove what stands in the way, then `ftbench doctor --build`"


def cache_folder() -> Path:
    """Return where operators compiled on first use are kept: FTBENCH_CACHE, or the user's cache."""
    named = os.environ.get("FTBENCH_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftbench"


def _compiled() -> Implementation:
    wanted = build.wanted_stamp()
    ahead = ahead_of_time()
    note = ""
    if ahead is not None:
        stamp = build.read_stamp(ahead)
        if stamp is not None and stamp.serves(wanted):
            return _load(ahead, stamp, "built when ftbench was installed")
        note = f"; {ahead.name} is for {_difference(stamp, wanted)}"
    binary = _first_use(wanted)
    stamp = build.read_stamp(binary)
    if stamp is None:
        raise build.BuildError(f"{binary} is damaged; delete it")
    return _load(binary, stamp, f"compiled on first use{note}")


def _difference(stamp: build.Stamp | None, wanted: build.Stamp) -> str:
    if stamp is None:
        return "nothing known"
    if stamp.torch != wanted.torch:
        return f"torch {stamp.torch}, not {wanted.torch}"
    if stamp.sources != wanted.sources:
        return "other sources"
    return f"{stamp.cuda or 'the CPU alone'}, not {wanted.cuda or 'the CPU alone'}"


def ahead_of_time() -> Path | None:
    """Return the binary that was built with the package; None where there is none."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_C{suffix}")
        if path.is_file():
            return path
    return None


def _load(path: Path, stamp: build.Stamp, reason: str) -> Implementation:
    loader = importlib.machinery.ExtensionFileLoader(build.NAME, str(path))
    spec = importlib.util.spec_from_file_location(build.NAME, path, loader=loader)
    if spec is None:
        raise build.BuildError(f"{path} is no extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise build.BuildError(f"{path.name} cannot be loaded: {error}") from error
    try:
        module.instruction_set()
    except ValueError as error:
        raise FtbenchError(f"FTBENCH_ISA: {error}") from error
    return Implementation(
        "compiled", reason, torch.ops.ftbench, module=module, path=path, cuda=stamp.cuda
    )


def _first_use(wanted: build.Stamp) -> Path:
    """Return the binary in the cache, compiling it if it is not there."""
    folder = cache_folder() / f"ops-{key_of(wanted)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        with lock:
            return _from_cache(folder)
    except OSError as error:
        raise build.BuildError(f"the cache {folder.parent} cannot be used: {error}") from error


def key_of(stamp: build.Stamp) -> str:
    """Return the cache's name for a binary: its stamp, this Python's and the compiler's."""
    import hashlib

    parts = [str(stamp), importlib.machinery.EXTENSION_SUFFIXES[0], _compiler_version()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiler_version() -> str:
    path = build.compiler()
    if path is None:
        raise build.BuildError("no C++ compiler was found; install g++ (apt install g++)")
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return told.stdout.partition("\n")[0]


def _from_cache(folder: Path) -> Path:
    """Return the binary in ``folder``; the caller holds its lock."""
    found = sorted(folder.glob("**/_C*.so"))
    if found:
        return found[0]
    failed = folder.with_suffix(".failed.txt")
    if failed.exists():
        raise build.BuildError(
            f"compiling failed before; {failed} says how (`ftbench doctor --build` tries again)"
        )
    return _compile(folder, failed)


def _compile(folder: Path, failed: Path) -> Path:
    _log.warning("compiling ftbench's operators for torch %s, once: a minute", torch.__version__)
    partial = folder.with_suffix(".partial")
    trouble = _run_build(partial)
    if trouble and os.environ.get("FTBENCH_CUDA") != "1" and build.cuda_decision()[0]:
        failed.write_text(trouble, encoding="utf-8")
        _log.warning("they do not compile for CUDA (%s says why): the CPU alone, then", failed)
        trouble = _run_build(partial, FTBENCH_CUDA="0")
    if trouble:
        failed.write_text(trouble, encoding="utf-8")
        raise build.BuildError(f"compiling failed; {failed} says how")
    # All at once: a process that is killed leaves nothing that looks finished.
    partial.replace(folder)
    return sorted(folder.glob("**/_C*.so"))[0]


def _run_build(folder: Path, **environ: str) -> str:
    """Build into a folder in a process of its own; return what it said if it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "ftbench.ops.build", str(folder)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"{done.stdout}\n{done.stderr}"


def forget_failures() -> None:
    """Let the next use compile again what failed to compile before."""
    choose_again()
    for path in cache_folder().glob("ops-*.failed.txt"):
        path.unlink(missing_ok=True)
