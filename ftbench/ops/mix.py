"""mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): the plan of a batch, and its images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ftbench import rng
from ftbench.ops import reference, serving

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MeanStd = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, eq=False)
class MixPlan:
    """How each of a batch's B images is mixed with its partner.

    ``partner`` (B,) int64 indexes the batch; ``weight`` (B,) float32 in [0, 1] is the image's own
    share outside the box; ``box`` (B, 4) int32 is ``[top, left, bottom, right)`` in pixels, where
    the partner's pixels are pasted, empty where nothing is. ``height`` and ``width`` are the
    images' size, to which boxes are clipped. Values are checked when a plan is made; TypeError,
    ValueError and IndexError name the field, its value and what was expected.
    """

    partner: Tensor
    weight: Tensor
    box: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        """Refuse tensors of another dtype, shape, device or range."""
        for name in ("partner", "weight", "box"):
            if not isinstance(getattr(self, name), Tensor):
                raise TypeError(f"plan.{name} is {getattr(self, name)!r}, expected a tensor")
        if self.partner.dim() != 1:
            raise ValueError(f"plan.partner has shape {tuple(self.partner.shape)}, expected (B,)")
        batch = len(self.partner)
        for name, dtype, shape in (
            ("partner", torch.int64, (batch,)),
            ("weight", torch.float32, (batch,)),
            ("box", torch.int32, (batch, 4)),
        ):
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype:
                raise TypeError(f"plan.{name} has dtype {tensor.dtype}, expected {dtype}")
            if tensor.shape != shape:
                raise ValueError(f"plan.{name} has shape {tuple(tensor.shape)}, expected {shape}")
            if tensor.device != self.partner.device:
                raise ValueError(
                    f"plan.{name} is on {tensor.device}, plan.partner on {self.partner.device}"
                )
        _check_size(self.height, self.width)
        self._check_values()

    def _check_values(self) -> None:
        batch = len(self.partner)
        if not batch:
            return
        low, high = int(self.partner.min()), int(self.partner.max())
        if low < 0 or high >= batch:
            wrong = low if low < 0 else high
            raise IndexError(f"plan.partner holds {wrong}, expected 0 to {batch - 1}")
        # Written so that NaN is refused as well.
        outside = ~((self.weight >= 0) & (self.weight <= 1))
        if bool(outside.any()):
            wrong_weight = float(self.weight[outside][0])
            raise ValueError(f"plan.weight holds {wrong_weight}, expected numbers from 0 to 1")
        inside_out = (self.box[:, 2:] < self.box[:, :2]).any(dim=1)
        if bool(inside_out.any()):
            wrong_box = self.box[inside_out][0].tolist()
            raise ValueError(
                f"plan.box holds {wrong_box}, expected [top, left, bottom, right) with "
                "top ≤ bottom and left ≤ right"
            )

    @property
    def clipped_box(self) -> Tensor:
        """The boxes (B, 4) int32 clipped to the image; one that lies outside becomes empty."""
        top, left, bottom, right = self.box.unbind(1)
        top, left = top.clamp(0, self.height), left.clamp(0, self.width)
        bottom, right = bottom.clamp(0, self.height), right.clamp(0, self.width)
        return torch.stack([top, left, top.maximum(bottom), left.maximum(right)], dim=1)

    @property
    def label_weight(self) -> Tensor:
        """The weight (B,) float32 of each sample's own label, for the box's true clipped area."""
        compiled = serving.operators(self.weight.device)
        if compiled is not None and not self.weight.requires_grad:
            found: Tensor = compiled.label_weight(self.weight, self.box, self.height, self.width)
            return found
        box = self.clipped_box.to(torch.float64)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        # float64, since bfloat16 or float32 products would lose weight of small boxes.
        share = 1.0 - area / (self.height * self.width)
        return (self.weight.double() * share).float()

    def to(self, device: torch.device | str) -> MixPlan:
        """Return the plan with its tensors on ``device``: from the CPU to a GPU without waiting."""
        partner, weight, box = sent([self.partner, self.weight, self.box], torch.device(device))
        return self._of_checked(partner, weight, box, self.height, self.width)

    @classmethod
    def _of_checked(
        cls, partner: Tensor, weight: Tensor, box: Tensor, height: int, width: int
    ) -> MixPlan:
        """Return a plan of values that are known: to look at them takes time, on a GPU its end."""
        plan = object.__new__(cls)
        plan.__dict__.update(partner=partner, weight=weight, box=box, height=height, width=width)
        return plan


def sent(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the tensors on a device, widest elements first: from the CPU to a GPU in one copy."""
    if device.type == "cuda" and not any(t.is_cuda or t.requires_grad for t in tensors):
        return _in_one(tensors, lambda whole: whole.pin_memory().to(device, non_blocking=True))
    return [tensor.to(device) for tensor in tensors]


