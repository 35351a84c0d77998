"""Every hook of ftbench. Mark an implementation with ``@ftbench.hookimpl``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ftbench.backbone import BackboneFamily
    from ftbench.format import Format
    from ftbench.recipe_parts import Augmentation, Head, Mixing, Optimizer, Schedule
    from ftbench.records import RunRecord, RunSpec
    from ftbench.strategy import Strategy
    from ftbench.task import Task

# A specification has a docstring and no body, hence the empty-body exceptions below.
hookspec = pluggy.HookspecMarker("ftbench")
hookimpl = pluggy.HookimplMarker("ftbench")


@hookspec
def ftbench_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Return strategy classes."""


@hookspec
def ftbench_tasks() -> Iterable[type[Task]]:  # type: ignore[empty-body]
    """Return task classes."""


@hookspec
def ftbench_backbones() -> Iterable[type[BackboneFamily]]:  # type: ignore[empty-body]
    """Return backbone families."""


@hookspec
def ftbench_optimizers() -> Iterable[type[Optimizer]]:  # type: ignore[empty-body]
    """Return optimizers."""


@hookspec
def ftbench_schedules() -> Iterable[type[Schedule]]:  # type: ignore[empty-body]
    """Return learning-rate schedules."""


@hookspec
def ftbench_augmentations() -> Iterable[type[Augmentation]]:  # type: ignore[empty-body]
    """Return augmentations."""


@hookspec
def ftbench_mixings() -> Iterable[type[Mixing]]:  # type: ignore[empty-body]
    """Return ways to mix a batch."""


@hookspec
def ftbench_heads() -> Iterable[type[Head]]:  # type: ignore[empty-body]
    """Return heads."""


@hookspec
def ftbench_report_formats() -> Mapping[str, Format]:  # type: ignore[empty-body]
    """Return report formats by name: functions from a Summary to text or bytes."""


@hookspec
def ftbench_run_started(spec: RunSpec) -> None:
    """A run is about to start."""


@hookspec
def ftbench_run_finished(record: RunRecord) -> None:
    """A run has ended, well or not, and its record is on disk."""
