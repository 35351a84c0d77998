"""Tensors by key: in this process's memory, and in a folder that processes and sweeps share."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from ftbench.cache.entry import DamagedError, Header, Writer, read
from ftbench.errors import SpecError
from ftbench.ops import build
from ftbench.ops.first_use import cache_folder
from ftbench.stopwatch import Seconds, Stopwatch

Block = Mapping[str, Tensor]
LIMIT = "FTBENCH_CACHE_GB"
_DEFAULT_GB = 20.0
_MEMORY = 1 << 30  # bytes that a process keeps
_VERSION = 1  # raised when the same key would be stored as other bytes
_log = logging.getLogger("ftbench")


@dataclass(frozen=True)
class Found:
    """Tensors that were asked for, what computing them took, and whether that was before."""

    tensors: Block
    seconds: Seconds
    was_there: bool


class Shelf:
    """Entries by key. Each is computed once, by one process while others wait for it.

    In the folder they are whole or not there, the least recently used go first beyond ``limit``
    bytes, and whoever reads one keeps it though it goes. Whatever is wrong with the folder, entries
    are computed and kept in memory: up to ``memory`` bytes, larger ones are read from the disk as
    they are used.
    """

    def __init__(self, folder: Path | None, *, limit: float, memory: int = _MEMORY) -> None:
        self._folder = folder if limit > 0 else None
        self._limit, self._memory = limit, memory
        self._kept: OrderedDict[str, Found] = OrderedDict()
        self._complained = False
        self.saved = Seconds()
        """What all entries that were there took to compute, in this process's life."""
        self.computed = 0
        """How many entries this process computed."""

    def rows(
        self,
        what: Mapping[str, Any],
        count: int,
        blocks: Callable[[], Iterable[Block]],
        *,
        most: int | None = None,
    ) -> Found | None:
        """Return tensors of ``count`` rows, of which ``blocks`` yields some at a time, on the CPU.

        ``what`` is all that they depend on, as JSON values. None where they are more than ``most``
        bytes, or fit neither in memory nor on the disk.
        """
        key = key_of(what)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return self._reused(found)
        if self._folder is None or not self._usable(self._folder):
            return self._in_memory(key, count, blocks, most)
        path = self._folder / f"{key}.safetensors"
        try:
            return self._reused(self._keep(key, self._load(path, key)))
        except (DamagedError, OSError):
            pass
        try:
            with FileLock(f"{path}.lock"):
                return self._stored(path, key, count, blocks, most)
        except OSError as error:
            self._complain(error)
            return self._in_memory(key, count, blocks, most)

    def values(self, what: Mapping[str, Any], make: Callable[[], Block]) -> Found | None:
        """Return what ``make`` makes: tensors of any shape, each with at least one dimension."""
        # As one row each.
        found = self.rows(what, 1, lambda: [{n: t.unsqueeze(0) for n, t in make().items()}])
        if found is None:
            return None
        tensors = {name: tensor.squeeze(0) for name, tensor in found.tensors.items()}
        return Found(tensors, found.seconds, found.was_there)

    def _reused(self, found: Found) -> Found:
        self.saved = self.saved + found.seconds
        return Found(found.tensors, found.seconds, was_there=True)

    def _keep(self, key: str, found: Found) -> Found:
        """Keep an entry in memory where it fits, and let the least recently used go."""
        size = _bytes(found.tensors)
        if size <= self._memory:
            self._kept[key] = found
            total = sum(_bytes(each.tensors) for each in self._kept.values())
            while total > self._memory:
                _, gone = self._kept.popitem(last=False)
                total -= _bytes(gone.tensors)
        return found

    def _load(self, path: Path, key: str) -> Found:
        size = path.stat().st_size
        tensors, header = read(path, key, mapped=size > self._memory)
        with contextlib.suppress(OSError):
            os.utime(path)  # the most recently used
        return Found(tensors, Seconds(header.wall, header.cpu), was_there=True)

    def _stored(
        self,
        path: Path,
        key: str,
        count: int,
        blocks: Callable[[], Iterable[Block]],
        most: int | None,
    ) -> Found | None:
        """Compute an entry into its file, unless another process has done so meanwhile."""
        try:
            return self._reused(self._keep(key, self._load(path, key)))
        except (DamagedError, OSError):
            for left in path.parent.glob(f"{path.name}.*.part"):  # by a writer that was killed
                left.unlink(missing_ok=True)
        watch = Stopwatch()
        first, iterator = _first(blocks())
        writer = Writer(path, count, first)
        if most is not None and writer.size > most:
            return None
        if writer.size > self._limit:
            # A whole in memory, or nothing.
            return self._collected(key, count, writer.size, iterator, watch)
        self._make_room(writer.size, path)
        kept: list[Block] = []
        in_memory = writer.size <= self._memory
        try:
            with writer:
                writing = Seconds()
                for block in iterator:
                    if in_memory:
                        kept.append(block)  # first: it may not fit on the disk
                    wrote = Stopwatch()
                    writer.write(block)
                    writing = writing + wrote.read()
                spent = watch.read() - writing
                writer.finish(Header(key, spent.wall, spent.cpu))
        except OSError as error:
            self._complain(error)
            rest = itertools.chain(kept, iterator) if in_memory else blocks()
            return self._collected(key, count, writer.size, rest, watch)
        self.computed += 1
        # As every later reader finds it: where the bytes lie in memory can choose the kernel.
        found = self._keep(key, self._load(path, key))
        return Found(found.tensors, found.seconds, was_there=False)

    def _in_memory(
        self,
        key: str,
        count: int,
        blocks: Callable[[], Iterable[Block]],
        most: int | None,
    ) -> Found | None:
        watch = Stopwatch()
        first, iterator = _first(blocks())
        size = sum(t[:1].numel() * t.element_size() for t in first.values()) * count
        if most is not None and size > most:
            return None
        return self._collected(key, count, size, iterator, watch)

    def _collected(
        self, key: str, count: int, size: int, blocks: Iterable[Block], watch: Stopwatch
    ) -> Found | None:
        if size > self._memory:
            return None
        parts = list(blocks)
        tensors = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
        assert all(len(tensor) == count for tensor in tensors.values())
        self.computed += 1
        return self._keep(key, Found(tensors, watch.read(), was_there=False))

    def _usable(self, folder: Path) -> bool:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning(
                "what runs share cannot be kept in %s (%s): each process computes it anew; set "
                "FTBENCH_CACHE to a folder on a disk with room",
                self._folder,
                error.strerror or error,
            )

    def _make_room(self, size: int, path: Path) -> None:
        """Delete the least recently used entries until another of ``size`` bytes fits."""
        assert self._folder is not None
        entries = []
        for entry in self._folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                stat = entry.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, entry))
        total = size + sum(each for _, each, _ in entries)
        for _, each, entry in sorted(entries):
            if total <= self._limit:
                return
            if entry != path:
                with contextlib.suppress(OSError):  # in use, where that forbids it
                    entry.unlink()
                    total -= each
                    Path(f"{entry}.lock").unlink(missing_ok=True)


def key_of(what: Mapping[str, Any]) -> str:
    """Return a hash of what an entry depends on."""
    text = json.dumps([_VERSION, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _first(blocks: Iterable[Block]) -> tuple[Block, Iterator[Block]]:
    """Return the first block, and all of them again."""
    iterator = iter(blocks)
    first = next(iterator)
    return first, itertools.chain([first], iterator)


def _bytes(tensors: Block) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@functools.cache
def shared_shelf() -> Shelf:
    """Return this process's shelf: in FTBENCH_CACHE, of at most FTBENCH_CACHE_GB, 20 unless told.

    SpecError where that is no number of at least 0; 0 keeps nothing on disk.
    """
    text = os.environ.get(LIMIT, "").strip()
    try:
        limit = float(text) if text else _DEFAULT_GB
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise SpecError(f"{LIMIT}={text}: expected a number of gigabytes, 0 to keep nothing")
    try:
        folder: Path | None = cache_folder() / "runs"
    except (OSError, build.BuildError):
        folder = None
    return Shelf(folder, limit=limit * 1e9)