def _in_one(tensors: list[Tensor], move: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return the tensors, widest elements first, as they are after one ``move`` of their bytes."""
    # A copy has strides that bytes can be viewed by, an expanded tensor of one element has not.
    copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
    flat = [copy.view(-1).view(torch.uint8) for copy in copies]
    parts = move(torch.cat(flat)).split([len(part) for part in flat])
    return [
        part.view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def sample_mix(
    batch_size: int,
    height: int,
    width: int,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    seed: int,
    step: int,
) -> MixPlan:
    """Draw the mixing plan of one batch, on the host, from (seed, step) alone.

    With ``probability`` the batch is mixed; where both alphas are positive, CutMix is chosen with
    ``switch_probability``. One λ ~ Beta(α, α) serves the batch, partners are a permutation of it,
    and a box has area 1 − λ before it is clipped. ValueError for values out of range.
    """
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}, expected a finite number of at least 0")
    for name, value in (("probability", probability), ("switch_probability", switch_probability)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected a number from 0 to 1")
    if batch_size < 0:
        raise ValueError(f"batch_size is {batch_size}, expected at least 0")
    _check_size(height, width)
    apply, switch, level, row, column = rng.uniforms(5, seed, "mix", step).tolist()
    mixed = apply < probability and (mixup_alpha > 0 or cutmix_alpha > 0)
    weight, box = 1.0, (0, 0, 0, 0)
    if mixed and cutmix_alpha > 0 and (mixup_alpha == 0 or switch < switch_probability):
        box = _centred_box(height, width, 1 - _beta(cutmix_alpha, level), row, column)
    elif mixed:
        weight = _beta(mixup_alpha, level)
    partner = (
        rng.permutation(batch_size, seed, "mix partner", step)
        if mixed
        else np.arange(batch_size, dtype=np.int64)
    )
    return MixPlan._of_checked(
        torch.from_numpy(partner),
        torch.full((batch_size,), weight, dtype=torch.float32, device="cpu"),
        torch.from_numpy(np.tile(np.array(box, dtype=np.int32), (batch_size, 1))),
        height,
        width,
    )


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"height × width is {height} × {width}, expected positive")


def _beta(alpha: float, uniform: float) -> float:
    """Return the Beta(α, α) quantile at ``uniform``: one uniform a draw, no rejection."""
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, uniform))


def _centred_box(
    height: int, width: int, area: float, row: float, column: float
) -> tuple[int, int, int, int]:
    """Return a box of share ``area`` around a uniform pixel, clipped to the image."""
    half_height, half_width = (
        round(height * area**0.5) / 2,
        round(width * area**0.5) / 2,
    )
    top, left = int(row * height) - half_height, int(column * width) - half_width
    bottom, right = top + 2 * half_height, left + 2 * half_width
    return (
        max(0, int(np.floor(top))),
        max(0, int(np.floor(left))),
        min(height, int(np.floor(bottom))),
        min(width, int(np.floor(right))),
    )


def mix(
    images: Tensor,
    plan: MixPlan,
    *,
    normalize: MeanStd | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return the mixed batch (B, C, H, W).

    ``images`` is (B, C, H, W) float32, float16 or bfloat16, or (B, H, W, C) uint8. Inside a
    sample's box stands the partner's pixel v; outside it ``v = w·x + (1 − w)·x[partner]``, where a
    share of zero takes nothing. With ``normalize=(mean, std)``, one number a channel, the result is
    ``(v/255 − mean)/std`` for uint8 and ``(v − mean)/std`` for floats. Arithmetic is float32,
    rounded once to ``dtype`` (default: that of ``out``, or of the images; float32 for uint8).

    ``out``, contiguous or channels_last, is filled and returned; it may be ``images``, and where it
    overlaps them otherwise the result is still right. Keeping one from step to step saves most of
    the time on a CPU, where fresh memory costs more than mixing. Without it the result is new: in
    the order of the images, contiguous for uint8. Differentiable in floating-point images, by plain
    torch. TypeError and ValueError name the argument, its value and what was expected.
    """
    shape = _check_images(images, plan)
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"out is of type {type(out).__name__}, expected a tensor or None")
    result_dtype = _result_dtype(images, dtype, out)
    if out is not None and (out.shape != shape or out.device != images.device):
        raise ValueError(
            f"out is {tuple(out.shape)} on {out.device}, expected {shape} on {images.device}"
        )
    mean, std = ((), ()) if normalize is None else checked_normalization(normalize, shape[1])
    compiled = _operators(images, out)
    if compiled is None:
        mixed = reference.mix(images, plan.partner, plan.weight, plan.clipped_box, mean, std)
        if out is not None:
            return out.copy_(mixed)
        return mixed.to(result_dtype, memory_format=_memory_format(images))
    if out is None:
        mixed = compiled.mix(images, plan.partner, plan.weight, plan.box, mean, std, result_dtype)
        return cast(Tensor, mixed)
    if out is images:
        compiled.mix_(images, plan.partner, plan.weight, plan.box, mean, std)
    else:
        compiled.mix_into(images, plan.partner, plan.weight, plan.box, mean, std, out)
    return out


