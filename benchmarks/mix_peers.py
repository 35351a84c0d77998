"""The peers of ``ops.mix``, each as its package publishes it, labels included."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import FLOOR, MixCase
from ftbench import ops
from ftbench.ops import reference

NUM_CLASSES = 1000
ALPHA = 1.0  # the default of timm, torchvision and kornia
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Function = Callable[[], Any]


@dataclass(frozen=True)
class Batch:
    """Images, (B, C, H, W) float32 or (B, H, W, C) uint8, and labels (B,) int64."""

    images: Tensor
    labels: Tensor


def draw_batch(case: MixCase, shape: tuple[int, int, int, int], seed: int = 0) -> Batch:
    """Return random images of ``shape`` (B, C, H, W) as ``case`` wants them."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    if case.uint8:
        size = (batch, height, width, channels)
        images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    else:
        images = torch.rand(shape, generator=generator)
    # All different while there are classes enough, so that a check can tell partners by them.
    labels = torch.arange(batch) % NUM_CLASSES
    return Batch(images.to(case.device), labels.to(case.device))


def reference_mix(images: Tensor, plan: ops.MixPlan, out: Tensor) -> Tensor:
    """Fill ``out`` as ``ops.mix`` does under ``FTBENCH_OPS=reference``."""
    mixed = reference.mix(images, plan.partner, plan.weight, plan.clipped_box, (), ())
    return out.copy_(mixed)


def timm_mix(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return timm's ``Mixup``, as CutMix where the case is; it mixes in place."""
    mixup = importlib.import_module("timm.data.mixup").Mixup(
        mixup_alpha=0.0 if case.cutmix else ALPHA,
        cutmix_alpha=ALPHA if case.cutmix else 0.0,
        label_smoothing=0.0,
        num_classes=NUM_CLASSES,
    )
    if not case.uint8:
        return lambda: mixup(batch.images, batch.labels)
    pixels = _as_nchw(batch.images, variant)
    mean, std = (
        255 * torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )

    def mix() -> tuple[Tensor, Tensor]:
        # As timm's PrefetchLoader normalises, on the device.
        images = pixels.to(torch.float32).sub_(mean).div_(std)
        mixed, targets = mixup(images, batch.labels)
        return mixed.to(case.dtype), targets

    return mix


def torchvision_mix(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return torchvision's v2 ``MixUp`` or ``CutMix``, after its normalisation for uint8.

    The cast keeps whatever layout the chain gives: a conversion to channels_last is not asked.
    """
    v2 = importlib.import_module("torchvision.transforms.v2")
    mix = (v2.CutMix if case.cutmix else v2.MixUp)(alpha=ALPHA, num_classes=NUM_CLASSES)
    if not case.uint8:
        return lambda: mix(batch.images, batch.labels)
    pixels = _as_nchw(batch.images, variant)
    chain = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), mix]
    )

    def mix_pixels() -> tuple[Tensor, Tensor]:
        mixed, targets = chain(pixels, batch.labels)
        return mixed.to(case.dtype), targets

    return mix_pixels


def kornia_mix(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return kornia's ``RandomMixUpV2``; its labels are (own, partner's, the partner's weight)."""
    augmentation = importlib.import_module("kornia.augmentation")
    mix = augmentation.RandomMixUpV2(data_keys=["input", "class"])
    return lambda: mix(batch.images, batch.labels)


def plain_mix(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return mixup as its authors' code writes it (facebookresearch/mixup-cifar10)."""

    def mix() -> tuple[Tensor, tuple[Tensor, float]]:
        weight = float(np.random.beta(ALPHA, ALPHA))
        permutation = torch.randperm(len(batch.images), device=batch.images.device)
        mixed = weight * batch.images + (1 - weight) * batch.images[permutation]
        return mixed, (batch.labels[permutation], weight)

    return mix


def reference_function(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return the plain-torch reference into a kept buffer, with the first plan of a run."""
    plan = draw_plan(case, case.shape, step=0)
    out = torch.zeros_like(batch.images)
    return lambda: reference_mix(batch.images, plan, out)


def add_function(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return a plain torch call on the same images, whose cost is that of calling torch."""
    out = torch.zeros_like(batch.images)
    return lambda: torch.add(batch.images, batch.images, out=out)


def convert_function(batch: Batch, case: MixCase, variant: str) -> Function:
    """Return torch's conversion of the pixels into a kept buffer, not mixed, where they are."""
    out = torch.zeros_like(batch.images, dtype=case.dtype)
    return lambda: out.copy_(batch.images)


BUILDERS: Mapping[str, Callable[[Batch, MixCase, str], Function]] = {
    FLOOR: convert_function,
    "timm": timm_mix,
    "torchvision": torchvision_mix,
    "kornia": kornia_mix,
    "plain": plain_mix,
    "reference": reference_function,
    "add": add_function,
}


def draw_plan(case: MixCase, shape: tuple[int, int, int, int], step: int) -> ops.MixPlan:
    """Return the plan of ``step`` for a batch of ``shape``, on the case's device."""
    batch, _, height, width = shape
    return ops.sample_mix(
        batch,
        height,
        width,
        mixup_alpha=0.0 if case.cutmix else ALPHA,
        cutmix_alpha=ALPHA if case.cutmix else 0.0,
        seed=0,
        step=step,
    ).to(case.device)


def _as_nchw(images: Tensor, variant: str) -> Tensor:
    view = images.permute(0, 3, 1, 2)
    return view.contiguous() if variant == "NCHW copy" else view
