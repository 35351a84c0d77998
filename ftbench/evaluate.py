"""Predictions, what of each row they come to, and the scores of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ftbench.answers import refusal, require, require_number
from ftbench.columns import is_taken
from ftbench.errors import FtbenchError
from ftbench.predictions import Batched, joined, predict, predictions
from ftbench.task import Examples, Task

Score = TypeVar("Score")


@torch.inference_mode()
def outcomes_of(
    task: Task, model: nn.Module, examples: Batched, *, predicted: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the task's outcomes on all examples, and the part of them that is kept.

    Outputs live as long as their batch. ``predicted`` keeps the task's predictions as well.
    FtbenchError where a task returns something else than tensors with one entry a row.
    """
    found, kept = [], []
    for outputs, targets in predictions(model, examples):
        rows = len(_pytree.tree_leaves(targets)[0])
        outcomes = _one_a_row(task, "outcomes", task.outcomes(outputs, targets), rows)
        keeping = _one_a_row(task, "kept", task.kept(outcomes), rows)
        if predicted:
            more = task.predictions(outputs, targets)
            keeping |= _one_a_row(task, "predictions", more, rows)
        found.append(outcomes)
        kept.append(keeping)
    return joined(found), joined(kept)


def _one_a_row(task: Task, method: str, answer: object, rows: int) -> dict[str, Tensor]:
    expected = f"a dict of tensors, one entry for each of the batch's {rows} rows"
    what = f"task '{task.name}': {method}() returned"
    found = dict(require(answer, dict, what, expected))
    for name, values in found.items():
        named = f"{what[:-9]} has {name} as"
        if name in ("key", "row") and method != "outcomes":
            raise FtbenchError(f"{named} a name; call it otherwise, {name} says which run's row")
        tensor = require(values, Tensor, named, expected)
        if tensor.dim() < 1 or len(tensor) != rows:
            raise refusal(tensor, named, expected)
    return found


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Batched, score: Callable[[Any, Any], Score]) -> Score:
    """Return ``score`` of the model's outputs and the targets of all examples."""
    return score(*predict(model, examples))


_NEIGHBOURS = 16  # rows that are predicted together and in halves


@torch.inference_mode()
def refuse_neighbours(model: nn.Module, examples: Examples, strategy: str) -> None:
    """Raise FtbenchError where the prediction of a row depends on the rows beside it.

    Statistics of a test batch, say, or a memory of rows: whoever predicts one row would get another
    answer. Up to 16 of the examples are predicted together and in halves.
    """
    rows = min(_NEIGHBOURS, len(examples))
    if rows < 2:
        return
    few = examples.subset(np.arange(rows))
    whole, halves = (predict(model, few, size)[0] for size in (rows, (rows + 1) // 2))
    for one, other in zip(*map(_pytree.tree_leaves, (whole, halves)), strict=True):
        # Kernels for another number of rows add up in another order.
        scale = float(one.abs().max()) if one.is_floating_point() else 0.0
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
            off = float((one - other).abs().max())
            raise FtbenchError(
                f"strategy '{strategy}': the scored model's prediction of a row depends on the "
                f"rows beside it: {rows} rows predicted in halves differ by up to {off:.2g}; "
                "predict each row by itself"
            )


def checked_scores(task: Task, scored: object) -> dict[str, float]:
    """Return what score() returned as floats, without those that are None: they are missing.

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
        if value is not None
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
