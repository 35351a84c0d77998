"""Outcomes: a run's results row by row on the test set, as one small file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Outcomes = Mapping[str, npt.NDArray[Any]]
"""By name, one entry a row of the test set, in its order."""
Keep = Literal["outcomes", "predictions"]
"""What is kept of a run's results: the outcomes alone, or the task's predictions as well."""


def pack(outcomes: Outcomes) -> bytes:
    """Return outcomes as the contents of a compressed NumPy archive."""
    file = io.BytesIO()
    np.savez_compressed(file, **outcomes)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the outcomes of an archive; ValueError where it is none, or rows are missing."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no NumPy archive ({error})") from error
    if len({len(values) for values in found.values() if values.ndim}) != 1:
        raise ValueError("its arrays do not have one entry a row each")
    return found


def fingerprint(outcomes: Outcomes) -> str:
    """Return a SHA-256 of names, types and values: the same for equal outcomes."""
    digest = hashlib.sha256()
    for name in sorted(outcomes):
        values = np.ascontiguousarray(outcomes[name])
        digest.update(f"{name}\n{values.shape}{values.dtype.str}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
