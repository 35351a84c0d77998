"""What frozen leading stages make of rows, computed once: the loop asks for it, runs share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ftbench.backbone import Model
from ftbench.task import Batch

Rows = npt.NDArray[np.int64]
WHOLE = ""  # the name of what is one tensor


@dataclass(frozen=True)
class Flows:
    """Rows as they come out of the first ``depth`` stages, and their targets."""

    depth: int
    tensors: Mapping[str, Tensor]
    targets: Callable[[Rows], Any]
    device: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.tensors.values())))

    def flow(self, rows: Rows) -> Any:
        """Return some rows on the device, in memory of their own."""
        index = torch.from_numpy(np.ascontiguousarray(rows))
        found = {name: _taken(tensor, index, self.device) for name, tensor in self.tensors.items()}
        return found.get(WHOLE, found)

    def batch(self, rows: Rows) -> Batch:
        """Return some rows, with what flows for inputs, as examples have them."""
        return Batch(self.flow(rows), self.targets(rows))


def _taken(tensor: Tensor, index: Tensor, device: str) -> Tensor:
    """Return rows of a tensor that lies on the device or on the host, in the same memory format."""
    last = tensor.dim() == 4 and not tensor.is_contiguous()
    if last:  # images whose channels lie last
        tensor = tensor.permute(0, 2, 3, 1)
    found = tensor[index.to(tensor.device)]
    if found.device.type != torch.device(device).type:
        found = found.pin_memory().to(device, non_blocking=True)
    return found.permute(0, 3, 1, 2) if last else found


class KnownRows(Protocol):
    """Gives the outputs of frozen leading stages, which have not moved since they were built."""

    def training(self, depth: int) -> Flows | None:
        """Return the training rows behind at most ``depth`` stages; None: compute them."""

    def validation(self, depth: int) -> Flows | None:
        """Return the validation rows behind at most ``depth`` stages; None: compute them."""

    def thaw(self, depth: int) -> None:
        """Hear that the stages from ``depth`` on may train from now on."""

    def still(self, depth: int) -> bool:
        """Return whether the first ``depth`` stages are as they were when rows went through."""


class Tail(nn.Module):
    """A model behind its first ``depth`` stages: takes what flows out of them."""

    def __init__(self, model: Model, depth: int) -> None:
        super().__init__()
        self.model, self.depth = model, depth

    def forward(self, flow: Any) -> Any:
        """Return what the model's head makes of the flow."""
        for stage in self.model.stages[self.depth :]:
            flow = stage(flow)
        return self.model.answer(self.model.readout(flow))
