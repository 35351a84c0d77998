"""What of a spec cannot be, found before anything trains: pairs, refusals, sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from ftbench import subsets
from ftbench.backbone import BackboneFamily
from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.plugins import Catalogue, Resolved
from ftbench.recipe import Recipe
from ftbench.recipe_parts import Mixing
from ftbench.recipes.presets import recipe_at
from ftbench.run.retention import check_source
from ftbench.strategy import Strategy
from ftbench.task import Task, pool_strata, require_offer, require_rows


def check_refusals(
    recipe: Recipe, strategies: Sequence[Resolved[Strategy]], mixings: Sequence[Resolved[Mixing]]
) -> None:
    """Raise SpecError for a strategy that refuses to be trained as a recipe of the grid asks."""
    mixed = [mixing.identity.label for mixing in mixings if mixing.component.mixes]
    frozen = recipe.norm_statistics == "frozen"
    for strategy in (resolved.component for resolved in strategies):
        if "mixing" in strategy.refuses and mixed:
            raise SpecError(
                f"strategy '{strategy.name}' refuses mixing, and recipe.mixing is '{mixed[0]}'; "
                "set that to none, or leave the strategy out"
            )
        if "accumulation" in strategy.refuses and recipe.accumulation > 1:
            raise SpecError(
                f"strategy '{strategy.name}' refuses accumulation, and recipe.accumulation is "
                f"{recipe.accumulation}; set that to 1, or leave the strategy out"
            )
        if "frozen-statistics" in strategy.refuses and frozen and strategy.pretrained:
            raise SpecError(
                f"strategy '{strategy.name}' refuses frozen statistics, and recipe.norm_statistics "
                "is 'frozen'; set that to update, or leave the strategy out"
            )


def check_class_weights(recipe: Recipe, tasks: Sequence[Resolved[Task]]) -> None:
    """Raise SpecError where class weights are asked for of a task that has none."""
    for task in tasks if recipe.class_weights != "none" else ():
        if type(task.component).fitted is Task.fitted:
            raise SpecError(
                f"task '{task.component.name}' has no class weights; leave out recipe.class_weights"
            )


def check_pairs(
    tasks: Sequence[Resolved[Task]],
    backbones: Sequence[Resolved[BackboneFamily]],
    catalogue: Catalogue,
) -> None:
    """Raise SpecError for a task and a backbone that do not fit, naming what would fit each.

    One that names a source whose classes the backbone does not have is among them.
    """
    for task in tasks:
        for backbone in backbones:
            with catalogue.naming("backbone", backbone.component.name):
                try:
                    require_offer(task.component, backbone.component)
                except SpecError as error:
                    hint = _fitting(task.component, backbone.component, catalogue)
                    raise SpecError(f"{error}{hint}") from error
            with catalogue.naming("task", task.component.name):
                problem = _image_problem(task.component, backbone.component)
                if problem:
                    hint = _fitting(task.component, backbone.component, catalogue)
                    raise SpecError(f"{problem}{hint}")
                check_source(task.component, backbone.component)


def _image_problem(task: Task, family: BackboneFamily) -> str:
    """Return why a task's own images are not what the backbone takes, ``""`` where they are."""
    wanted, pool = family.preprocessing(), task.pool()
    if wanted is None or hasattr(pool, "prepared") or not len(pool):
        return ""
    inputs = pool.batch(np.arange(1)).inputs
    shape = tuple(getattr(inputs, "shape", ()))
    if len(shape) != 4 or shape[1] == wanted.channels:
        return ""
    return (
        f"task '{task.label}' gives images of {shape[1]} channels, {shape[2]} × {shape[3]} "
        f"pixels, and backbone '{family.label}' takes {wanted.channels} channels, "
        f"{wanted.size[0]} × {wanted.size[1]}"
    )


def _fits(task: Task, family: BackboneFamily) -> bool:
    """Return whether the two fit; SpecError for a task whose data are not there."""
    task.pool()
    try:
        require_offer(task, family)
    except SpecError:
        return False
    return not _image_problem(task, family)


def _fitting(task: Task, family: BackboneFamily, catalogue: Catalogue) -> str:
    """Return the installed backbones that fit the task, and the tasks that fit the backbone."""
    families, tasks = [], []
    for name in catalogue.names("backbone"):
        # One that needs options, or is broken, is no advice.
        with contextlib.suppress(Exception):
            if _fits(task, catalogue.build(BackboneFamily, name, {})):
                families.append(name)
    for name in catalogue.names("task"):
        with contextlib.suppress(Exception):
            try:
                fits = _fits(catalogue.build(Task, name, {}), family)
            except SpecError:  # it wants to know where the data are
                fits, name = family.preprocessing() is not None, f"{name}(…)"
            if fits:
                tasks.append(name)
    return (
        f"; backbones that fit '{task.name}': {', '.join(families) or 'none installed'}; "
        f"tasks that fit '{family.name}': {', '.join(tasks) or 'none installed'}"
    )


def check_predictions(spec: SweepSpec, tasks: Sequence[Resolved[Task]]) -> None:
    """Raise SpecError where predictions are to be kept of a task that has none."""
    for task in tasks if spec.keep == "predictions" else ():
        if type(task.component).predictions is Task.predictions:
            raise SpecError(
                f"task '{task.component.name}' has no predictions() to keep; set keep to outcomes"
            )


def sizes_of(spec: SweepSpec, task: Task, catalogue: Catalogue, *, splits: bool) -> list[int]:
    """Return the different label budgets of a task, as counts.

    ``splits`` says that rows are held back from each.
    """
    with catalogue.naming("task", task.name):
        require_rows(task, "test()", task.test())
        strata = pool_strata(task)
    sizes = list(dict.fromkeys(subsets.resolve_size(size, len(strata)) for size in spec.sizes))
    several = len(spec.tasks) > 1
    for size in sizes:
        try:
            _check_size(spec, strata, size, splits=splits)
        except SpecError as error:
            raise (SpecError(f"task '{task.label}': {error}") if several else error) from error
    return sizes


def _check_size(spec: SweepSpec, strata: subsets.Strata, size: int, *, splits: bool) -> None:
    subsets.check_size(strata, size)
    recipe = recipe_at(spec.recipe, size)
    if splits or recipe.patience is not None:
        # Every seed's subset holds each class, so what one has room for, all have.
        rows = subsets.draw(strata, size, spec.seeds[0])
        subsets.split_validation(strata[rows], recipe.validation_share, spec.seeds[0])
