"""What every task of a user's images shares: what is left out, who is in the test set, scores."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from typing_extensions import TypeVar

from ftbench import subsets
from ftbench.component import Options, Place
from ftbench.errors import SpecError
from ftbench.images import ImageExamples, ImageSource, Scan, scan, stamp_of
from ftbench.metric import Metric
from ftbench.offers import Offer
from ftbench.ops import MixPlan
from ftbench.subsets import Rows
from ftbench.targets import Classes, ClassWeights, Labels, Numbers, Target
from ftbench.task import SourceTask, Task, seeded_linear

Kind = Literal["classes", "labels", "numbers"]
_NAMED = 5  # names that a message lists


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
    strict: bool = Field(False, description="refuse images that would be left out")

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


OptionsT = TypeVar("OptionsT", bound=ImageTaskOptions, default=ImageTaskOptions)


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


@dataclass(frozen=True)
class Sides:
    """Which images are in the pool and in the test set, and what is learned of them."""

    pool: Rows
    test: Rows
    target: Target
    targets: Tensor  # of every image of the listing
    dropped: int  # from the pool, since the test set has them


class ImageTask(Task[OptionsT]):
    """Base of a task of images: list them, and it does the rest.

    ``path`` may be a folder, a table, whatever :meth:`listing` reads.
    """

    Options: ClassVar[type[Options]] = ImageTaskOptions
    _seed: int | None = None
    _fitted: Target | None = None

    @abstractmethod
    def listing(self) -> Listing:
        """Return the task's images and what is to be learned of each; opens none of them."""

    @property
    def target(self) -> Target:
        """What is learned of an image."""
        return self._sides.target if self._fitted is None else self._fitted

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        """The scores of what is learned."""
        return self.target.metrics

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why by name of what is no row of the task."""
        return self._looked.left_out

    def at_seed(self, seed: int) -> Self:
        """Return the task with the test set that the seed draws, where the options say so."""
        if self.options.test == "fixed":
            return self
        found = copy.copy(self)
        found.__dict__.pop("_sides", None)
        found._seed = seed
        return found

    def fitted(self, training: Any, *, class_weights: ClassWeights = "none") -> Self:
        """Return the task with the class weights, or means and spreads, of the training rows."""
        found = copy.copy(self)
        found._fitted = self.target.fitted(training.targets, class_weights=class_weights)
        return found

    def pool(self) -> ImageExamples:
        """Return the images that budgets are drawn from."""
        return self._examples(self._sides.pool)

    def test(self) -> ImageExamples:
        """Return the test images."""
        return self._examples(self._sides.test)

    def source(self) -> SourceTask | None:
        """Return the source that the options name, None where they name none."""
        if not self.options.source:
            return None
        found = self._source_task()
        sides = found._sides
        names = sides.target.names
        return SourceTask("images of the source", found.pool(), found.test(), classes=names)

    def _source_task(self) -> ImageTask[Any]:
        from ftbench.tasks.image_folder import ImageFolder

        _, _, path = self.options.source.partition(":")
        return ImageFolder(ImageTaskOptions(path=path, duplicates="allow"))

    def fingerprint(self) -> str:
        """Return a hash of every image's pixels, labels and side, the source's among them."""
        own = self._looked.fingerprint
        if not self.options.source:
            return own
        return hashlib.sha256(f"{own} {self._source_task().fingerprint()}".encode()).hexdigest()

    def head(self, offer: Offer, *, seed: int) -> nn.Module:
        """Return a linear layer on (N, F), drawn U(±1/√F) from ``seed`` alone."""
        return seeded_linear(offer.width, self.target.outputs, seed, "head")

    def loss(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the mean loss of what is learned."""
        return self.target.loss(outputs, targets, plan=plan, smoothing=smoothing)

    def outcomes(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return what the scores need of each row."""
        return self.target.outcomes(outputs, targets)

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, float | None]:
        """Return the scores; None for one that is not defined on these rows."""
        return self.target.score(outcomes)

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what stays of each row."""
        return self.target.kept(outcomes)

    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return predictions and targets of each row."""
        return self.target.predictions(outputs, targets)

    def details(self) -> Iterable[tuple[str, str]]:
        """Yield what ``ftbench show task`` says: classes, duplicates, what is left out."""
        sides, looked = self._sides, self._looked
        if isinstance(sides.target, Classes):
            labels = sides.targets.numpy()
            pool, test = (
                np.bincount(labels[rows], minlength=sides.target.outputs)
                for rows in (sides.pool, sides.test)
            )
            for index, name in enumerate(sides.target.names):
                yield f"  {name}", f"{pool[index]:,} in the pool, {test[index]:,} in the test set"
        else:
            yield "targets", f"{len(sides.target.names)}: {', '.join(sides.target.names)}"
        entries = [looked.scan.entries[row] for row in looked.rows.tolist()]
        sizes = sorted({(entry.width, entry.height) for entry in entries})
        small, large = sizes[0], sizes[-1]
        yield "images", f"{small[0]} × {small[1]} to {large[0]} × {large[1]} pixels"
        copies = len(entries) - len({entry.content for entry in entries})
        yield "duplicates", f"{copies} images are copies of another; {sides.dropped} left the pool"
        notes = [f"{name}: {note}" for name, note in _notes(looked)]
        yield from _listed("noted", notes)
        yield from _listed("left out", [f"{n}: {why}" for n, why in looked.left_out.items()])

    def _examples(self, rows: Rows) -> ImageExamples:
        looked, sides = self._looked, self._sides
        index = torch.from_numpy(rows)
        targets = sides.targets[index]
        groups = looked.listing.groups
        return ImageExamples(
            looked.listing.source,
            looked.scan,
            rows,
            targets,
            strata=_strata(targets),
            groups=None if groups is None else groups[rows],
        )

    @functools.cached_property
    def _looked(self) -> Looked:
        return look(self)

    @functools.cached_property
    def _sides(self) -> Sides:
        looked = self._looked
        purpose = ("test set",) if self._seed is None else ("test set", self._seed)
        pool, test = _split(self, looked, purpose)
        test = _at_most(self.options.test_rows, looked, test)
        pool, dropped = _without_copies(self, looked, pool, test)
        target, targets = _learned(self, looked.listing, pool, test)
        return Sides(pool, test, target, targets, dropped)


_KNOWN: dict[tuple[object, str], tuple[str, Looked]] = {}
_MOST_KNOWN = 16


def look(task: ImageTask[Any]) -> Looked:
    """Return a task's images after one look at each; SpecError where none can be used.

    Every run asks; what did not change since another run of the process asked is not read again.
    """
    key = type(task), json.dumps(task.canonical_options(), sort_keys=True)
    signature, known = _KNOWN.get(key, ("", None))
    if known is not None and known.listing.signature() == signature:
        return known
    listing = task.listing()
    # Before the look: what changes meanwhile is seen the next time.
    signature = listing.signature()
    found = _looked(task, listing)
    while len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.pop(next(iter(_KNOWN)))
    _KNOWN[key] = signature, found
    return found


def _looked(task: ImageTask[Any], listing: Listing) -> Looked:
    found = scan(listing.source)
    names = listing.source.names
    left_out = {
        **listing.left_out,
        **{names[index]: why for index, why in sorted(found.problems.items())},
    }
    if left_out and task.options.strict:
        listed = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:_NAMED])
        raise SpecError(
            f"{task.label}: {len(left_out)} files cannot be used, and strict=True refuses that: "
            f"{listed}{'; …' if len(left_out) > _NAMED else ''}"
        )
    rows = np.array([i for i in range(len(names)) if i not in found.problems], dtype=np.int64)
    if len(rows) < 2:
        raise SpecError(
            f"{task.label}: {len(rows)} of {len(names)} images can be read"
            + "".join(f"; {name}: {why}" for name, why in list(left_out.items())[:_NAMED])
        )
    return Looked(listing, found, rows, left_out, _fingerprint(task, listing, found, rows))


def _fingerprint(task: ImageTask[Any], listing: Listing, found: Scan, rows: Rows) -> str:
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


def _split(
    task: ImageTask[Any], looked: Looked, purpose: tuple[int | str, ...]
) -> tuple[Rows, Rows]:
    """Return the images of pool and test set, as they are given or as ``purpose`` draws them."""
    listing, rows = looked.listing, looked.rows
    if listing.sides is not None:
        sides = listing.sides[rows]
        pool, test = rows[sides == "pool"], rows[sides == "test"]
        _refuse_empty(task, pool, test)
        _refuse_shared_groups(task, listing, pool, test)
        return pool, test
    strata = _strata(_values(listing)[rows])
    together = _together(looked)
    try:
        kept, drawn = subsets.split(strata, task.options.test_share, *purpose, groups=together)
    except ValueError as error:
        raise SpecError(
            f"{task.label}: {len(rows)} images leave no room for a test set of "
            f"{task.options.test_share:.0%} beside an image of each class; raise test_share, or "
            "give more images"
        ) from error
    return rows[kept], rows[drawn]


def _at_most(count: int | None, looked: Looked, test: Rows) -> Rows:
    """Return ``count`` of the test images, the same ones always; all where there are no more."""
    if count is None or count >= len(test):
        return test
    strata = _strata(_values(looked.listing)[test])
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


def _refuse_empty(task: ImageTask[Any], pool: Rows, test: Rows) -> None:
    for rows, side in ((pool, "pool"), (test, "test set")):
        if not len(rows):
            raise SpecError(f"{task.label}: the {side} holds no image that can be read")


def _refuse_shared_groups(task: ImageTask[Any], listing: Listing, pool: Rows, test: Rows) -> None:
    if listing.groups is None:
        return
    shared = sorted({*map(str, listing.groups[pool])} & {*map(str, listing.groups[test])})
    if shared:
        raise SpecError(
            f"{task.label}: {len(shared)} groups are in the pool and in the test set "
            f"({', '.join(shared[:_NAMED])}); a group belongs on one side"
        )


def _without_copies(
    task: ImageTask[Any], looked: Looked, pool: Rows, test: Rows
) -> tuple[Rows, int]:
    """Return the pool without images that the test set has, as the options say."""
    contents = looked.scan.contents
    tested = {contents[row]: row for row in test.tolist()}
    copies = [row for row in pool.tolist() if contents[row] in tested]
    if not copies or task.options.duplicates == "allow":
        return pool, 0
    if task.options.duplicates == "drop":
        return np.setdiff1d(pool, copies), len(copies)
    names = looked.listing.source.names
    pairs = [f"{names[row]} is {names[tested[contents[row]]]}" for row in copies[:_NAMED]]
    raise SpecError(
        f"{task.label}: {len(copies)} images of the pool are in the test set, too "
        f"({'; '.join(pairs)}{'; …' if len(copies) > _NAMED else ''}); duplicates='drop' takes "
        "them from the pool, 'allow' keeps them"
    )


def _learned(
    task: ImageTask[Any], listing: Listing, pool: Rows, test: Rows
) -> tuple[Target, Tensor]:
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
            f"{task.label}: the test set has classes that the pool has not: "
            f"{', '.join(strange[:_NAMED])}; give the pool images of them, or leave them out"
        )
    if len(names) < 2:
        raise SpecError(
            f"{task.label}: there is one class alone, '{names[0]}'; classification needs two"
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


def _strata(values: Tensor | npt.NDArray[Any]) -> Any:
    """Return what subsets are stratified by: of several numbers a row, the first."""
    found = np.asarray(values)
    return found[:, 0] if found.ndim == 2 and np.issubdtype(found.dtype, np.floating) else found


def _notes(looked: Looked) -> Iterable[tuple[str, str]]:
    names = looked.listing.source.names
    return ((names[index], note) for index, note in sorted(looked.scan.notes.items()))


def _listed(heading: str, lines: list[str]) -> Iterable[tuple[str, str]]:
    yield heading, f"{len(lines)} files" if lines else "nothing"
    yield from (("", line) for line in lines[:20])
    if len(lines) > 20:
        yield "", f"… and {len(lines) - 20} more"
