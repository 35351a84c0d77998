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
    return normalized(mixed, 255.0 if integer else 1.0, mean, std)


def normalized(images: Tensor, full: float, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``(v/full − mean)/std``, one number a channel; images as they are without any."""
    if not len(mean):
        return images
    scale = [1 / (full * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    return images * _per_channel(scale, images) + _per_channel(shift, images)


def augment(
    store: Tensor, rows: Tensor, crop: Tensor, flip: Tensor, size: tuple[int, int]
) -> Tensor:
    """Return views (B, C, *size) in float32, from 0 to 255; the arguments are as a plan has them.

    Along each side a pixel of the view is a mean of the crop's, weighted by a triangle about its
    own place that reaches as far as a step between such places, a pixel at least: what torch calls
    bilinear with antialiasing. Of a pixel that the crop cuts, the share inside counts.
    """
    return views(store[rows].permute(0, 3, 1, 2).float(), crop, flip, size)


def views(images: Tensor, crop: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Return views (B, C, *size) of float32 images (B, C, H, W)."""
    down = _side_weights(crop[:, 0], crop[:, 2], images.shape[2], size[0])
    across = _side_weights(crop[:, 1], crop[:, 3], images.shape[3], size[1])
    across = torch.where(flip.view(-1, 1, 1), across.flip(1), across)
    return down.unsqueeze(1) @ images @ across.transpose(1, 2).unsqueeze(1)


def _side_weights(start: Tensor, length: Tensor, of: int, wanted: int) -> Tensor:
    """Return (B, wanted, of): what each pixel of a view takes of those along one side."""
    start, length = start.double().view(-1, 1, 1), length.double().view(-1, 1, 1)
    pixel = torch.arange(of, device=start.device, dtype=torch.float64).view(1, 1, -1)
    index = torch.arange(wanted, device=start.device, dtype=torch.float64).view(1, -1, 1)
    step = length / wanted
    centre = start + step * (index + 0.5)
    weights = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)
    inside = torch.minimum(pixel + 1, start + length) - torch.maximum(pixel, start)
    weights = weights * inside.clamp(min=0)
    return (weights / weights.sum(dim=2, keepdim=True)).float()


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
