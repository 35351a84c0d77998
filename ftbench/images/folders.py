"""The folder of what is known of images: scans and stores."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ftbench.errors import StoreError
from ftbench.ops import build
from ftbench.ops.first_use import cache_folder

MOVE = "set FTBENCH_CACHE to a folder on a disk with room"


def images_folder() -> Path:
    """Return the folder, made where it is not there: ``images`` in FTBENCH_CACHE.

    StoreError where it cannot be.
    """
    try:
        folder = cache_folder() / "images"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, build.BuildError) as error:
        raise StoreError(f"decoded images cannot be kept: {error}; {MOVE}") from error
    return folder


def short_hash(text: str) -> str:
    """Return a hash that serves as a file's name."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


@contextlib.contextmanager
def said(folder: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError of writing into a StoreError that says where, how much, and what to do."""
    try:
        yield
    except OSError as error:
        much = f"{megabytes(needed)} of " if needed else ""
        raise StoreError(
            f"{much}decoded images cannot be written to {folder}: {error.strerror or error}; {MOVE}"
        ) from error


def megabytes(count: int) -> str:
    """Return a number of bytes in MB, from 10 GB on in GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e10 else f"{max(1, round(count / 1e6)):,} MB"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    # A process's number is not enough: containers that share a cache have equal ones.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
