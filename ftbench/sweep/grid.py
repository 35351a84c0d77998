"""A SweepSpec → the runs of its grid, with every name, option and size checked."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from ftbench import subsets
from ftbench.backbone import BackboneFamily
from ftbench.component import Component, split_references
from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.plugins import Catalogue, Part, Resolved, base_class
from ftbench.recipe import PARTS
from ftbench.records import ComponentId, RunSpec, identity_key
from ftbench.strategy import Strategy
from ftbench.task import Task, pool_strata, require_offer, require_rows


def expand(spec: SweepSpec, catalogue: Catalogue) -> list[RunSpec]:
    """Return the runs of the grid: seed by seed, so that an early stop leaves whole tables.

    Every name, option and size is checked here, before anything trains: SpecError or PluginError.
    Of a test set, nothing but its number of rows is looked at.
    """
    tasks = _points(Task, spec.tasks, catalogue)
    backbones = _points(BackboneFamily, spec.backbones, catalogue)
    strategies = _points(Strategy, spec.strategies, catalogue)
    check_pairs(tasks, backbones, catalogue)
    if spec.keep == "predictions":
        _check_predictions(tasks)
    sizes = {task.identity.label: _sizes(spec, task.component, catalogue) for task in tasks}
    settings, recipes = spec.recipe.settings(), _recipes(spec, catalogue)
    return [
        RunSpec(
            task=task.identity,
            backbone=backbone.identity,
            strategy=strategy.identity,
            recipe=settings,
            size=size,
            seed=seed,
            threads=spec.threads,
            deterministic=spec.deterministic,
            parts=parts,
        )
        for seed in spec.seeds
        for task in tasks
        for backbone in backbones
        for parts in recipes
        for size in sizes[task.identity.label]
        for strategy in strategies
    ]


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


def _recipes(spec: SweepSpec, catalogue: Catalogue) -> list[dict[str, ComponentId]]:
    """Return the parts of each recipe of the grid, by kind: the product of what each key says."""
    axes = []
    for kind in PARTS:
        base: type[Component[Any]] = base_class(kind)
        texts = split_references(getattr(spec.recipe, kind))
        if not texts:
            raise SpecError(f"recipe.{kind} is empty; leave it out for its default")
        axes.append([point.identity for point in _points(base, texts, catalogue)])
    return [dict(zip(PARTS, point, strict=True)) for point in itertools.product(*axes)]


def check_pairs(
    tasks: Sequence[Resolved[Task]],
    backbones: Sequence[Resolved[BackboneFamily]],
    catalogue: Catalogue,
) -> None:
    """Raise SpecError for a task and a backbone that do not fit, naming what would fit each."""
    for task in tasks:
        for backbone in backbones:
            with catalogue.naming("backbone", backbone.component.name):
                try:
                    require_offer(task.component, backbone.component)
                except SpecError as error:
                    hint = _fitting(task.component, backbone.component, catalogue)
                    raise SpecError(f"{error}{hint}") from error


def _fitting(task: Task, family: BackboneFamily, catalogue: Catalogue) -> str:
    """Return the installed backbones that fit the task, and the tasks that fit the backbone."""
    families, tasks = [], []
    for name in catalogue.names("backbone"):
        # One that needs options, or is broken, is no advice.
        with contextlib.suppress(Exception):
            require_offer(task, catalogue.build(BackboneFamily, name, {}))
            families.append(name)
    for name in catalogue.names("task"):
        with contextlib.suppress(Exception):
            require_offer(catalogue.build(Task, name, {}), family)
            tasks.append(name)
    return (
        f"; backbones that fit '{task.name}': {', '.join(families) or 'none installed'}; "
        f"tasks that fit '{family.name}': {', '.join(tasks) or 'none installed'}"
    )


def _check_predictions(tasks: Sequence[Resolved[Task]]) -> None:
    for task in tasks:
        if type(task.component).predictions is Task.predictions:
            raise SpecError(
                f"task '{task.component.name}' has no predictions() to keep; set keep to outcomes"
            )


def _sizes(spec: SweepSpec, task: Task, catalogue: Catalogue) -> list[int]:
    """Return the different label budgets of a task, as counts."""
    with catalogue.naming("task", task.name):
        require_rows(task, "test()", task.test())
        strata = pool_strata(task)
    sizes = list(dict.fromkeys(subsets.resolve_size(size, len(strata)) for size in spec.sizes))
    several = len(spec.tasks) > 1
    for size in sizes:
        try:
            _check_size(spec, strata, size)
        except SpecError as error:
            raise (SpecError(f"task '{task.label}': {error}") if several else error) from error
    return sizes


def _check_size(spec: SweepSpec, strata: subsets.Strata, size: int) -> None:
    subsets.check_size(strata, size)
    if spec.recipe.patience is not None:
        # Every seed's subset holds each class, so what one has room for, all have.
        rows = subsets.draw(strata, size, spec.seeds[0])
        subsets.split_validation(strata[rows], spec.recipe.validation_share, spec.seeds[0])
