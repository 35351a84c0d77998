"""The built-in parts of a recipe, one kind a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.recipe_parts import Augmentation, Head, Mixing, Optimizer, Schedule


@hookimpl
def ftbench_optimizers() -> Iterable[type[Optimizer]]:
    """Return the built-in optimizers."""
    from ftbench.recipes.optimizers import SGD, AdamW

    return [AdamW, SGD]


@hookimpl
def ftbench_schedules() -> Iterable[type[Schedule]]:
    """Return the built-in schedules."""
    from ftbench.recipes.schedules import Constant, Cosine, Exponential, Linear, Steps

    return [Constant, Cosine, Linear, Steps, Exponential]


@hookimpl
def ftbench_augmentations() -> Iterable[type[Augmentation]]:
    """Return the built-in augmentations."""
    from ftbench.recipes import augmentations as known

    return [
        known.NoAugmentation,
        known.CropFlip,
        known.ResizedCrop,
        known.Standard,
        known.Strong,
        known.Medical,
        known.Satellite,
    ]


@hookimpl
def ftbench_mixings() -> Iterable[type[Mixing]]:
    """Return the built-in ways to mix."""
    from ftbench.recipes.mixings import CutMix, Mixup, MixupOrCutMix, NoMixing

    return [NoMixing, Mixup, CutMix, MixupOrCutMix]


@hookimpl
def ftbench_heads() -> Iterable[type[Head]]:
    """Return the built-in heads."""
    from ftbench.recipes.heads import MLP, Hidden, Plain

    return [Plain, MLP, Hidden]
