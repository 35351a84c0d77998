"""Views from resident bytes: crop, resize, flip, normalise, mix and cast, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ftbench import rng
from ftbench.ops import reference, serving
from ftbench.ops.mix import FLOATS, MeanStd, MixPlan, checked_normalization, sent

_ROOM = 1e-6  # by which a crop's rounded sums may pass the image, as a share of its side


@dataclass(frozen=True, eq=False)
class AugmentPlan:
    """Which view each of B images is seen in.

    ``crop`` (B, 4) float32 is ``[top, left, height, width)`` in pixels of the stored image, whole
    or not; ``flip`` (B,) bool says which views are mirrored. ``height`` and ``width`` are the
    stored images' size. TypeError and ValueError name the field, its value and what was expected.
    """

    crop: Tensor
    flip: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        """Refuse tensors of another dtype, shape or device, and crops that leave the image."""
        for name, dtype in (("crop", torch.float32), ("flip", torch.bool)):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"plan.{name} is {tensor!r}, expected a tensor")
            if tensor.dtype != dtype:
                raise TypeError(f"plan.{name} has dtype {tensor.dtype}, expected {dtype}")
        if self.flip.dim() != 1:
            raise ValueError(f"plan.flip has shape {tuple(self.flip.shape)}, expected (B,)")
        if self.crop.shape != (len(self.flip), 4):
            raise ValueError(
                f"plan.crop has shape {tuple(self.crop.shape)}, expected ({len(self.flip)}, 4)"
            )
        if self.crop.device != self.flip.device:
            raise ValueError(f"plan.crop is on {self.crop.device}, plan.flip on {self.flip.device}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"height × width is {self.height} × {self.width}, expected positive")
        self._check_crops()

    def _check_crops(self) -> None:
        start, length = self.crop[:, :2].double(), self.crop[:, 2:].double()
        size = torch.tensor([self.height, self.width], dtype=torch.float64, device=start.device)
        # Written so that NaN is refused as well.
        inside = (start >= 0) & (length > 0) & (start + length <= size * (1 + _ROOM))
        wrong = ~inside.all(dim=1)
        if bool(wrong.any()):
            raise ValueError(
                f"plan.crop holds {self.crop[wrong][0].tolist()}, expected [top, left, height, "
                f"width) within {self.height} × {self.width}"
            )

    def to(self, device: torch.device | str) -> AugmentPlan:
        """Return the plan with its tensors on ``device``: from the CPU to a GPU without waiting."""
        crop, flip = sent([self.crop, self.flip], torch.device(device))
        return self._of_checked(crop, flip)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> AugmentPlan:
        """Return the plan of some of the images."""
        index = torch.from_numpy(np.ascontiguousarray(rows)).to(self.flip.device)
        return self._of_checked(self.crop[index], self.flip[index])

    def _of_checked(self, crop: Tensor, flip: Tensor) -> AugmentPlan:
        """Return a plan for the same stored images: to check values again would wait for a GPU."""
        plan = object.__new__(AugmentPlan)
        for name, value in vars(self).items():
            object.__setattr__(plan, name, {"crop": crop, "flip": flip}.get(name, value))
        return plan


def sample_augment(
    batch_size: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    seed: int,
    step: int,
) -> AugmentPlan:
    """Draw the views of a batch on the CPU: a pure function of its arguments.

    A crop keeps a share of the area that is uniform within ``scale``, at a ratio of width to height
    whose logarithm is uniform within ``ratio``, where it fits: torchvision's RandomResizedCrop,
    which draws up to ten times until one fits, is the same where the first does; otherwise the
    side that is too long is cut to the image's. ValueError names what is out of range.
    """
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high < math.inf:
            raise ValueError(f"{name} is {(low, high)}, expected two numbers above 0 in order")
    if scale[1] > 1:
        raise ValueError(f"scale is {scale}, expected shares of the area, 1 at most")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip}, expected a number from 0 to 1")
    if batch_size < 0:
        raise ValueError(f"batch_size is {batch_size}, expected at least 0")
    if height < 1 or width < 1:
        raise ValueError(f"height × width is {height} × {width}, expected positive")
    draws = rng.uniforms(5 * batch_size, seed, "augment", step).reshape(5, batch_size)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    narrow, wide = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(narrow + (wide - narrow) * draws[1])
    # Whole pixels, as torchvision's.
    tall = np.clip(np.round(np.sqrt(area / aspect)), 1, height)
    long = np.clip(np.round(np.sqrt(area * aspect)), 1, width)
    top = np.floor(draws[2] * (height - tall + 1))
    left = np.floor(draws[3] * (width - long + 1))
    crop = np.stack([top, left, tall, long], axis=1).astype(np.float32)
    return AugmentPlan(torch.from_numpy(crop), torch.from_numpy(draws[4] < flip), height, width)


def augment(
    store: Tensor,
    rows: Tensor,
    plan: AugmentPlan,
    *,
    size: tuple[int, int],
    normalize: MeanStd | None = None,
    dtype: torch.dtype = torch.float32,
    mix: MixPlan | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return views (B, C, *size) of some rows of a uint8 store (N, H, W, C).

    ``rows`` (B,) int64 says which, ``plan`` what of each is seen. A crop of whole pixels is resized
    bilinearly and antialiased as by torchvision's ``resized_crop(…, antialias=True)``, within one
    of 255 levels, which are not rounded in between; of a pixel that a crop cuts, the share inside
    counts. Views are then mirrored; then mixed by ``mix``, whose boxes are of
    ``size``; then normalised, ``(v/255 − mean)/std``; and rounded once to ``dtype``. On the CPU the
    store may be a memory map: only rows that are asked for are read.

    ``out``, contiguous or channels_last, is filled and returned; its dtype is then ``dtype``.
    Without it the result is new and contiguous. TypeError, ValueError and IndexError name the
    argument, its value and what was expected.
    """
    shape = _checked_shape(store, rows, plan, size, mix)
    if out is not None:
        _check_out(out, shape, store.device)
        dtype = out.dtype
    if dtype not in FLOATS:
        raise TypeError(f"dtype is {dtype!r}, expected float32, float16 or bfloat16 of torch")
    mean, std = ((), ()) if normalize is None else checked_normalization(normalize, shape[1])
    compiled = serving.operators(store.device)
    if compiled is None:
        _check_rows(rows, len(store))
        views = reference.augment(store, rows, plan.crop, plan.flip, size)
        if mix is not None:
            views = reference.mix(views, mix.partner, mix.weight, mix.clipped_box, (), ())
        views = reference.normalized(views, 255.0, mean, std)
        return views.to(dtype) if out is None else out.copy_(views)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=store.device)
    mixing = (None, None, None) if mix is None else (mix.partner, mix.weight, mix.box)
    compiled.augment_into(store, rows, plan.crop, plan.flip, *mixing, mean, std, out)
    return out


