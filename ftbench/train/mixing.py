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
        self._kept: dict[str, Tensor] = {}

    def __call__(self, inputs: Any, step: int) -> tuple[Any, MixPlan | None]:
        """Return the step's mixed inputs and their plan, None where the recipe does not mix."""
        recipe = self._recipe
        if not recipe.mixes:
            return inputs, None
        images = _images(inputs)
        first = next(iter(images.values()))
        plan = ops.sample_mix(
            len(first),
            first.shape[2],
            first.shape[3],
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
            probability=recipe.mix_probability,
            switch_probability=recipe.mix_switch_probability,
            seed=self._seed,
            step=step,
        ).to(first.device)
        mixed = {n: ops.mix(v, plan, out=self._buffer_for(n, v)) for n, v in images.items()}
        return (mixed if isinstance(inputs, dict) else mixed[""]), plan

    def _buffer_for(self, name: str, inputs: Tensor) -> Tensor | None:
        if inputs.requires_grad:
            return None
        kept = self._kept.get(name)
        if (
            kept is None
            or (kept.shape, kept.dtype, kept.device) != (inputs.shape, inputs.dtype, inputs.device)
            or kept.stride() != inputs.stride()
        ):
            kept = self._kept[name] = torch.empty_like(inputs)
        return kept


def _images(inputs: Any) -> dict[str, Tensor]:
    """Return what is mixed, by name; FtbenchError where a part of a row would stay as it was."""
    found = inputs if isinstance(inputs, dict) else {"": inputs}
    sides = set()
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.dim() != 4:
            which = f"; '{name}' of its inputs is none" if name else ""
            raise FtbenchError(
                "mixup and CutMix need images (B, C, H, W); set recipe.mixup_alpha and "
                f"recipe.cutmix_alpha to 0 for this task{which}"
            )
        sides.add(tuple(value.shape[2:]))
    if len(sides) > 1:
        raise FtbenchError(f"mixup and CutMix need images of one size, not {sorted(sides)}")
    return found
