"""``image-folder``: a folder of images, one folder a class, as most people keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ftbench.errors import SpecError, did_you_mean
from ftbench.images import FileImages
from ftbench.tasks.image_task import ImageTask
from ftbench.tasks.listing import ImageTaskOptions, Listing

_POOL = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "dev")
_TEST = ("test", "testing")
IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("apng", "avif", "bmp", "dib", "gif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pcx", "pgm", "png", "pnm", "ppm", "sgi", "tga", "tif", "tiff", "webp"),
    )
)


class ImageFolder(ImageTask[ImageTaskOptions]):
    """Images in a folder for each class, with folders train, val and test above them or without.

    With ``train`` and ``test`` (or ``val``) the pool is ``train`` and, where there is a test
    folder, ``val``; otherwise the test set is drawn from all images, or anew by each seed.
    """

    name = "image-folder"
    version = "1"

    def listing(self) -> Listing:
        """Return the images of every class folder; SpecError for a folder that holds none."""
        root = _existing_folder(self.options.path)
        found = _Found()
        parts = _parts(root)
        if parts:
            if self.options.test == "per-seed":
                raise SpecError(
                    f"{root} has a {parts['test'][0].name} folder, and test='per-seed' draws the "
                    "test set anew; name the folder of all images, or leave test out"
                )
            for side, folders in parts.items():
                for folder in folders:
                    found.take(folder, side, root)
        else:
            found.take(root, "", root)
        if not found.paths:
            raise SpecError(_nothing_in(root, found))
        return Listing(
            source=FileImages(found.paths, root),
            kind="classes",
            values=np.array(found.classes, dtype=object),
            sides=np.array(found.sides, dtype=object) if parts else None,
            left_out=found.left_out,
            watched=(root, *found.folders),
        )


def _existing_folder(path: str) -> Path:
    root = Path(path)
    if not path:
        raise SpecError("image-folder needs a folder: image-folder(path='DIR')")
    if root.is_file():
        raise SpecError(f"image-folder(path=…): {root} is a file; name the folder that holds it")
    if not root.is_dir():
        above = root.parent
        near = [entry.name for entry in above.iterdir()] if above.is_dir() else []
        raise SpecError(
            f"image-folder(path=…): there is no folder {root}{did_you_mean(root.name, near)}"
        )
    return root


def _parts(root: Path) -> dict[str, list[Path]]:
    """Return the folders of pool and test, {} where the root's own folders are the classes."""
    folders = {entry.name.casefold(): entry for entry in root.iterdir() if entry.is_dir()}

    def named(names: tuple[str, ...]) -> list[Path]:
        return [folders[name] for name in names if name in folders]

    pool, validation, test = named(_POOL), named(_VALIDATION), named(_TEST)
    if not pool or not (validation or test):
        return {}
    if not test:
        return {"pool": pool, "test": validation}
    return {"pool": pool + validation, "test": test}


@dataclass
class _Found:
    """What a walk over the folders finds."""

    paths: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def take(self, folder: Path, side: str, root: Path) -> None:
        """Take in the class folders of a folder."""
        self.folders.append(folder)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            shown = str(entry.relative_to(root))
            if entry.name.startswith("."):
                continue  # .DS_Store, .git, .ipynb_checkpoints
            if not entry.is_dir():
                self.left_out[shown] = "a file beside the class folders"
                continue
            before = len(self.paths)
            for here, files in _walked(entry):
                self.folders.append(here)
                for name in files:
                    self._take_file(here / name, entry.name, side, root)
            if len(self.paths) == before:
                self.left_out[shown] = "a class folder without images"

    def _take_file(self, path: Path, name: str, side: str, root: Path) -> None:
        shown = str(path.relative_to(root))
        if path.name.startswith(".") or path.name == "Thumbs.db":
            return
        if not path.exists():
            self.left_out[shown] = "a link that leads nowhere"
        elif path.suffix.casefold() not in IMAGES:
            self.left_out[shown] = f"no image by its name ({path.suffix or 'no suffix'})"
        else:
            self.paths.append(path)
            self.classes.append(name)
            self.sides.append(side)


def _walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder from this one down with the names of its files, in order.

    Links are followed; one that leads back ends there.
    """
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(here), sorted(files)


def _nothing_in(root: Path, found: _Found) -> str:
    why = next(iter(found.left_out.items()), None)
    seen = f"; it holds {why[0]}: {why[1]}" if why else ""
    return (
        f"image-folder(path=…): {root} holds no class folder with images{seen}; expected "
        "DIR/CLASS/IMAGE, or DIR/train/CLASS/IMAGE and DIR/test/CLASS/IMAGE"
    )
