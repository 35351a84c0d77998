"""Decoded images at one size in a file that all runs and processes map into memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from ftbench.errors import StoreError
from ftbench.images.decode import Pixels, UnreadableError, content_hash, decoding, resized
from ftbench.images.folders import MOVE, images_folder, megabytes, said, short_hash
from ftbench.images.reporting import report
from ftbench.images.scan import Scan, forget, workers
from ftbench.images.sources import ImageSource
from ftbench.preprocessing import Preprocessing

VERSION = 1  # raised when the same images would be stored as other bytes
_AT_ONCE = 256  # images between two counts that survive a kill


def estimate_bytes(scan: Scan, wanted: Preprocessing) -> int:
    """Return how many bytes the store of these images takes."""
    return len(scan) * wanted.resize**2 * wanted.channels


def missing_bytes(scan: Scan, wanted: Preprocessing) -> int:
    """Return how many bytes are still to be written: 0 where the store is finished."""
    shape = (len(scan), wanted.resize, wanted.resize, wanted.channels)
    found = _mapped(store_path(scan, wanted), shape)
    return estimate_bytes(scan, wanted) if found is None else 0


def store_path(scan: Scan, wanted: Preprocessing) -> Path:
    """Return where the store of these images is: it is named after what is in it."""
    return images_folder() / f"store-{store_key(scan, wanted)}.npy"


def store_key(scan: Scan, wanted: Preprocessing) -> str:
    """Return a hash of all pixels, and of what is done to them."""
    digest = hashlib.sha256()
    how = (VERSION, wanted.resize, wanted.interpolation, wanted.squash, wanted.channels)
    digest.update(json.dumps(how).encode())
    for content in scan.contents:
        digest.update(content.encode() + b"\n")
    return short_hash(digest.hexdigest())


def open_store(source: ImageSource, scan: Scan, wanted: Preprocessing) -> npt.NDArray[np.uint8]:
    """Return all images as a read-only memory map (N, R, R, C) uint8, R = ``wanted.resize``.

    Rows are the source's; one that cannot be read is black. What is not there yet is written
    first: one process writes, others wait for it, and one that was killed is gone on with.
    StoreError where there is no room, and where an image is not what it was when it was looked at.
    """
    path = store_path(scan, wanted)
    shape = (len(scan), wanted.resize, wanted.resize, wanted.channels)
    found = _mapped(path, shape)
    if found is not None:
        return found
    with said(path.parent, estimate_bytes(scan, wanted)), FileLock(f"{path}.lock"):
        found = _mapped(path, shape)  # another process may have written it meanwhile
        if found is None:
            try:
                _write(path, shape, source, scan, wanted)
            except _ChangedError as error:
                # Its stamp may be the same, and the next start would find what this one did.
                forget(source, error.row)
                raise StoreError(error.said(source)) from error
            found = _mapped(path, shape)
    if found is None:
        raise StoreError(f"{path} was changed while it was written; start again")
    return found


def _mapped(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Return the map of a finished store; None where there is none, or it is damaged."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def _write(
    path: Path,
    shape: tuple[int, ...],
    source: ImageSource,
    scan: Scan,
    wanted: Preprocessing,
) -> None:
    unfinished, count = path.with_suffix(".part"), path.with_suffix(".count")
    done = _done(unfinished, count, shape)
    if not done:
        # A count that an earlier writer left would speak of rows that this file has not.
        count.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
    _require_room(path.parent, (shape[0] - done) * _row_bytes(shape))
    if not done:
        unfinished.write_bytes(_header(shape))
    # Not by a map: where the disk is full, a process that writes to one is killed by SIGBUS.
    with unfinished.open("r+b") as file, decoding(), ThreadPoolExecutor(workers()) as pool:
        file.seek(len(_header(shape)) + done * _row_bytes(shape))
        for start in range(done, shape[0], _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, shape[0]))
            for image in pool.map(lambda row: _row(source, scan, wanted, row), rows):
                file.write(image.tobytes())
            _count(file, count, rows.stop)
            report("decoding images", rows.stop, shape[0])
    os.replace(unfinished, path)
    count.unlink(missing_ok=True)


def _header(shape: tuple[int, ...]) -> bytes:
    """Return what a .npy file of uint8 starts with."""
    written = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, fields)
    return written.getvalue()


def _row_bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _count(file: IO[bytes], count: Path, rows: int) -> None:
    """Note how many rows are on disk: they are there before it says so."""
    file.flush()
    os.fsync(file.fileno())
    temporary = count.with_suffix(".count-tmp")
    temporary.write_text(str(rows))
    os.replace(temporary, count)


def _done(unfinished: Path, count: Path, shape: tuple[int, ...]) -> int:
    """Return how many rows a killed writer left finished."""
    header = _header(shape)
    try:
        rows = int(count.read_text())
        with unfinished.open("rb") as file:
            same = file.read(len(header)) == header
        written = unfinished.stat().st_size - len(header)
    except (OSError, ValueError):
        return 0
    return rows if same and 0 < rows <= shape[0] and written >= rows * _row_bytes(shape) else 0


class _ChangedError(Exception):
    """An image is not what it was when it was looked at."""

    def __init__(self, row: int, how: str) -> None:
        super().__init__(row, how)
        self.row, self.how = row, how

    def said(self, source: ImageSource) -> str:
        return (
            f"{source.names[self.row]} in {source.place} changed since the images were looked at "
            f"({self.how}); start the sweep again"
        )


def _row(source: ImageSource, scan: Scan, wanted: Preprocessing, row: int) -> Pixels:
    entry = scan.entries[row]
    if entry.problem:
        return np.zeros((wanted.resize, wanted.resize, wanted.channels), dtype=np.uint8)
    try:
        image, _ = source.read(row)
    except UnreadableError as error:
        raise _ChangedError(row, str(error)) from error
    if content_hash(image) != entry.content:
        raise _ChangedError(row, "its pixels are others")
    return resized(image, wanted)


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"decoded images take {megabytes(needed)}, and {folder} has {megabytes(free)} left; "
            f"{MOVE}, or sweep at a smaller size="
        )


def unfinished_stores() -> Iterator[Path]:
    """Yield what killed writers left."""
    folder = images_folder()
    yield from itertools.chain(folder.glob("store-*.part"), folder.glob("store-*.count"))
