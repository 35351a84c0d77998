"""A recipe's parts, made of what the catalogue knows."""

from __future__ import annotations

from collections.abc import Mapping

from ftbench.component import split_references
from ftbench.errors import SpecError
from ftbench.plugins.catalogue import Catalogue, Part
from ftbench.recipe import Recipe
from ftbench.recipe_parts import Augmentation, Head, Mixing, Optimizer, RecipeParts, Schedule
from ftbench.records import ComponentId


def make_recipe(recipe: Recipe, catalogue: Catalogue) -> RecipeParts:
    """Return the parts that a recipe names; SpecError where one stands for several points."""

    def one(base: type[Part], text: str) -> Part:
        found = [point for ref in split_references(text) for point in catalogue.resolve(base, ref)]
        if len(found) != 1:
            raise SpecError(f"recipe.{base.kind} is '{text}', {len(found)} points; give one")
        return found[0].component

    return RecipeParts(
        optimizer=one(Optimizer, recipe.optimizer),
        schedule=one(Schedule, recipe.schedule),
        augmentation=one(Augmentation, recipe.augmentation),
        mixing=one(Mixing, recipe.mixing),
        head=one(Head, recipe.head),
    )


def remake_recipe(parts: Mapping[str, ComponentId], catalogue: Catalogue) -> RecipeParts:
    """Return the parts of a run's recipe, as its spec has them by kind."""
    return RecipeParts(
        optimizer=catalogue.rebuild(Optimizer, parts["optimizer"]),
        schedule=catalogue.rebuild(Schedule, parts["schedule"]),
        augmentation=catalogue.rebuild(Augmentation, parts["augmentation"]),
        mixing=catalogue.rebuild(Mixing, parts["mixing"]),
        head=catalogue.rebuild(Head, parts["head"]),
    )
