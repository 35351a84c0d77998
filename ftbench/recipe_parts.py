"""The base classes of a recipe's parts: optimizer, schedule, augmentation, mixing and head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ftbench.component import Component, OptionsT
from ftbench.offers import Offer
from ftbench.ops import AugmentPlan, MixPlan


class Optimizer(Component[OptionsT]):
    """Base of an optimizer plugin."""

    kind: ClassVar[str] = "optimizer"

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return an optimizer over parameter groups of ``params`` and their ``weight_decay``.

        The harness sets each group's ``lr`` before each step, so it must be read from the group.
        """
        raise NotImplementedError(f"optimizer '{self.name}' must define build()")


class Schedule(Component[OptionsT]):
    """Base of a learning-rate schedule."""

    kind: ClassVar[str] = "schedule"

    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor, at least 0, on every learning rate at ``step``, counted from 0."""
        raise NotImplementedError(f"schedule '{self.name}' must define factor()")


class Augmentation(Component[OptionsT]):
    """Base of an augmentation: another view of each training row, on the run's device."""

    kind: ClassVar[str] = "augmentation"
    varies: ClassVar[bool] = True
    """False: a row looks the same at every step, as in prediction."""

    def augment(
        self, inputs: Any, *, size: tuple[int, int] | None = None, seed: int, step: int
    ) -> Any:
        """Return the inputs of a batch as the model sees them at ``step``.

        Stored images come as (N, C, R, R) uint8 with the ``size`` (height, width) that the model
        takes, and go back at that size, uint8 or floats up to 255: they are normalised afterwards.
        Other inputs are the task's own tensors, ``size`` is None, and they keep their shape.

        Draw from (seed, step) alone, by :mod:`ftbench.rng` or from the global generators, which are
        seeded for the step: every strategy then sees the same views. ``inputs`` may be the data
        set's own memory, so do not write to it.
        """
        raise NotImplementedError(f"augmentation '{self.name}' must define augment()")

    def views(
        self, rows: int, height: int, width: int, *, seed: int, step: int
    ) -> AugmentPlan | None:
        """Return the views of a step's stored images, where they are crops, mirrored or not.

        They are then made from the stored bytes in one pass, mixed and normalised with them:
        :func:`ftbench.ops.augment`, and :func:`ftbench.ops.sample_augment` draws such a plan. None,
        the default: by :meth:`augment`.
        """
        return None


class Mixing(Component[OptionsT]):
    """Base of a way to mix the rows of a batch."""

    kind: ClassVar[str] = "mixing"
    mixes: ClassVar[bool] = True
    """False: no batch is ever mixed, and inputs need not be images."""

    def plan(self, rows: int, height: int, width: int, *, seed: int, step: int) -> MixPlan:
        """Return which rows of a step's images are mixed with which, and where.

        Drawn on the host from (seed, step) alone: :func:`ftbench.ops.sample_mix`.
        """
        raise NotImplementedError(f"mixing '{self.name}' must define plan()")


class Head(Component[OptionsT]):
    """Base of a head: what stands between the features and the task's own last layer."""

    kind: ClassVar[str] = "head"

    def build(self, last: Callable[[Offer], nn.Module], offer: Offer, *, seed: int) -> nn.Module:
        """Return a new head for the features of ``offer``, the same for every strategy at a seed.

        ``last`` returns the task's own head for an offer: that of the features, or of what the
        layers in front of it make of them.
        """
        raise NotImplementedError(f"head '{self.name}' must define build()")


@dataclass(frozen=True)
class RecipeParts:
    """The parts that a recipe names, made."""

    optimizer: Optimizer
    schedule: Schedule
    augmentation: Augmentation
    mixing: Mixing
    head: Head
