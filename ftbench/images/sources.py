"""Where images come from: files, or a data set of torchvision."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ftbench.images.decode import UnreadableError, as_rgb, read_noted, unreadable

Stamp = tuple[int, ...]
"""What changes when a file does: its size, the time of its last change, its number."""


class ImageSource(Protocol):
    """Images by index, none of them decoded yet."""

    @property
    def names(self) -> Sequence[str]:
        """Each image's name, as messages show it."""

    @property
    def place(self) -> str:
        """Where they lie: what is known of images there is kept under its hash."""

    def stamps(self) -> list[Stamp]:
        """Return for each image what changes when it does, without reading it."""

    def read(self, index: int) -> tuple[Image.Image, str]:
        """Return an image in mode RGB and a note on it; UnreadableError where there is none."""


class FileImages:
    """A file for each image, named from ``root``."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self._paths = list(paths)
        self._root = root
        self.names = [os.path.relpath(path, root) for path in self._paths]

    @property
    def place(self) -> str:
        """The folder."""
        return os.path.abspath(self._root)

    def stamps(self) -> list[Stamp]:
        """Return size, time of the last change and number of each file; zeros where it is gone."""
        return [stamp_of(path) for path in self._paths]

    def read(self, index: int) -> tuple[Image.Image, str]:
        """Return the image of a file."""
        return read_noted(self._paths[index])


class DatasetImages:
    """The images of data sets whose rows are pairs of an image and something else.

    The files below their folders are not known to belong to one image or another: where any of
    them changes, all images are looked at again.
    """

    def __init__(self, parts: Sequence[Any], root: str, label: str) -> None:
        self._parts, self._root, self._label = list(parts), root, label
        self._starts = [0, *itertools.accumulate(len(part) for part in self._parts)]
        self.names = [f"{label}[{index}]" for index in range(self._starts[-1])]

    @property
    def place(self) -> str:
        """The folder and the data set."""
        return f"{os.path.abspath(self._root)} {self._label}"

    def stamps(self) -> list[Stamp]:
        """Return one stamp for all images: of every file below the folders of the data sets."""
        digest = hashlib.sha256()
        for folder in sorted(self._folders()):
            for here, folders, files in os.walk(folder):
                folders.sort()
                for name in sorted(files):
                    path = Path(here) / name
                    digest.update(f"{os.path.relpath(path, folder)} {stamp_of(path)}\n".encode())
        stamp = (int.from_bytes(digest.digest()[:7], "big"),)
        return [stamp] * len(self.names)

    def _folders(self) -> set[str]:
        """Return the folders of the data sets: torchvision names them in three ways, or not."""
        found = set()
        for part in self._parts:
            for name in ("_base_folder", "base_folder"):
                found.add(os.path.join(self._root, str(getattr(part, name, "") or "")))
            found.add(os.path.join(self._root, type(part).__name__))
        own = {folder for folder in found if os.path.isdir(folder)} - {os.path.join(self._root, "")}
        return own or {self._root}

    def read(self, index: int) -> tuple[Image.Image, str]:
        """Return an image of the data sets."""
        which = bisect.bisect_right(self._starts, index) - 1
        try:
            image = self._parts[which][index - self._starts[which]][0]
            return as_rgb(image)
        except UnreadableError:
            raise
        except Exception as error:  # whatever the data set's own reader raises
            passing = unreadable(error).passing
            raise UnreadableError(f"{type(error).__name__}: {error}", passing=passing) from error


def stamp_of(path: Path) -> Stamp:
    """Return size, time of the last change and number of a file or folder; zeros without one."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ino)
