"""What every task of a user's images shares: what is left out, who is in the test set, scores."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from ftbench.component import Options
from ftbench.images import ImageExamples
from ftbench.metric import Metric
from ftbench.offers import Offer
from ftbench.ops import MixPlan
from ftbench.subsets import Rows
from ftbench.targets import Classes, ClassWeights, Target
from ftbench.task import SourceTask, Task, seeded_linear
from ftbench.tasks.listing import ImageTaskOptions, Listing, Looked, look
from ftbench.tasks.sides import Sides, sides_of, strata_of

OptionsT = TypeVar("OptionsT", bound=ImageTaskOptions, default=ImageTaskOptions)


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
            strata=strata_of(targets),
            groups=None if groups is None else groups[rows],
        )

    @functools.cached_property
    def _looked(self) -> Looked:
        key = type(self), json.dumps(self.canonical_options(), sort_keys=True)
        return look(key, self.label, self.options.strict, self.listing)

    @functools.cached_property
    def _sides(self) -> Sides:
        purpose = ("test set",) if self._seed is None else ("test set", self._seed)
        return sides_of(self.label, self.options, self._looked, purpose)


def _notes(looked: Looked) -> Iterable[tuple[str, str]]:
    names = looked.listing.source.names
    return ((names[index], note) for index, note in sorted(looked.scan.notes.items()))


def _listed(heading: str, lines: list[str]) -> Iterable[tuple[str, str]]:
    yield heading, f"{len(lines)} files" if lines else "nothing"
    yield from (("", line) for line in lines[:20])
    if len(lines) > 20:
        yield "", f"… and {len(lines) - 20} more"
