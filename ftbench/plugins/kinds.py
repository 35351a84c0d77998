"""The kinds of things that plugins bring, who brings them, and what may name them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from ftbench.component import Component, is_name
from ftbench.errors import FtbenchError
from ftbench.recipe import PARTS, RecipePart

ComponentKind = Literal["strategy", "task", "backbone"] | RecipePart
Kind = ComponentKind | Literal["format"]
KINDS: tuple[Kind, ...] = ("strategy", "task", "backbone", *PARTS, "format")
HOOKS: Mapping[str, Kind] = {
    "ftbench_strategies": "strategy",
    "ftbench_tasks": "task",
    "ftbench_backbones": "backbone",
    "ftbench_optimizers": "optimizer",
    "ftbench_schedules": "schedule",
    "ftbench_augmentations": "augmentation",
    "ftbench_mixings": "mixing",
    "ftbench_heads": "head",
    "ftbench_report_formats": "format",
}
"""The kind that each hook offers; the others tell of events."""

# By name, for they bring torch: what prints a table does not wait for it.
_BASES: Mapping[Kind, str] = {
    "strategy": "ftbench.strategy:Strategy",
    "task": "ftbench.task:Task",
    "backbone": "ftbench.backbone:BackboneFamily",
    "optimizer": "ftbench.recipe_parts:Optimizer",
    "schedule": "ftbench.recipe_parts:Schedule",
    "augmentation": "ftbench.recipe_parts:Augmentation",
    "mixing": "ftbench.recipe_parts:Mixing",
    "head": "ftbench.recipe_parts:Head",
}


@dataclass(frozen=True)
class Owner:
    """The distribution that an entry point belongs to."""

    distribution: str
    version: str

    def __str__(self) -> str:
        """Return ``distribution version``."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class LoadError:
    """A plugin, or one thing that it offered, that could not be taken in."""

    owner: Owner
    entry_point: str
    error: str


def kind_of(base: type[Component[Any]]) -> Kind:
    """Return the kind of components that inherit from a class."""
    return cast(Kind, base.kind)


def base_class(kind: Kind) -> type[Component[Any]]:
    """Return the class that components of a kind inherit from."""
    module, _, name = _BASES[kind].partition(":")
    found: type[Component[Any]] = getattr(importlib.import_module(module), name)
    return found


def name_problem(name: Any) -> str:
    """Return why nobody could ask for what is called ``name``, ``""`` where they can."""
    if not isinstance(name, str):
        return f"the name {name!r} is no string"
    if not is_name(name):
        return (
            f"the name {name!r} cannot be written in a spec; letters, digits, '_', '-' and '.' "
            "can, a letter or digit first"
        )
    return ""


def describe(error: BaseException) -> str:
    """Return an error as a line; one that was written for the user as it is."""
    if isinstance(error, FtbenchError):
        return str(error)
    return f"{type(error).__name__}: {error}"
