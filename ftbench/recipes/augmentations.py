"""Augmentations of a batch of images."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from ftbench import ops, rng
from ftbench.answers import described
from ftbench.component import Options
from ftbench.errors import SpecError
from ftbench.images.views import DRAWS, Policy, random_views
from ftbench.ops import AugmentPlan
from ftbench.recipe_parts import Augmentation


class NoAugmentation(Augmentation):
    """Rows stay as they are; of stored images the middle is taken, as in prediction."""

    name = "none"
    version = "1"
    varies = False

    def augment(
        self, inputs: Any, *, size: tuple[int, int] | None = None, seed: int, step: int
    ) -> Any:
        """Return the inputs."""
        return inputs if size is None else middle(inputs, size)


def middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle (height, width) of images (N, C, H, W), as torchvision's CenterCrop."""
    top, left = (round((of - side) / 2) for of, side in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]


def _require_images(inputs: Any, name: str) -> None:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        raise SpecError(
            f"augmentation '{name}' needs images (N, C, H, W), not {described(inputs)}; "
            'set recipe.augmentation to "none" for this task'
        )


class CropFlipOptions(Options):
    """Options of ``crop-flip``."""

    padding: int = Field(4, ge=0, description="pixels that an image may move each way")
    flip: float = Field(0.5, ge=0, le=1, description="share of images that are mirrored")


class CropFlip(Augmentation[CropFlipOptions]):
    """Random crops of the padded image and mirrored images, as for CIFAR (He et al. 2016)."""

    name = "crop-flip"
    version = "1"

    def augment(
        self, inputs: Any, *, size: tuple[int, int] | None = None, seed: int, step: int
    ) -> Tensor:
        """Return (N, C, H, W) images, each moved and mirrored by draws of its own.

        Stored images are padded, too, before ``size`` is cut from them at random.
        """
        _require_images(inputs, self.name)
        rows = len(inputs)
        height, width = inputs.shape[2:] if size is None else size
        padding = self.options.padding
        room = [
            of + 2 * padding - side + 1
            for of, side in zip(inputs.shape[2:], (height, width), strict=True)
        ]
        draws = rng.uniforms(3 * rows, seed, "augmentation", step).reshape(3, rows, 1)
        down = np.floor(draws[0] * room[0]).astype(np.int64) + np.arange(height)
        right = np.floor(draws[1] * room[1]).astype(np.int64) + np.arange(width)
        right = np.where(draws[2] < self.options.flip, right[:, ::-1], right)
        places = [torch.from_numpy(p.copy()).to(inputs.device) for p in (down, right)]
        padded = F.pad(inputs, (padding,) * 4).permute(0, 2, 3, 1)
        index = torch.arange(rows, device=inputs.device).view(-1, 1, 1)
        moved = padded[index, places[0][:, :, None], places[1][:, None, :]]
        return moved.permute(0, 3, 1, 2).contiguous()


