"""Mixing a step's batch by mixup and CutMix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ftbench import ops
from ftbench.errors import FtbenchError
from ftbench.ops import MixPlan
from ftbench.recipe import Recipe


class BatchMixer:
    """Mixes the batches of one training by its recipe, into memory that is kept from step to step.

    A batch's own tensor is not written to: it may be the data set's. A mixed batch is good until
    the next is made.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self._recipe = recipe
        self._seed = seed
        self._kept: Tensor | None = None

    def __call__(self, inputs: Any, step: int) -> tuple[Any, MixPlan | None]:
        """Return the step's mixed inputs and their plan, None where the recipe does not mix."""
        recipe = self._recipe
        if not recipe.mixes:
            return inputs, None
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            raise FtbenchError(
                "mixup and CutMix need images (B, C, H, W); set recipe.mixup_alpha and "
                "recipe.cutmix_alpha to 0 for this task"
            )
        plan = ops.sample_mix(
            len(inputs),
            inputs.shape[2],
            inputs.shape[3],
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
            probability=recipe.mix_probability,
            switch_probability=recipe.mix_switch_probability,
            seed=self._seed,
            step=step,
        ).to(inputs.device)
        return ops.mix(inputs, plan, out=self._buffer_for(inputs)), plan

    def _buffer_for(self, inputs: Tensor) -> Tensor | None:
        if inputs.requires_grad:
            return None
        kept = self._kept
        if (
            kept is None
            or (kept.shape, kept.dtype, kept.device) != (inputs.shape, inputs.dtype, inputs.device)
            or kept.stride() != inputs.stride()
        ):
            kept = self._kept = torch.empty_like(inputs)
        return kept
