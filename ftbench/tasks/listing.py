"""The images of a task: listed, then looked at once each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from ftbench.component import Errand, Options, Place
from ftbench.errors import SpecError
from ftbench.images import ImageSource, Scan, scan, stamp_of
from ftbench.subsets import Rows

Kind = Literal["classes", "labels", "numbers"]
NAMED = 5  # names that a message lists


class ImageTaskOptions(Options):
    """Options of every task of images."""

    path: Place = Field("", description="where the data are")
    test: Literal["fixed", "per-seed"] = Field(
        "fixed", description="per-seed: each seed draws a test set of its own"
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="of a test set that is drawn")
    test_rows: int | None = Field(
        None, gt=0, description="at most so many test images, drawn class by class; none: all"
    )
    duplicates: Literal["refuse", "drop", "allow"] = Field(
        "refuse",
        description="images in both pool and test set: drop takes them from the pool",
    )
    source: Place = Field(
        "",
        description="image-folder:DIR, a folder for each of some of the source head's classes, on "
        "which retention is measured; empty: drift is",
    )
    strict: Errand = Field(False, description="refuse images that would be left out")

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute(value)

    @field_validator("source")
    @classmethod
    def _absolute_source(cls, value: str) -> str:
        kind, separator, path = value.partition(":")
        if value and (kind != "image-folder" or not separator or not path):
            raise ValueError("expected image-folder:DIR")
        return f"{kind}:{absolute(path)}" if value else value


def absolute(path: str) -> str:
    """Return what a user wrote as an absolute path, ``""`` for nothing."""
    return os.path.abspath(os.path.expanduser(path)) if path else ""


@dataclass(frozen=True)
class Listing:
    """The images of a task before any is opened: one entry an image in every array.

    ``values`` holds class names (N,), 0 and 1 for each of K labels (N, K), or numbers (N, D), as
    ``kind`` says; ``names`` those of the labels or numbers, or of the classes in their order, which
    is alphabetical otherwise. ``sides`` says ``pool`` or ``test``; None: the test set is drawn.
    Rows of one of ``groups`` stay together. ``left_out`` says why by name.
    """

    source: ImageSource
    kind: Kind
    values: npt.NDArray[Any]
    names: tuple[str, ...] = ()
    sides: npt.NDArray[np.object_] | None = None
    groups: npt.NDArray[Any] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    watched: tuple[Path, ...] = ()
    """Files and folders besides the images that change where the listing would."""

    def signature(self) -> str:
        """Return what changes when an image, or what lists it, does."""
        stamps = [*self.source.stamps(), *(stamp_of(path) for path in self.watched)]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()


@dataclass(frozen=True)
class Looked:
    """A listing whose images were looked at once: ``rows`` are those that can be used."""

    listing: Listing
    scan: Scan
    rows: Rows
    left_out: Mapping[str, str]
    fingerprint: str


_KNOWN: dict[tuple[object, str], tuple[str, Looked]] = {}
_MOST_KNOWN = 16


def look(
    key: tuple[object, str], label: str, strict: bool, listed: Callable[[], Listing]
) -> Looked:
    """Return a task's images after one look at each; SpecError where none can be used.

    ``key`` says which task with which options: every run asks, and what did not change since
    another run of the process asked is not read again.
    """
    signature, known = _KNOWN.get(key, ("", None))
    if known is not None and known.listing.signature() == signature:
        return known
    listing = listed()
    # Before the look: what changes meanwhile is seen the next time.
    signature = listing.signature()
    found = _looked(label, strict, listing)
    while len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.pop(next(iter(_KNOWN)))
    _KNOWN[key] = signature, found
    return found


def _looked(label: str, strict: bool, listing: Listing) -> Looked:
    found = scan(listing.source)
    names = listing.source.names
    left_out = {
        **listing.left_out,
        **{names[index]: why for index, why in sorted(found.problems.items())},
    }
    if left_out and strict:
        listed = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:NAMED])
        raise SpecError(
            f"{label}: {len(left_out)} files cannot be used, and strict=True refuses that: "
            f"{listed}{'; …' if len(left_out) > NAMED else ''}"
        )
    rows = np.array([i for i in range(len(names)) if i not in found.problems], dtype=np.int64)
    if len(rows) < 2:
        raise SpecError(
            f"{label}: {len(rows)} of {len(names)} images can be read"
            + "".join(f"; {name}: {why}" for name, why in list(left_out.items())[:NAMED])
        )
    return Looked(listing, found, rows, left_out, _fingerprint(listing, found, rows))


def _fingerprint(listing: Listing, found: Scan, rows: Rows) -> str:
    digest = hashlib.sha256()
    said = {"kind": listing.kind, "names": listing.names, "rows": len(rows)}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for row in rows.tolist():
        value = listing.values[row]
        entry = [
            found.contents[row],
            value if isinstance(value, str) else np.asarray(value).tolist(),
            None if listing.sides is None else str(listing.sides[row]),
            None if listing.groups is None else str(listing.groups[row]),
        ]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
