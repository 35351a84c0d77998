"""Decoded images at one size in a file that all runs and processes map into memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from ftbench.errors import StoreError
from ftbench.images.decode import Pixels, UnreadableError, content_hash, decoding, resized
from ftbench.images.folders import MOVE, images_folder, megabytes, said, short_hash
from ftbench.images.reporting import report
from ftbench.images.scan import Scan, workers
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
            _write(path, shape, source, scan, wanted)
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
        _require_room(path.parent, int(np.prod(shape)))
    pixels = np.lib.format.open_memmap(
        unfinished, mode="r+" if done else "w+", dtype=np.uint8, shape=shape
    )
    with decoding(), ThreadPoolExecutor(workers()) as pool:
        for start in range(done, shape[0], _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, shape[0]))
            made = pool.map(lambda row: _row(source, scan, wanted, row), rows)
            for row, image in zip(rows, made, strict=True):
                pixels[row] = image
            _count(pixels, count, rows.stop)
            report("decoding images", rows.stop, shape[0])
    del pixels
    os.replace(unfinished, path)
    count.unlink(missing_ok=True)


def _count(pixels: np.memmap[tuple[int, ...], np.dtype[np.uint8]], count: Path, rows: int) -> None:
    """Note how many rows are on disk: they are there before it says so."""
    pixels.flush()
    temporary = count.with_suffix(".count-tmp")
    temporary.write_text(str(rows))
    os.replace(temporary, count)


def _done(unfinished: Path, count: Path, shape: tuple[int, ...]) -> int:
    """Return how many rows a killed writer left finished."""
    try:
        rows = int(count.read_text())
    except (OSError, ValueError):
        return 0
    return rows if _mapped(unfinished, shape) is not None and 0 < rows <= shape[0] else 0


def _row(source: ImageSource, scan: Scan, wanted: Preprocessing, row: int) -> Pixels:
    entry = scan.entries[row]
    if entry.problem:
        return np.zeros((wanted.resize, wanted.resize, wanted.channels), dtype=np.uint8)
    try:
        image, _ = source.read(row)
    except UnreadableError as error:
        raise StoreError(_changed(source, row, str(error))) from error
    if content_hash(image) != entry.content:
        raise StoreError(_changed(source, row, "its pixels are others"))
    return resized(image, wanted)


def _changed(source: ImageSource, row: int, how: str) -> str:
    return (
        f"{source.names[row]} in {source.place} changed since the images were looked at ({how}); "
        "start the sweep again"
    )


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
