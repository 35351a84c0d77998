"""Recipes by name, each a pure function of the number of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tomli_w

from ftbench.errors import SpecError, did_you_mean
from ftbench.recipe import Recipe

SMALL, LARGE = 5_000, 50_000  # labels at which the customary values change


def guideline(size: int) -> dict[str, Any]:
    """Return what is customary: AdamW, more regularisation and stronger views for fewer labels.

    Ten passes over the labels in batches of 32, 200 to 20,000 steps: of a few dozen labels, passes
    are over before a new head has learned anything.
    """
    dropout = 0.4 if size < SMALL else 0.25 if size <= LARGE else 0.15
    return {
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "head_rate_factor": 10.0,
        "weight_decay": 1e-2 if size < SMALL else 1e-4,
        "schedule": "cosine(warmup=0.1)",
        "steps": min(20_000, max(200, round(10 * size / 32))),
        "batch_size": 32,
        "label_smoothing": 0.1,
        "head": f"plain(dropout={dropout})",
        "augmentation": "strong" if size < SMALL else "standard",
        "mixing": "none" if size < SMALL else "mixup(alpha=0.2)",
    }


def bit_hyperrule(size: int) -> dict[str, Any]:
    """Return BiT's HyperRule (Kolesnikov et al. 2020, ECCV), as in its authors' code.

    It also sets the size of images, which is the backbone's here: 128 of 160 pixels for small
    images, 480 of 512 for others. In its code runs of 500 steps fall at 200, 300 and 400, where
    the paper says 30, 60 and 90 %.
    """
    if size < 20_000:
        steps, schedule = 500, "steps(at=(0.4, 0.6, 0.8), factor=0.1, warmup=0.2)"
    elif size < 500_000:
        steps, schedule = 10_000, "steps(at=(0.3, 0.6, 0.9), factor=0.1, warmup=0.05)"
    else:
        steps, schedule = 20_000, "steps(at=(0.3, 0.6, 0.9), factor=0.1, warmup=0.025)"
    return {
        "optimizer": "sgd(momentum=0.9, nesterov=False)",
        "learning_rate": 0.003,
        "head_rate_factor": 1.0,
        "weight_decay": 0.0,
        "schedule": schedule,
        "steps": steps,
        "batch_size": 512,
        "augmentation": "crop-flip(padding=0)",
        "mixing": "none" if size < 20_000 else "mixup(alpha=0.1)",
    }


def tllib(size: int) -> dict[str, Any]:
    """Return what Transfer-Learning-Library trains its task-adaptation tables with (erm.py).

    20 epochs of 500 steps whatever the size, SGD with the head at ten times the backbone's rate,
    a tenth of it from the 12th epoch on, and running statistics that move.
    """
    return {
        "optimizer": "sgd(momentum=0.9)",
        "learning_rate": 0.001,
        "head_rate_factor": 10.0,
        "weight_decay": 0.0005,
        "schedule": "steps(at=(0.6,), factor=0.1)",
        "steps": 10_000,
        "batch_size": 48,
        "augmentation": "standard(scale=(0.08, 1.0), brightness=0.0, contrast=0.0, saturation=0.0)",
        "norm_statistics": "update",
    }


PRESETS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "guideline": guideline,
    "bit-hyperrule": bit_hyperrule,
    "tllib": tllib,
}


def preset(name: str, size: int) -> dict[str, Any]:
    """Return the settings of a preset for ``size`` labels; SpecError for an unknown one."""
    if name not in PRESETS:
        raise SpecError(
            f"there is no recipe '{name}'{did_you_mean(name, PRESETS)} "
            f"(presets: {', '.join(PRESETS)})"
        )
    if size < 1:
        raise SpecError(f"size {size} is not positive")
    return PRESETS[name](size)


def recipe_at(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe of runs with ``size`` labels: its preset's, with what it says itself."""
    if recipe.preset is None:
        return recipe
    said = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"preset"}}
    settings = preset(recipe.preset, size)
    if said.get("epochs") is not None:  # it replaces the preset's steps
        settings.pop("steps", None)
    return Recipe.model_validate({**settings, **said})


def preset_toml(name: str, size: int) -> str:
    """Return a preset as a spec's ``[recipe]``."""
    settings = preset(name, size)
    Recipe.model_validate(settings)
    return tomli_w.dumps({"recipe": settings})
