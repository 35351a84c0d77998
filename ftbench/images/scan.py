"""One look at every image: can it be read, how large is it, and which others are the same."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftbench.images.decode import UnreadableError, content_hash, decoders, decoding
from ftbench.images.folders import images_folder, said, short_hash, write_whole
from ftbench.images.reporting import report
from ftbench.images.sources import ImageSource, Stamp

VERSION = 2  # raised when an image's hash or the reading of a file changes
SAVE_EVERY = 5.0  # seconds: what a killed scan loses
_LOOKING = 9  # times as long as the last save took: a million images take seconds to save


@dataclass(frozen=True)
class Entry:
    """What is known of one image; ``problem`` says why it cannot be used.

    ``passing`` where that may be over the next time, which then looks again.
    """

    content: str = ""  # SHA-256 of size and pixels
    width: int = 0
    height: int = 0
    problem: str = ""
    note: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Scan:
    """What is known of every image of a source, in its order."""

    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        """Return the number of images, unreadable ones included."""
        return len(self.entries)

    @functools.cached_property
    def contents(self) -> tuple[str, ...]:
        """The SHA-256 of each image's size and pixels, empty where it cannot be read."""
        return tuple(entry.content for entry in self.entries)

    @functools.cached_property
    def problems(self) -> Mapping[int, str]:
        """Why by index of images that cannot be used."""
        return {i: entry.problem for i, entry in enumerate(self.entries) if entry.problem}

    @functools.cached_property
    def notes(self) -> Mapping[int, str]:
        """What a user may want to know, by index."""
        return {i: entry.note for i, entry in enumerate(self.entries) if entry.note}


def scan(source: ImageSource) -> Scan:
    """Return what is known of every image; what did not change since the last time is not read.

    What is found is kept under the user's cache, every few seconds and at the end, so that a scan
    that is killed goes on where it was.
    """
    path = _path_of(source)
    known = _read(path)
    stamps, names = source.stamps(), source.names
    fresh = [i for i in range(len(names)) if _entry(known, names[i], stamps[i]) is None]
    found: dict[int, Entry] = {}
    next_save = time.monotonic() + SAVE_EVERY
    for index, entry in _looked_at(source, fresh):
        found[index] = entry
        report("looking at images", len(found), len(fresh))
        started = time.monotonic()
        if started > next_save:
            _save(path, known, _as_kept(found, names, stamps))
            saved = time.monotonic()
            next_save = saved + max(SAVE_EVERY, _LOOKING * (saved - started))
    if found:
        _save(path, known, _as_kept(found, names, stamps))
    entries = (
        found[i] if i in found else _entry(known, names[i], stamps[i]) for i in range(len(names))
    )
    return Scan(tuple(entry for entry in entries if entry is not None))


def _looked_at(source: ImageSource, indices: Iterable[int]) -> Iterator[tuple[int, Entry]]:
    def look(index: int) -> tuple[int, Entry]:
        try:
            image, note = source.read(index)
        except UnreadableError as error:
            return index, Entry(problem=str(error), passing=error.passing)
        return index, Entry(content_hash(image), *image.size, note=note)

    # Pillow lets go of the interpreter while it decodes.
    with decoding(), ThreadPoolExecutor(workers()) as pool:
        yield from pool.map(look, indices)


def forget(source: ImageSource, index: int) -> None:
    """Let the next scan look at an image again though its stamp is the same."""
    path = _path_of(source)
    known = _read(path)
    if known.pop(source.names[index], None) is not None:
        _write(path, known)


def workers() -> int:
    """Return how many threads decode images at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Kept = dict[str, list[Any]]  # by name: the stamp, and an entry's fields


def _path_of(source: ImageSource) -> Path:
    return images_folder() / f"scan-{short_hash(f'{source.place} {decoders()}')}.json"


def _read(path: Path) -> Kept:
    """Return what was kept; {} where there is nothing, or nothing that can be used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dict(values["images"]) if values["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _entry(known: Kept, name: str, stamp: Stamp) -> Entry | None:
    try:
        kept, fields = known[name]
        return Entry(**fields) if tuple(kept) == stamp and any(stamp) else None
    except (KeyError, TypeError, ValueError):
        return None


def _as_kept(found: Mapping[int, Entry], names: Any, stamps: list[Stamp]) -> Kept:
    return {
        names[i]: [list(stamps[i]), {k: v for k, v in asdict(entry).items() if v}]
        for i, entry in found.items()
        if not entry.passing
    }


def _save(path: Path, known: Kept, found: Kept) -> None:
    # Another process may have saved meanwhile: what it found is kept, too.
    _write(path, {**known, **_read(path), **found})


def _write(path: Path, images: Kept) -> None:
    values = {"version": VERSION, "images": images}
    with said(path.parent):
        write_whole(path, json.dumps(values, separators=(",", ":")).encode())
