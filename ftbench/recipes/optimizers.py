"""Optimizers."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from ftbench.component import Options
from ftbench.recipe_parts import Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWOptions(Options):
    """Options of ``adamw``."""

    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay of the two running means")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")


class AdamW(Optimizer[AdamWOptions]):
    """AdamW: the weight decay is decoupled (Loshchilov & Hutter 2019, ICLR)."""

    name = "adamw"
    version = "1"

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's, fused: one pass over the parameters instead of a dozen per tensor."""
        betas, eps = self.options.betas, self.options.eps
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


class SGDOptions(Options):
    """Options of ``sgd``."""

    momentum: Beta = Field(0.9, description="0: none")
    nesterov: bool = Field(True, description="Nesterov's, where there is momentum")


class SGD(Optimizer[SGDOptions]):
    """SGD with momentum; the weight decay is an L2 term of the gradient."""

    name = "sgd"
    version = "1"

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's."""
        momentum = self.options.momentum
        nesterov = self.options.nesterov and momentum > 0
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)
