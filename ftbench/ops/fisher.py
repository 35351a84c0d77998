"""Accumulating squared per-sample gradients into a Fisher diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def accumulate_fisher_(fisher: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add Σ_b g_b² to each ``fisher[i]`` in place.

    ``gradients[i]`` is (B, *fisher[i].shape): one gradient a sample. ValueError where the lists or
    shapes do not fit.
    """
    if len(fisher) != len(gradients):
        raise ValueError(f"fisher has {len(fisher)} tensors, gradients has {len(gradients)}")
    for index, (total, gradient) in enumerate(zip(fisher, gradients, strict=True)):
        if gradient.dim() != total.dim() + 1 or gradient.shape[1:] != total.shape:
            raise ValueError(
                f"gradients[{index}] has shape {tuple(gradient.shape)}, "
                f"expected (B, *{tuple(total.shape)})"
            )
        total.add_(gradient.to(total.dtype).square().sum(dim=0))
