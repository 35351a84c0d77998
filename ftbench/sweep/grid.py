"""A SweepSpec → the runs of its grid, with every name, option and size checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ftbench.backbone import BackboneFamily
from ftbench.component import Component, split_references
from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.plugins import Catalogue, Part, Resolved, base_class
from ftbench.recipe import PARTS, Recipe
from ftbench.recipes.presets import recipe_at
from ftbench.records import RunSpec, identity_key
from ftbench.strategy import Strategy
from ftbench.sweep.checks import (
    check_class_weights,
    check_pairs,
    check_predictions,
    check_refusals,
    sizes_of,
)
from ftbench.task import Task


def expand(spec: SweepSpec, catalogue: Catalogue) -> list[RunSpec]:
    """Return the runs of the grid: seed by seed, so that an early stop leaves whole tables.

    Every name, option and size is checked here, before anything trains: SpecError or PluginError.
    Of a test set, nothing but its number of rows is looked at.
    """
    tasks = _points(Task, spec.tasks, catalogue)
    backbones = _points(BackboneFamily, spec.backbones, catalogue)
    strategies = _points(Strategy, spec.strategies, catalogue)
    check_pairs(tasks, backbones, catalogue)
    check_predictions(spec, tasks)
    validates = any(strategy.component.validates for strategy in strategies)
    sizes = {
        task.identity.label: sizes_of(spec, task.component, catalogue, splits=validates)
        for task in tasks
    }
    recipes = _recipes_by_size(spec, {n for found in sizes.values() for n in found}, catalogue)
    for at, parts in recipes.values():
        check_refusals(at, strategies, [recipe["mixing"] for recipe in parts])
        check_class_weights(at, tasks)
    points = [
        RunSpec(
            task=task.identity,
            backbone=backbone.identity,
            strategy=strategy.identity,
            recipe=recipes[size][0].settings(),
            size=size,
            seed=0,
            threads=spec.threads,
            deterministic=spec.deterministic,
            parts={kind: part.identity for kind, part in recipe.items()},
        )
        for task in tasks
        for backbone in backbones
        for size in sizes[task.identity.label]
        for recipe in recipes[size][1]
        for strategy in strategies
    ]
    return [point.at_seed(seed) for seed in spec.seeds for point in points]


def _points(base: type[Part], texts: Sequence[str], catalogue: Catalogue) -> list[Resolved[Part]]:
    """Return the points that references stand for; SpecError where one is there twice."""
    found: dict[str, Resolved[Part]] = {}
    for text in texts:
        for point in catalogue.resolve(base, text):
            key = identity_key(point.identity.identity())
            if key in found:
                label = point.component.label
                raise SpecError(f"{base.kind} '{text}' is in the spec twice, as '{label}'")
            found[key] = point
    return list(found.values())


def _recipes_by_size(
    spec: SweepSpec, sizes: Iterable[int], catalogue: Catalogue
) -> dict[int, tuple[Recipe, list[dict[str, Resolved[Any]]]]]:
    """Return for each size the recipe's settings and parts: a preset's depend on it."""
    found: dict[int, tuple[Recipe, list[dict[str, Resolved[Any]]]]] = {}
    for size in sorted(sizes):
        at = recipe_at(spec.recipe, size)
        alike = next((parts for recipe, parts in found.values() if recipe == at), None)
        found[size] = at, _recipes(at, catalogue) if alike is None else alike
    return found


def _recipes(recipe: Recipe, catalogue: Catalogue) -> list[dict[str, Resolved[Any]]]:
    """Return the parts of each recipe of the grid, by kind: the product of what each key says."""
    axes = []
    for kind in PARTS:
        base: type[Component[Any]] = base_class(kind)
        texts = split_references(getattr(recipe, kind))
        if not texts:
            raise SpecError(f"recipe.{kind} is empty; leave it out for its default")
        axes.append(_points(base, texts, catalogue))
    return [dict(zip(PARTS, point, strict=True)) for point in itertools.product(*axes)]
