"""The operators in plain torch: what they mean, and what serves where nothing is compiled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(
    images: Tensor,
    partner: Tensor,
    weight: Tensor,
    clipped_box: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Return the mixed batch (B, C, H, W) in float32; the arguments are as a plan has them."""
    integer = images.dtype == torch.uint8
    own = (images.permute(0, 3, 1, 2) if integer else images).float()
    other = own[partner]
    share = weight.view(-1, 1, 1, 1)
    mixed = share * own + (1 - share) * other
    # A share of zero takes nothing, not even a NaN.
    mixed = torch.where(share == 1, own, mixed)
    mixed = torch.where((share == 0) | _inside(clipped_box, own), other, mixed)
    if len(mean):
        full = 255.0 if integer else 1.0
        scale = [1 / (full * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        mixed = mixed * _per_channel(scale, own) + _per_channel(shift, own)
    return mixed


def _per_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)


def _inside(clipped_box: Tensor, images: Tensor) -> Tensor:
    """Return (B, 1, H, W) bool: which pixels the partner's are pasted over."""
    top, left, bottom, right = (side.view(-1, 1, 1, 1) for side in clipped_box.unbind(dim=1))
    row = torch.arange(images.shape[2], device=images.device).view(1, 1, -1, 1)
    column = torch.arange(images.shape[3], device=images.device).view(1, 1, 1, -1)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def quadratic_term(
    parameter: Tensor, anchor: Tensor | None, strength: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient s (θ − a) of one parameter's part, and Σ s (θ − a)² in float64."""
    gap = _widened(parameter)
    if anchor is not None:
        gap = gap - _widened(anchor)
    pull = (_widened(strength) if isinstance(strength, Tensor) else strength) * gap
    return pull, (pull * gap).sum(dtype=torch.float64)


def _widened(values: Tensor) -> Tensor:
    # float32 at least: squares of small float16 numbers vanish, of large ones overflow.
    return values.to(torch.promote_types(values.dtype, torch.float32))
