"""What a run that did not end well leaves in its record."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Any

import torch

from ftbench.errors import DivergedError, FtbenchError, RunTimeoutError
from ftbench.records import Status


def failure(error: BaseException) -> dict[str, Any]:
    """Return the fields of the record of a run that ``error`` ended."""
    return {
        "status": _status(error),
        "message": _message(error),
        "traceback": "" if _says_all(error) else traceback.format_exc(),
    }


def _status(error: BaseException) -> Status:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, RunTimeoutError):
        return "timeout"
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if no_memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory"
    return "failed"


def _says_all(error: BaseException) -> bool:
    """Return whether an error was written for the user, and hides no other."""
    return isinstance(error, FtbenchError) and error.__cause__ is None


def _message(error: BaseException) -> str:
    """Return the error, with the place it was raised at unless it was written for the user.

    The place is the deepest line outside torch and ftbench, a plugin's, where there is one.
    """
    if isinstance(error, FtbenchError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if _is_a_plugins(f.filename)), frames[-1])
    place = f"{frame.filename}:{frame.lineno} in {frame.name}"
    return f"{type(error).__name__}: {error} ({place})"


def _is_a_plugins(file: str) -> bool:
    """Return whether a source file belongs to neither torch, ftbench nor Python itself."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    standard = file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file
    return not (standard or file.startswith((*others, "<")))
