"""Outputs of a model over examples, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree

from ftbench.task import Batch

BATCH = 256


class Batched(Protocol):
    """Rows that can be batched by index: examples, or what flows out of a model's first stages."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the inputs and targets of ``rows``, in that order."""


def predictions(
    model: nn.Module, examples: Batched, batch_size: int = BATCH
) -> Iterator[tuple[Any, Any]]:
    """Yield (outputs, targets) batch by batch, in order; the model is left in eval mode."""
    model.eval()
    for start in range(0, len(examples), batch_size):
        batch = examples.batch(np.arange(start, min(start + batch_size, len(examples))))
        yield model(batch.inputs), batch.targets


@torch.no_grad()
def predict(model: nn.Module, examples: Batched, batch_size: int = BATCH) -> tuple[Any, Any]:
    """Return (outputs, targets) over all examples, in order, without gradients.

    The model is left in eval mode.
    """
    outputs, targets = zip(*predictions(model, examples, batch_size), strict=True)
    return joined(outputs), joined(targets)


def joined(batches: Sequence[Any]) -> Any:
    """Return batches as one: tensors, or nested structures of them, rows first."""
    return _pytree.tree_map(lambda *leaves: torch.cat(leaves), batches[0], *batches[1:])