def _checked_shape(
    store: Tensor, rows: Tensor, plan: AugmentPlan, size: tuple[int, int], mix: MixPlan | None
) -> tuple[int, int, int, int]:
    if not isinstance(store, Tensor):
        raise TypeError(f"store is of type {type(store).__name__}, expected a tensor")
    if store.dtype != torch.uint8:
        raise TypeError(f"store has dtype {store.dtype}, expected uint8")
    if store.dim() != 4:
        raise ValueError(f"store has shape {tuple(store.shape)}, expected (N, H, W, C)")
    if not store.is_contiguous():
        raise ValueError(
            f"store has strides {store.stride()}, expected a contiguous one: a copy would take "
            "its whole size"
        )
    if not isinstance(rows, Tensor):
        raise TypeError(f"rows are of type {type(rows).__name__}, expected a tensor")
    if rows.dtype != torch.int64:
        raise TypeError(f"rows have dtype {rows.dtype}, expected int64")
    if rows.dim() != 1:
        raise ValueError(f"rows have shape {tuple(rows.shape)}, expected (B,)")
    if not isinstance(plan, AugmentPlan):
        raise TypeError(f"plan is {plan!r}, expected an AugmentPlan")
    _, height, width, channels = store.shape
    if (plan.height, plan.width) != (height, width):
        raise ValueError(
            f"the plan is for images of {plan.height} × {plan.width}, the store has {height} × "
            f"{width}"
        )
    if len(plan.flip) != len(rows):
        raise ValueError(f"the plan is for {len(plan.flip)} images, {len(rows)} rows are given")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size!r}, expected (height, width), both positive")
    for name, device in (("rows are", rows.device), ("the plan is", plan.flip.device)):
        if device != store.device:
            raise ValueError(f"{name} on {device}, the store on {store.device}")
    if mix is not None:
        _check_mix(mix, len(rows), size, store.device)
    return len(rows), channels, *size


def _check_mix(mix: MixPlan, batch: int, size: tuple[int, int], device: torch.device) -> None:
    if not isinstance(mix, MixPlan):
        raise TypeError(f"mix is {mix!r}, expected a MixPlan or None")
    if (mix.height, mix.width) != tuple(size):
        raise ValueError(f"mix is for {mix.height} × {mix.width} pixels, views have {size}")
    if len(mix.partner) != batch:
        raise ValueError(f"mix is for {len(mix.partner)} images, the batch has {batch}")
    if mix.partner.device != device:
        raise ValueError(f"mix is on {mix.partner.device}, the store on {device}")


def _check_out(out: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"out is of type {type(out).__name__}, expected a tensor or None")
    if out.shape != shape or out.device != device:
        raise ValueError(f"out is {tuple(out.shape)} on {out.device}, expected {shape} on {device}")


def _check_rows(rows: Tensor, count: int) -> None:
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= count):
        wrong = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
        raise IndexError(f"rows holds {wrong}, expected 0 to {count - 1}")


def views_of(images: Tensor, plan: AugmentPlan, size: tuple[int, int]) -> Tensor:
    """Return views (B, C, *size) float32 of images (B, C, H, W) by plain torch, levels as theirs.

    Differentiable in floating-point images.
    """
    if (plan.height, plan.width) != tuple(images.shape[2:]) or len(plan.flip) != len(images):
        raise ValueError(
            f"the plan is for {len(plan.flip)} images of {plan.height} × {plan.width}, "
            f"{tuple(images.shape)} are given"
        )
    return reference.views(images.float(), plan.crop, plan.flip, size)
