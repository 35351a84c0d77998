"""A SweepSpec → the runs of its grid, with every name, option and size checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import cast

from ftbench import subsets
from ftbench.backbone import BackboneFamily
from ftbench.component import parse_reference
from ftbench.config import SweepSpec
from ftbench.errors import FtbenchError, PluginError, SpecError
from ftbench.plugins import Catalogue, Kind
from ftbench.records import ComponentId, RunSpec, identity_key
from ftbench.task import Task, pool_strata, require_rows


def expand(spec: SweepSpec, catalogue: Catalogue) -> list[RunSpec]:
    """Return the runs of the grid: seed by seed, so that an early stop leaves whole tables.

    Every name, option and size is checked here, before anything trains: SpecError or PluginError.
    """
    task, task_id = _one(catalogue, "task", spec.task)
    _, backbone_id = _one(catalogue, "backbone", spec.backbone)
    strategies = _strategies(catalogue, spec.strategies)
    with _naming(catalogue, "task", task.name):
        sizes = _sizes(spec, cast(Task, task))
    recipe = spec.recipe.model_dump(mode="json")
    return [
        RunSpec(
            task=task_id,
            backbone=backbone_id,
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
    name, options = parse_reference(spec.task)[0]
    with _naming(catalogue, "task", name):
        task = cast(Task, catalogue.build("task", name, options))
        require_rows(task, "test()", task.test())


def _one(catalogue: Catalogue, kind: Kind, text: str) -> tuple[Task | BackboneFamily, ComponentId]:
    references = parse_reference(text)
    if len(references) > 1:
        raise SpecError(f"{kind} '{text}' is a grid; a sweep has one {kind}")
    with _naming(catalogue, kind, references[0][0]):
        component = cast("Task | BackboneFamily", catalogue.build(kind, *references[0]))
        return component, catalogue.identify(component)


@contextlib.contextmanager
def _naming(catalogue: Catalogue, kind: Kind, name: str) -> Iterator[None]:
    """Turn whatever a plugin raises while the grid is expanded into an error that names it."""
    try:
        yield
    except FtbenchError:
        raise
    except (Exception, SystemExit) as error:
        owner = catalogue.find(kind, name).owner
        raise PluginError(
            f"the {kind} '{name}' of {owner}: {type(error).__name__}: {error}"
        ) from error


def _strategies(catalogue: Catalogue, texts: Sequence[str]) -> list[ComponentId]:
    found: dict[str, ComponentId] = {}
    for text in texts:
        for name, options in parse_reference(text):
            with _naming(catalogue, "strategy", name):
                strategy = catalogue.identify(catalogue.build("strategy", name, options))
            point = identity_key(strategy.identity())
            if point in found:
                raise SpecError(f"strategy '{text}' is in the spec twice, as '{strategy.label}'")
            found[point] = strategy
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
