"""The hot path: image mixing, its loss, and quadratic penalties, each defined by plain torch."""

from ftbench.ops.augment import AugmentPlan, augment, sample_augment, views_of
from ftbench.ops.fisher import accumulate_fisher_
from ftbench.ops.loss import mixed_cross_entropy
from ftbench.ops.mix import MixPlan, mix, sample_mix
from ftbench.ops.penalty import QuadraticPenalty
from ftbench.ops.serving import Implementation, implementation

__all__ = [
    "AugmentPlan",
    "Implementation",
    "MixPlan",
    "QuadraticPenalty",
    "accumulate_fisher_",
    "augment",
    "implementation",
    "mix",
    "mixed_cross_entropy",
    "sample_augment",
    "sample_mix",
    "views_of",
]
