"""Augmentations of a batch of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ftbench import rng
from ftbench.answers import described
from ftbench.component import Options
from ftbench.errors import SpecError
from ftbench.recipe_parts import Augmentation


class NoAugmentation(Augmentation):
    """Rows stay as they are."""

    name = "none"
    version = "1"

    def augment(self, inputs: Any, *, seed: int, step: int) -> Any:
        """Return the inputs."""
        return inputs


class CropFlipOptions(Options):
    """Options of ``crop-flip``."""

    padding: int = Field(4, ge=0, description="pixels that an image may move each way")
    flip: float = Field(0.5, ge=0, le=1, description="share of images that are mirrored")


class CropFlip(Augmentation[CropFlipOptions]):
    """Random crops of the padded image and mirrored images, as for CIFAR (He et al. 2016)."""

    name = "crop-flip"
    version = "1"

    def augment(self, inputs: Any, *, seed: int, step: int) -> Tensor:
        """Return (N, C, H, W) images, each moved and mirrored by draws of its own."""
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            raise SpecError(
                f"augmentation '{self.name}' needs images (N, C, H, W), not {described(inputs)}; "
                'set recipe.augmentation to "none" for this task'
            )
        rows, _, height, width = inputs.shape
        padding = self.options.padding
        draws = rng.uniforms(3 * rows, seed, "augmentation", step).reshape(3, rows, 1)
        offsets = np.floor(draws[:2] * (2 * padding + 1)).astype(np.int64)
        down = offsets[0] + np.arange(height)
        right = offsets[1] + np.arange(width)
        right = np.where(draws[2] < self.options.flip, right[:, ::-1], right)
        places = [torch.from_numpy(p.copy()).to(inputs.device) for p in (down, right)]
        padded = F.pad(inputs, (padding,) * 4).permute(0, 2, 3, 1)
        index = torch.arange(rows, device=inputs.device).view(-1, 1, 1)
        moved = padded[index, places[0][:, :, None], places[1][:, None, :]]
        return moved.permute(0, 3, 1, 2).contiguous()
