"""A SweepSpec → the runs of its grid, with every name, option and size checked."""

from __future__ import annotations

from collections.abc import Sequence

from ftbench import subsets
from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.plugins import Catalogue, Kind, Part, Resolved
from ftbench.records import ComponentId, RunSpec, identity_key
from ftbench.task import Task, pool_strata, require_rows


def expand(spec: SweepSpec, catalogue: Catalogue) -> list[RunSpec]:
    """Return the runs of the grid: seed by seed, so that an early stop leaves whole tables.

    Every name, option and size is checked here, before anything trains: SpecError or PluginError.
    """
    task = _only("task", spec.task, catalogue.resolve("task", spec.task))
    backbone = _only("backbone", spec.backbone, catalogue.resolve("backbone", spec.backbone))
    strategies = _strategies(catalogue, spec.strategies)
    with catalogue.naming("task", task.component.name):
        sizes = _sizes(spec, task.component)
    recipe = spec.recipe.model_dump(mode="json")
    return [
        RunSpec(
            task=task.identity,
            backbone=backbone.identity,
            strategy=strategy,
            recipe=recipe,
            size=size,
            seed=seed,
            threads=spec.threads,
            deterministic=spec.deterministic,
        )
        for seed in spec.seeds
        for size in sizes
        for strategy in strategies
    ]


def check_test_set(spec: SweepSpec, catalogue: Catalogue) -> None:
    """Raise SpecError where the task has no test rows; nothing but their number is looked at."""
    for task in catalogue.resolve("task", spec.task):
        with catalogue.naming("task", task.component.name):
            require_rows(task.component, "test()", task.component.test())


def _only(kind: Kind, text: str, found: Sequence[Resolved[Part]]) -> Resolved[Part]:
    if len(found) > 1:
        raise SpecError(f"{kind} '{text}' is a grid; a sweep has one {kind}")
    return found[0]


def _strategies(catalogue: Catalogue, texts: Sequence[str]) -> list[ComponentId]:
    found: dict[str, ComponentId] = {}
    for text in texts:
        for strategy in catalogue.resolve("strategy", text):
            point = identity_key(strategy.identity.identity())
            if point in found:
                label = strategy.component.label
                raise SpecError(f"strategy '{text}' is in the spec twice, as '{label}'")
            found[point] = strategy.identity
    return list(found.values())


def _sizes(spec: SweepSpec, task: Task) -> list[int]:
    strata = pool_strata(task)
    sizes = list(dict.fromkeys(subsets.resolve_size(size, len(strata)) for size in spec.sizes))
    for size in sizes:
        subsets.check_size(strata, size)
        if spec.recipe.patience is not None:
            # Every seed's subset holds each class, so what one has room for, all have.
            rows = subsets.draw(strata, size, spec.seeds[0])
            subsets.split_validation(strata[rows], spec.recipe.validation_share, spec.seeds[0])
    return sizes
