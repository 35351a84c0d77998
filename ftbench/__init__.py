"""ftbench: which fine-tuning strategy wins at which data budget, by how much, at what cost.

The names below are the public ones; they are imported when they are first used, so that
``import ftbench`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftbench.backbone import Backbone, BackboneFamily, Model, Stage, undecayed_parameters
    from ftbench.backbones.cutting import cut_image_model
    from ftbench.component import Options
    from ftbench.config import SweepSpec, load_spec
    from ftbench.errors import FtbenchError
    from ftbench.fisher import diagonal_fisher
    from ftbench.format import Format
    from ftbench.hookspecs import hookimpl
    from ftbench.images import FileImages
    from ftbench.metric import Metric
    from ftbench.offers import Offer
    from ftbench.ops import AugmentPlan, MixPlan, QuadraticPenalty
    from ftbench.plugins import load_catalogue
    from ftbench.preprocessing import Preprocessing
    from ftbench.recipe import Recipe
    from ftbench.recipe_parts import Augmentation, Head, Mixing, Optimizer, Schedule
    from ftbench.records import RunRecord, RunSpec
    from ftbench.results import load_outcomes, load_results
    from ftbench.strategy import Strategy, StrategyOptions
    from ftbench.sweep import run_sweep
    from ftbench.task import (
        Batch,
        ClassificationTask,
        Examples,
        Source,
        SourceTask,
        Task,
        TensorExamples,
        data_fingerprint,
    )
    from ftbench.tasks.image_task import ImageTask
    from ftbench.tasks.listing import ImageTaskOptions, Listing
    from ftbench.training import Data, Forward, Step

_HOMES = {
    "backbone": ("Backbone", "BackboneFamily", "Model", "Stage", "undecayed_parameters"),
    "backbones.cutting": ("cut_image_model",),
    "component": ("Options",),
    "config": ("SweepSpec", "load_spec"),
    "errors": ("FtbenchError",),
    "fisher": ("diagonal_fisher",),
    "format": ("Format",),
    "hookspecs": ("hookimpl",),
    "images": ("FileImages",),
    "metric": ("Metric",),
    "offers": ("Offer",),
    "ops": ("AugmentPlan", "MixPlan", "QuadraticPenalty"),
    "plugins": ("load_catalogue",),
    "preprocessing": ("Preprocessing",),
    "recipe": ("Recipe",),
    "recipe_parts": ("Augmentation", "Head", "Mixing", "Optimizer", "Schedule"),
    "records": ("RunRecord", "RunSpec"),
    "results": ("load_outcomes", "load_results"),
    "strategy": ("Strategy", "StrategyOptions"),
    "sweep": ("run_sweep",),
    "task": (
        "Batch",
        "ClassificationTask",
        "Examples",
        "Source",
        "SourceTask",
        "Task",
        "TensorExamples",
        "data_fingerprint",
    ),
    "tasks.image_task": ("ImageTask",),
    "tasks.listing": ("ImageTaskOptions", "Listing"),
    "training": ("Data", "Forward", "Step"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AugmentPlan",
    "Augmentation",
    "Backbone",
    "BackboneFamily",
    "Batch",
    "ClassificationTask",
    "Data",
    "Examples",
    "FileImages",
    "Format",
    "Forward",
    "FtbenchError",
    "Head",
    "ImageTask",
    "ImageTaskOptions",
    "Listing",
    "Metric",
    "MixPlan",
    "Mixing",
    "Model",
    "Offer",
    "Optimizer",
    "Options",
    "Preprocessing",
    "QuadraticPenalty",
    "Recipe",
    "RunRecord",
    "RunSpec",
    "Schedule",
    "Source",
    "SourceTask",
    "Stage",
    "Step",
    "Strategy",
    "StrategyOptions",
    "SweepSpec",
    "Task",
    "TensorExamples",
    "cut_image_model",
    "data_fingerprint",
    "diagonal_fisher",
    "hookimpl",
    "load_catalogue",
    "load_outcomes",
    "load_results",
    "load_spec",
    "run_sweep",
    "undecayed_parameters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ftbench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"ftbench.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
