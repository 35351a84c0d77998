"""Predictions and the scores of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree

from ftbench.answers import require_number
from ftbench.columns import is_taken
from ftbench.errors import FtbenchError
from ftbench.task import Examples, Task

EVALUATION_BATCH = 256
Score = TypeVar("Score")


@torch.inference_mode()
def predict(model: nn.Module, examples: Examples) -> tuple[Any, Any]:
    """Return (outputs, targets) over all examples, in order; the model is left in eval mode."""
    model.eval()
    outputs, targets = [], []
    for start in range(0, len(examples), EVALUATION_BATCH):
        batch = examples.batch(np.arange(start, min(start + EVALUATION_BATCH, len(examples))))
        outputs.append(model(batch.inputs))
        targets.append(batch.targets)
    return _joined(outputs), _joined(targets)


def _joined(batches: list[Any]) -> Any:
    return _pytree.tree_map(lambda *leaves: torch.cat(leaves), batches[0], *batches[1:])


def evaluate(model: nn.Module, examples: Examples, score: Callable[[Any, Any], Score]) -> Score:
    """Return ``score`` of the model's outputs and the targets of all examples."""
    return score(*predict(model, examples))


def checked_scores(task: Task, scored: object) -> dict[str, float]:
    """Return what score() returned as floats.

    FtbenchError where it is not one number for each metric, or names a column of the results.
    """
    found = list(scored) if isinstance(scored, Mapping) else None
    problem = _problem(found, [metric.name for metric in task.metrics])
    if not isinstance(scored, Mapping) or problem:
        said = repr(scored)[:60] if found is None else ", ".join(map(str, found)) or "nothing"
        declared = ", ".join(metric.name for metric in task.metrics)
        raise FtbenchError(
            f"task '{task.name}': score() returned {said}, which {problem}; expected a number for "
            f"each of its metrics: {declared}"
        )
    return {
        name: require_number(value, f"task '{task.name}': the {name} that score() returned is")
        for name, value in scored.items()
    }


def _problem(names: list[object] | None, declared: list[str]) -> str:
    """Return what is wrong with the names of scores, ``""`` where nothing is."""
    missing = [name for name in declared if names is None or name not in names]
    if missing:
        return f"lacks {missing[0]}"
    for name in names or ():
        if not isinstance(name, str):
            return f"names a score {name!r} that is no string"
        if is_taken(name):
            return f"names the column {name}"
    return ""