def _operators(images: Tensor, out: Tensor | None) -> Any:
    """Return the compiled operators if they serve these tensors; None for plain torch."""
    differentiable = torch.is_grad_enabled() and (
        images.requires_grad or (out is not None and out.requires_grad)
    )
    return None if differentiable else serving.operators(images.device)


def _memory_format(images: Tensor) -> torch.memory_format:
    last = (
        images.dtype != torch.uint8
        and not images.is_contiguous()
        and images.is_contiguous(memory_format=torch.channels_last)
    )
    return torch.channels_last if last else torch.contiguous_format


def _check_images(images: Tensor, plan: MixPlan) -> tuple[int, int, int, int]:
    if not isinstance(images, Tensor):
        raise TypeError(f"images are of type {type(images).__name__}, expected a tensor")
    if not isinstance(plan, MixPlan):
        raise TypeError(f"plan is {plan!r}, expected a MixPlan")
    if images.dtype not in (*FLOATS, torch.uint8):
        raise TypeError(
            f"images have dtype {images.dtype}, expected float32, float16, bfloat16 or uint8"
        )
    layout = "(B, H, W, C)" if images.dtype == torch.uint8 else "(B, C, H, W)"
    if images.dim() != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, expected {layout} for {images.dtype}"
        )
    if images.dtype == torch.uint8:
        batch, height, width, channels = images.shape
    else:
        batch, channels, height, width = images.shape
    if (height, width) != (plan.height, plan.width):
        raise ValueError(
            f"images are {height} × {width} pixels, the plan is for {plan.height} × {plan.width}; "
            f"their shape is {tuple(images.shape)}, expected {layout} for {images.dtype}"
        )
    if len(plan.partner) != batch:
        raise ValueError(f"the plan is for {len(plan.partner)} images, the batch has {batch}")
    if plan.partner.device != images.device:
        raise ValueError(f"the plan is on {plan.partner.device}, images on {images.device}")
    return batch, channels, height, width


def _result_dtype(images: Tensor, dtype: torch.dtype | None, out: Tensor | None) -> torch.dtype:
    default = torch.float32 if images.dtype == torch.uint8 else images.dtype
    chosen = dtype or (out.dtype if out is not None else default)
    if out is not None and out.dtype != (dtype or out.dtype):
        raise TypeError(f"out has dtype {out.dtype}, expected {dtype}")
    if chosen not in FLOATS:
        named = "out has dtype" if dtype is None and out is not None else "dtype is"
        raise TypeError(f"{named} {chosen!r}, expected float32, float16 or bfloat16 of torch")
    return chosen


def checked_normalization(normalize: MeanStd, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and std as lists of numbers, one a channel."""
    try:
        mean, std = ([float(v) for v in values] for values in normalize)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"normalize is {normalize!r}, expected (mean, std) with one number a channel"
        ) from error
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"normalize has {len(mean)} means and {len(std)} stds, the images {channels} channels"
        )
    if not all(map(math.isfinite, mean + std)) or 0 in std:
        raise ValueError(f"normalize is {normalize!r}, expected finite numbers and no std of 0")
    return mean, std
