"""Mixing a step's batch by the recipe's plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ftbench import ops
from ftbench.answers import require
from ftbench.errors import FtbenchError
from ftbench.ops import AugmentPlan, MixPlan
from ftbench.preprocessing import Preprocessing
from ftbench.recipe_parts import Mixing


class BatchMixer:
    """Mixes the batches of one training by its recipe, into memory that is kept from step to step.

    A batch's own tensor is not written to: it may be the data set's. A mixed batch is good until
    the next is made.
    """

    def __init__(self, mixing: Mixing, seed: int) -> None:
        self._mixing = mixing
        self._seed = seed
        self._kept: dict[str, Tensor] = {}

    def __call__(self, inputs: Any, step: int) -> tuple[Any, MixPlan | None]:
        """Return the step's mixed inputs and their plan, None where the recipe does not mix."""
        if not self._mixing.mixes:
            return inputs, None
        images = _images(inputs)
        plan = self._plan(next(iter(images.values())), step)
        mixed = {n: ops.mix(v, plan, out=self._buffer_for(n, v)) for n, v in images.items()}
        return (mixed if isinstance(inputs, dict) else mixed[""]), plan

    def normalised(
        self, images: Tensor, wanted: Preprocessing, step: int
    ) -> tuple[Tensor, MixPlan | None]:
        """Return stored images (N, C, H, W) mixed and normalised in one pass, and their plan.

        Their values reach from 0 to 255, whole numbers or not.
        """
        rows, _, height, width = images.shape
        identity = ops.sample_mix(rows, height, width, seed=0, step=0)
        plan = self._plan(images, step) if self._mixing.mixes else identity.to(images.device)
        whole = images.dtype == torch.uint8
        taken = images.permute(0, 2, 3, 1) if whole else images.float()
        scale = 1 if whole else 255
        mean, std = ([scale * v for v in values] for values in (wanted.mean, wanted.std))
        out = self._kept.get("")
        if out is None or (out.shape, out.device) != (images.shape, images.device):
            out = self._kept[""] = torch.empty(images.shape, device=images.device)
        mixed = ops.mix(taken.contiguous(), plan, normalize=(mean, std), out=out)
        return mixed, plan if self._mixing.mixes else None

    def augmented(
        self, store: Tensor, rows: Tensor, views: AugmentPlan, wanted: Preprocessing, step: int
    ) -> tuple[Tensor, MixPlan | None]:
        """Return views of rows of a store, mixed and normalised in one pass, and the mixing's plan.

        The store is (N, R, R, C) uint8; the views are (B, C, H, W) as the model takes them.
        """
        shape = (len(rows), store.shape[3], *wanted.size)
        out = self._kept.get("")
        if out is None or (out.shape, out.device) != (shape, store.device):
            out = self._kept[""] = torch.empty(shape, device=store.device)
        plan = self._plan(out, step) if self._mixing.mixes else None
        made = ops.augment(
            store,
            rows,
            views.to(store.device),
            size=wanted.size,
            normalize=(wanted.mean, wanted.std),
            mix=plan,
            out=out,
        )
        return made, plan

    def _plan(self, images: Tensor, step: int) -> MixPlan:
        rows, _, height, width = images.shape
        drawn = self._mixing.plan(rows, height, width, seed=self._seed, step=step)
        what = f"mixing '{self._mixing.name}': plan() returned"
        return require(drawn, MixPlan, what, "an ftbench.MixPlan").to(images.device)

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
                'mixing needs images (B, C, H, W); set recipe.mixing to "none" for this '
                f"task{which}"
            )
        sides.add(tuple(value.shape[2:]))
    if len(sides) > 1:
        raise FtbenchError(f"mixing needs images of one size, not {sorted(sides)}")
    return found
