"""Which images of a task are in its pool, which in its test set, and what is learned of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ftbench import subsets
from ftbench.errors import SpecError
from ftbench.subsets import Rows
from ftbench.targets import Classes, Labels, Numbers, Target
from ftbench.tasks.listing import NAMED, ImageTaskOptions, Listing, Looked


@dataclass(frozen=True)
class Sides:
    """Which images are in the pool and in the test set, and what is learned of them."""

    pool: Rows
    test: Rows
    target: Target
    targets: Tensor  # of every image of the listing
    dropped: int  # from the pool, since the test set has them


def sides_of(
    label: str, options: ImageTaskOptions, looked: Looked, purpose: tuple[int | str, ...]
) -> Sides:
    """Return the images of pool and test set, as they are given or as ``purpose`` draws them.

    SpecError, which names the task by its ``label``, for sides that cannot be.
    """
    pool, test = _split(label, options, looked, purpose)
    test = _at_most(options.test_rows, looked, test)
    pool, dropped = _without_copies(label, options, looked, pool, test)
    target, targets = _learned(label, looked.listing, pool, test)
    return Sides(pool, test, target, targets, dropped)


def _split(
    label: str, options: ImageTaskOptions, looked: Looked, purpose: tuple[int | str, ...]
) -> tuple[Rows, Rows]:
    """Return the images of pool and test set, as they are given or as ``purpose`` draws them."""
    listing, rows = looked.listing, looked.rows
    if listing.sides is not None:
        sides = listing.sides[rows]
        pool, test = rows[sides == "pool"], rows[sides == "test"]
        _refuse_empty(label, pool, test)
        _refuse_shared_groups(label, listing, pool, test)
        return pool, test
    strata = strata_of(_values(listing)[rows])
    together = _together(looked)
    try:
        kept, drawn = subsets.split(strata, options.test_share, *purpose, groups=together)
    except ValueError as error:
        raise SpecError(
            f"{label}: {len(rows)} images leave no room for a test set of "
            f"{options.test_share:.0%} beside an image of each class; raise test_share, or "
            "give more images"
        ) from error
    return rows[kept], rows[drawn]


def _at_most(count: int | None, looked: Looked, test: Rows) -> Rows:
    """Return ``count`` of the test images, the same ones always; all where there are no more."""
    if count is None or count >= len(test):
        return test
    strata = strata_of(_values(looked.listing)[test])
    return np.sort(test[subsets.stratified_order(strata, "test rows")[:count]])


def _together(looked: Looked) -> npt.NDArray[Any] | None:
    """Return which images have to be on one side: of one group, or of one content; None: none."""
    contents = np.array([looked.scan.contents[row] for row in looked.rows.tolist()])
    groups = looked.listing.groups
    _, copies = np.unique(contents, return_inverse=True)
    if groups is None:
        return None if copies.max() + 1 == len(copies) else copies
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    _, group_of = np.unique(groups[looked.rows].astype(str), return_inverse=True)
    count = int(group_of.max()) + 1
    size = count + int(copies.max()) + 1
    links = coo_matrix((np.ones(len(copies)), (group_of, count + copies)), shape=(size, size))
    _, found = connected_components(links, directed=False)
    together: npt.NDArray[Any] = found[group_of]
    return together


def _refuse_empty(label: str, pool: Rows, test: Rows) -> None:
    for rows, side in ((pool, "pool"), (test, "test set")):
        if not len(rows):
            raise SpecError(f"{label}: the {side} holds no image that can be read")


def _refuse_shared_groups(label: str, listing: Listing, pool: Rows, test: Rows) -> None:
    if listing.groups is None:
        return
    shared = sorted({*map(str, listing.groups[pool])} & {*map(str, listing.groups[test])})
    if shared:
        raise SpecError(
            f"{label}: {len(shared)} groups are in the pool and in the test set "
            f"({', '.join(shared[:NAMED])}); a group belongs on one side"
        )


def _without_copies(
    label: str, options: ImageTaskOptions, looked: Looked, pool: Rows, test: Rows
) -> tuple[Rows, int]:
    """Return the pool without images that the test set has, as the options say."""
    contents = looked.scan.contents
    tested = {contents[row]: row for row in test.tolist()}
    copies = [row for row in pool.tolist() if contents[row] in tested]
    if not copies or options.duplicates == "allow":
        return pool, 0
    if options.duplicates == "drop":
        return np.setdiff1d(pool, copies), len(copies)
    names = looked.listing.source.names
    pairs = [f"{names[row]} is {names[tested[contents[row]]]}" for row in copies[:NAMED]]
    raise SpecError(
        f"{label}: {len(copies)} images of the pool are in the test set, too "
        f"({'; '.join(pairs)}{'; …' if len(copies) > NAMED else ''}); duplicates='drop' takes "
        "them from the pool, 'allow' keeps them"
    )


def _learned(label: str, listing: Listing, pool: Rows, test: Rows) -> tuple[Target, Tensor]:
    """Return what is learned, and the targets of all images; classes are those of the pool."""
    if listing.kind == "labels":
        return Labels(listing.names), torch.from_numpy(listing.values.astype(np.int8))
    if listing.kind == "numbers":
        return Numbers(listing.names), torch.from_numpy(listing.values.astype(np.float32))
    there = set(listing.values[pool])
    names = [n for n in (listing.names or sorted(there)) if n in there]
    strange = sorted(set(listing.values[test]) - there)
    if strange:
        raise SpecError(
            f"{label}: the test set has classes that the pool has not: "
            f"{', '.join(strange[:NAMED])}; give the pool images of them, or leave them out"
        )
    if len(names) < 2:
        raise SpecError(
            f"{label}: there is one class alone, '{names[0]}'; classification needs two"
        )
    place = {name: index for index, name in enumerate(names)}
    labels = np.array([place.get(name, -1) for name in listing.values], dtype=np.int64)
    return Classes(tuple(names)), torch.from_numpy(labels)


def _values(listing: Listing) -> npt.NDArray[Any]:
    """Return the values as numbers: classes by their alphabetical place."""
    if listing.kind != "classes":
        return listing.values
    found: npt.NDArray[Any] = np.unique(listing.values.astype(str), return_inverse=True)[1]
    return found


def strata_of(values: Tensor | npt.NDArray[Any]) -> Any:
    """Return what subsets are stratified by: of several numbers a row, the first."""
    found = np.asarray(values)
    return found[:, 0] if found.ndim == 2 and np.issubdtype(found.dtype, np.floating) else found
