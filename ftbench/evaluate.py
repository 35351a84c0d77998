"""Predictions and the scores of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree

from ftbench.task import Examples

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