Pair = Annotated[tuple[float, float], Field(min_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Jitter = Annotated[float, Field(ge=0, lt=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Turn = Annotated[float, Field(ge=0, le=0.5)]


class ResizedCropOptions(Options):
    """Options of ``resized-crop``."""

    scale: Pair = Field((0.08, 1.0), description="share of the area that a crop keeps")
    ratio: Pair = Field((3 / 4, 4 / 3), description="of a crop's sides, width by height")
    flip: Share = Field(0.5, description="share of images that are mirrored")

    @field_validator("scale", "ratio")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two numbers above 0, the smaller one first")
        return value

    @field_validator("scale")
    @classmethod
    def _of_the_image(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError("expected shares of the image's area, 1 at most")
        return value


class ViewOptions(ResizedCropOptions):
    """Options of ``standard``, ``strong``, ``medical`` and ``satellite``: defaults differ."""

    scale: Pair = Field((0.8, 1.0), description="share of the area that a crop keeps")
    ratio: Pair = Field(
        (3 / 4, 4 / 3), description="of a crop's sides, width by height, in a square image"
    )
    vertical_flip: Share = Field(0.0, description="share that is turned upside down")
    rotation: Degrees = Field(0.0, description="degrees either way")
    brightness: Jitter = Field(0.2, description="share either way")
    contrast: Jitter = Field(0.2, description="share either way")
    saturation: Jitter = Field(0.2, description="share either way; of RGB images")
    hue: Turn = Field(0.0, description="share of the circle either way")
    grayscale: Share = Field(0.0, description="share of images without colour")
    blur: Share = Field(0.0, description="share that is blurred, by 0.1 to 2 pixels")
    erase: Share = Field(0.0, description="share in which a box is erased")


class ResizedCrop(Augmentation[ResizedCropOptions]):
    """Random resized crops and mirrored images, as ImageNet models train (Szegedy et al. 2015).

    Stored images become the network's input in one pass. The crops are torchvision's
    RandomResizedCrop, antialiased.
    """

    name = "resized-crop"
    version = "1"

    def views(self, rows: int, height: int, width: int, *, seed: int, step: int) -> AugmentPlan:
        """Return crops and flips, each image's by draws of its own."""
        chosen = self.options
        return ops.sample_augment(
            rows,
            height,
            width,
            scale=chosen.scale,
            ratio=chosen.ratio,
            flip=chosen.flip,
            seed=seed,
            step=step,
        )

    def augment(
        self, inputs: Any, *, size: tuple[int, int] | None = None, seed: int, step: int
    ) -> Tensor:
        """Return (N, C, *size) images, each another view by draws of its own."""
        _require_images(inputs, self.name)
        rows, (height, width) = len(inputs), inputs.shape[2:]
        plan = self.views(rows, height, width, seed=seed, step=step).to(inputs.device)
        return ops.views_of(inputs, plan, (height, width) if size is None else size)


class Standard(Augmentation[ViewOptions]):
    """Random resized crops, mirrored images and a jitter of colours, for photographs.

    Every image has draws of its own. The task's own tensors, where they are no stored images, keep
    their size and have to hold values from 0 to 1 for the jitters of colour.
    """

    name = "standard"
    version = "1"

    def augment(
        self, inputs: Any, *, size: tuple[int, int] | None = None, seed: int, step: int
    ) -> Tensor:
        """Return (N, C, *size) images, each another view by draws of its own."""
        _require_images(inputs, self.name)
        rows, (height, width) = len(inputs), inputs.shape[2:]
        drawn = rng.uniforms(DRAWS * rows, seed, "augmentation", step).reshape(DRAWS, rows)
        draws = torch.from_numpy(drawn.astype(np.float32)).to(inputs.device)
        wanted = (height, width) if size is None else size
        policy = Policy(**self.options.model_dump())
        return random_views(inputs, policy, wanted, draws, 1.0 if size is None else 255.0)


def _instead(name: str, default: Any) -> Any:
    """Return an option of the standard views with another default."""
    return Field(default, description=ViewOptions.model_fields[name].description)


class StrongOptions(ViewOptions):
    """Options of ``strong``."""

    scale: Pair = _instead("scale", (0.6, 1.0))
    rotation: Degrees = _instead("rotation", 15.0)
    brightness: Jitter = _instead("brightness", 0.4)
    contrast: Jitter = _instead("contrast", 0.4)
    saturation: Jitter = _instead("saturation", 0.4)
    hue: Turn = _instead("hue", 0.1)
    grayscale: Share = _instead("grayscale", 0.1)
    blur: Share = _instead("blur", 0.1)
    erase: Share = _instead("erase", 0.2)


class Strong(Standard):
    """Smaller crops, turns, stronger colours, blur and erasing: for fewer than 5,000 labels."""

    name = "strong"
    Options = StrongOptions


class MedicalOptions(ViewOptions):
    """Options of ``medical``."""

    scale: Pair = _instead("scale", (0.9, 1.0))
    flip: Share = _instead("flip", 0.0)
    rotation: Degrees = _instead("rotation", 10.0)
    brightness: Jitter = _instead("brightness", 0.1)
    contrast: Jitter = _instead("contrast", 0.1)
    saturation: Jitter = _instead("saturation", 0.0)


class Medical(Standard):
    """Small crops and turns, and never mirrored: left and right are not the same."""

    name = "medical"
    Options = MedicalOptions


class SatelliteOptions(ViewOptions):
    """Options of ``satellite``."""

    scale: Pair = _instead("scale", (0.5, 1.0))
    vertical_flip: Share = _instead("vertical_flip", 0.5)
    rotation: Degrees = _instead("rotation", 180.0)
    brightness: Jitter = _instead("brightness", 0.3)
    contrast: Jitter = _instead("contrast", 0.3)
    saturation: Jitter = _instead("saturation", 0.3)


class Satellite(Standard):
    """Crops, both flips and every turn: from above no side is up."""

    name = "satellite"
    Options = SatelliteOptions
