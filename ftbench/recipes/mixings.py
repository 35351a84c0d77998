"""Ways to mix the rows of a batch: mixup, CutMix, either, none."""

from __future__ import annotations

from pydantic import Field

from ftbench import ops
from ftbench.component import Options
from ftbench.ops import MixPlan
from ftbench.recipe_parts import Mixing


class NoMixing(Mixing):
    """Batches stay as they are."""

    name = "none"
    version = "1"
    mixes = False


class MixupOptions(Options):
    """Options of ``mixup``."""

    alpha: float = Field(0.2, gt=0, description="of Beta(α, α), which the share is drawn from")
    probability: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")


class Mixup(Mixing[MixupOptions]):
    """Images and labels are averaged with a partner's (Zhang et al. 2018, ICLR)."""

    name = "mixup"
    version = "1"

    def plan(self, rows: int, height: int, width: int, *, seed: int, step: int) -> MixPlan:
        """Return the step's plan; one share serves a batch."""
        options = self.options
        return ops.sample_mix(
            *(rows, height, width),
            mixup_alpha=options.alpha,
            probability=options.probability,
            seed=seed,
            step=step,
        )


class CutMixOptions(Options):
    """Options of ``cutmix``."""

    alpha: float = Field(1.0, gt=0, description="of Beta(α, α), which the area is drawn from")
    probability: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")


class CutMix(Mixing[CutMixOptions]):
    """A box is cut from a partner's image (Yun et al. 2019, ICCV); labels count by area."""

    name = "cutmix"
    version = "1"

    def plan(self, rows: int, height: int, width: int, *, seed: int, step: int) -> MixPlan:
        """Return the step's plan; one box serves a batch."""
        options = self.options
        return ops.sample_mix(
            *(rows, height, width),
            cutmix_alpha=options.alpha,
            probability=options.probability,
            seed=seed,
            step=step,
        )


class MixupOrCutMixOptions(Options):
    """Options of ``mixup-or-cutmix``."""

    mixup: float = Field(0.8, gt=0, description="mixup's α")
    cutmix: float = Field(1.0, gt=0, description="CutMix's α")
    probability: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")
    switch: float = Field(0.5, ge=0, le=1, description="share of CutMix among mixed batches")


class MixupOrCutMix(Mixing[MixupOrCutMixOptions]):
    """Each mixed batch by mixup or by CutMix, as DeiT and timm do."""

    name = "mixup-or-cutmix"
    version = "1"

    def plan(self, rows: int, height: int, width: int, *, seed: int, step: int) -> MixPlan:
        """Return the step's plan."""
        options = self.options
        return ops.sample_mix(
            *(rows, height, width),
            mixup_alpha=options.mixup,
            cutmix_alpha=options.cutmix,
            probability=options.probability,
            switch_probability=options.switch,
            seed=seed,
            step=step,
        )
