"""The rows of a step as the model sees them: which, augmented, mixed, or behind frozen stages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from ftbench.answers import refusal, require
from ftbench.ops import AugmentPlan, MixPlan
from ftbench.preprocessing import Preprocessing
from ftbench.recipe import Recipe
from ftbench.recipe_parts import RecipeParts
from ftbench.task import Examples
from ftbench.train.mixing import BatchMixer
from ftbench.train.order import BatchOrder
from ftbench.train.prefix import Flows, KnownRows, Rows


@dataclass(frozen=True)
class SeenRows:
    """A step's rows as the model sees them: augmented and mixed, or behind its frozen stages."""

    see: Callable[[], Any]
    targets: Any
    plan: MixPlan | None
    flow: Any = None  # what comes out of the first stages, where that is known
    depth: int = 0  # how many


class StepRows:
    """The rows of each step of one training."""

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        made: RecipeParts,
        seed: int,
        prefixes: KnownRows | None = None,
    ) -> None:
        self._examples, self._recipe, self._made, self._seed = examples, recipe, made, seed
        self.order = BatchOrder(len(examples), recipe.batch_size, seed)
        self._mixers: list[BatchMixer] = []
        # What other views, or other rows, are mixed with differs from step to step.
        varies = made.augmentation.varies or made.mixing.mixes
        self._prefixes = None if varies else prefixes
        self._flows: Flows | None = None
        self._frozen = 0  # stages that were frozen when flows were looked for

    def at(self, step: int, frozen: int) -> tuple[SeenRows, ...]:
        """Return the step's rows, in as many parts as the recipe accumulates gradients over.

        ``frozen`` is the number of leading stages that are frozen now.
        """
        rows, augmentation = self.order.batch(step), self._made.augmentation
        flows = self._known_flows(frozen)
        if flows is not None:
            return self._flowing(flows, rows)
        stored = getattr(self._examples, "unprepared", None)
        if stored is None:
            batch = self._examples.batch(rows)
            views = augmentation.augment(batch.inputs, size=None, seed=self._seed, step=step)
            return self._parts(views, batch.targets, None, step)
        wanted: Preprocessing = self._examples.preprocessing  # type: ignore[attr-defined]
        resident = getattr(self._examples, "resident", None)
        if resident is not None:
            side = wanted.resize
            plan = augmentation.views(len(rows), side, side, seed=self._seed, step=step)
            if plan is not None:
                return self._viewed(resident, rows, plan, wanted, step)
        batch = stored(rows)
        views = augmentation.augment(batch.inputs, size=wanted.size, seed=self._seed, step=step)
        _require_size(augmentation.name, views, wanted)
        return self._parts(views, batch.targets, wanted, step)

    def _known_flows(self, frozen: int) -> Flows | None:
        """Return the rows behind the stages that are frozen now, where they need no computing."""
        if self._prefixes is None:
            return None
        if self._frozen != frozen:
            self._frozen, self._flows = frozen, None
            if frozen:
                self._flows = self._prefixes.training(frozen)
        if self._flows is not None and not self._prefixes.still(self._flows.depth):
            self._flows = self._prefixes = None  # the strategy writes to frozen stages
        return self._flows

    def _flowing(self, flows: Flows, rows: Rows) -> tuple[SeenRows, ...]:
        """Return the step's rows behind frozen stages; the inputs are made where one asks."""
        count = min(self._recipe.accumulation, len(rows))
        return tuple(
            SeenRows(
                functools.partial(self._inputs, part),
                flows.targets(part),
                None,
                flows.flow(part),
                flows.depth,
            )
            for part in np.array_split(rows, count)
        )

    def _inputs(self, rows: Rows) -> Any:
        return self._examples.batch(rows).inputs

    def _parts(
        self, views: Any, targets: Any, wanted: Preprocessing | None, step: int
    ) -> tuple[SeenRows, ...]:
        """Return the augmented rows as parts, each mixed by itself, and normalised if stored."""
        count = min(self._recipe.accumulation, row_count(views))
        found = []
        for index, (inputs, labels) in enumerate(_split((views, targets), count)):
            mixer, draw = self._mixer(index), step * count + index
            mixed, plan = (
                mixer(inputs, draw) if wanted is None else mixer.normalised(inputs, wanted, draw)
            )
            found.append(SeenRows(functools.partial(as_is, mixed), labels, plan))
        return tuple(found)

    def _viewed(
        self,
        resident: Callable[[Rows], tuple[Tensor, Tensor, Any]],
        rows: Rows,
        plan: AugmentPlan,
        wanted: Preprocessing,
        step: int,
    ) -> tuple[SeenRows, ...]:
        """Return views of stored rows, each part made from their bytes in one pass."""
        what = f"augmentation '{self._made.augmentation.name}': views() returned"
        plan = require(plan, AugmentPlan, what, "an ftbench.AugmentPlan or None")
        if len(plan.flip) != len(rows):
            raise refusal(plan, what, f"views of {len(rows)} rows")
        count, found = min(self._recipe.accumulation, len(rows)), []
        for index, part in enumerate(np.array_split(np.arange(len(rows)), count)):
            store, places, targets = resident(rows[part])
            mixer, draw = self._mixer(index), step * count + index
            views, mixed = mixer.augmented(store, places, plan[part], wanted, draw)
            found.append(SeenRows(functools.partial(as_is, views), targets, mixed))
        return tuple(found)

    def _mixer(self, index: int) -> BatchMixer:
        """Return the mixer of a part of the batch: its memory is that part's alone."""
        while len(self._mixers) <= index:
            self._mixers.append(BatchMixer(self._made.mixing, self._seed))
        return self._mixers[index]


def _require_size(name: str, views: Any, wanted: Preprocessing) -> None:
    """Raise FtbenchError where an augmentation made of stored images what the model cannot take."""
    shape = (wanted.channels, *wanted.size)
    if not isinstance(views, Tensor) or tuple(views.shape[1:]) != shape:
        raise refusal(
            views,
            f"augmentation '{name}': augment() returned",
            f"images (N, {', '.join(map(str, shape))}) as the model takes them",
        )


def as_is(inputs: Any) -> Any:
    """Return what is handed in: inputs that need no making."""
    return inputs


def row_count(values: Any) -> int:
    """Return the number of rows of nested tensors."""
    return len(_pytree.tree_leaves(values)[0])


def _split(values: Any, count: int) -> list[Any]:
    """Return nested tensors in ``count`` parts of nearly equal length, rows first."""
    if count == 1:
        return [values]
    leaves, structure = _pytree.tree_flatten(values)
    parts = zip(*(torch.tensor_split(leaf, count) for leaf in leaves), strict=True)
    return [_pytree.tree_unflatten(list(part), structure) for part in parts]
