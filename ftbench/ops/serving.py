"""Which implementation of the operators serves: the compiled one, or plain torch."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ftbench.errors import FtbenchError
from ftbench.ops import build, first_use

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
        return Implementation("reference", str(error), advice=error.advice)


def operators(device: torch.device) -> Any:
    """Return ``torch.ops.ftbench`` if it serves this device, else None."""
    active = implementation()
    return active.operators if active.serves(device) else None


def cuda_here() -> tuple[bool, str]:
    """Return whether this process wants kernels for CUDA, and why.

    As build.cuda_decision(), but a first use, which is for this machine alone, compiles for a GPU
    only where torch sees one: it takes a fifth longer.
    """
    chosen, why = build.cuda_decision()
    asked = os.environ.get("FTBENCH_CUDA", "").strip() == "1"
    if chosen and not asked and not torch.cuda.is_available():
        return False, f"torch sees no GPU ({why}; FTBENCH_CUDA=1 compiles for one)"
    return chosen, why


def _compiled() -> Implementation:
    wanted = build.wanted_stamp(cuda=cuda_here()[0])
    try:
        return _serving(wanted)
    except build.CompilationError as error:
        if not wanted.cuda or os.environ.get("FTBENCH_CUDA", "").strip() == "1":
            raise
        _log.warning("the CPU alone, then, since for CUDA %s", error)
        return _serving(replace(wanted, cuda=""))


def _serving(wanted: build.Stamp) -> Implementation:
    """Load a binary that does what is wanted: from ahead of time, the cache, or made now."""
    ahead = ahead_of_time()
    note = ""
    if ahead is not None:
        try:
            stamp = build.read_stamp(ahead)
        except OSError as error:
            raise build.BuildError(f"{ahead} cannot be read: {error}") from error
        if stamp is not None and stamp.serves(wanted):
            return _load(ahead, stamp, "built when ftbench was installed")
        note = f"; {ahead.name} is for {_difference(stamp, wanted)}"
    binary = first_use.binary_for(wanted)
    found = build.read_stamp(binary) or wanted
    return _load(binary, found, f"compiled on first use{note}")


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


_loaded: dict[Path, ModuleType] = {}  # one at most


def _load(path: Path, stamp: build.Stamp, reason: str) -> Implementation:
    other = next((loaded for loaded in _loaded if loaded != path), None)
    if other is not None:
        # torch takes an operator once, and ends the process where another binary brings it again.
        raise build.BuildError(
            f"{path} cannot be loaded: {other} is, in this process", "start a new process"
        )
    loader = importlib.machinery.ExtensionFileLoader(build.NAME, str(path))
    spec = importlib.util.spec_from_file_location(build.NAME, path, loader=loader)
    if spec is None:
        raise build.BuildError(f"{path} is no extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise build.BuildError(
            f"{path} cannot be loaded: {error}", f"delete {path}, then run ftbench again"
        ) from error
    _loaded[path] = module
    try:
        module.instruction_set()
    except ValueError as error:
        raise FtbenchError(f"FTBENCH_ISA: {error}") from error
    return Implementation(
        "compiled", reason, torch.ops.ftbench, module=module, path=path, cuda=stamp.cuda
    )
