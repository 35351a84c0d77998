"""Heads: the task's own last layer, alone or with layers in front of it."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from torch import nn

from ftbench.component import Options
from ftbench.errors import SpecError
from ftbench.offers import Offer
from ftbench.recipe_parts import Head
from ftbench.task import seeded_linear


class PlainOptions(Options):
    """Options of ``plain``."""

    dropout: float = Field(0.0, ge=0, lt=1, description="in front of the last layer")


class Plain(Head[PlainOptions]):
    """The task's own head: for classification a linear layer."""

    name = "plain"
    version = "1"

    def build(self, last: Callable[[Offer], nn.Module], offer: Offer, *, seed: int) -> nn.Module:
        """Return the task's head, after dropout where there is some."""
        head = last(offer)
        return (
            nn.Sequential(nn.Dropout(self.options.dropout), head) if self.options.dropout else head
        )


class MLPOptions(Options):
    """Options of ``mlp``."""

    hidden: int = Field(256, gt=0, description="width of the hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="in front of the last layer")


class MLP(Head[MLPOptions]):
    """A hidden layer with GELU in front of the task's own head."""

    name = "mlp"
    version = "1"

    def build(self, last: Callable[[Offer], nn.Module], offer: Offer, *, seed: int) -> nn.Module:
        """Return the layers; SpecError for features other than vectors."""
        if offer.kind not in ("pooled", "tokens"):
            raise SpecError(f"head '{self.name}' needs pooled features or tokens, not {offer.kind}")
        hidden = self.options.hidden
        layers = [seeded_linear(offer.width, hidden, seed, "head", "hidden"), nn.GELU()]
        if self.options.dropout:
            layers.append(nn.Dropout(self.options.dropout))
        narrowed = Offer(offer.kind, (hidden,), inputs=offer.inputs)
        return nn.Sequential(*layers, last(narrowed))
