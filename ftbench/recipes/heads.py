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
        hidden, narrowed = _hidden(self.name, offer, self.options.hidden, seed)
        layers = [hidden, nn.GELU()]
        if self.options.dropout:
            layers.append(nn.Dropout(self.options.dropout))
        return nn.Sequential(*layers, last(narrowed))


class HiddenOptions(Options):
    """Options of ``hidden``."""

    hidden: int = Field(512, gt=0, description="width of the hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="in front of both layers")


class Hidden(Head[HiddenOptions]):
    """Dropout, a hidden layer with ReLU, dropout, and the task's own head."""

    name = "hidden"
    version = "1"

    def build(self, last: Callable[[Offer], nn.Module], offer: Offer, *, seed: int) -> nn.Module:
        """Return the layers; SpecError for features other than vectors."""
        hidden, narrowed = _hidden(self.name, offer, self.options.hidden, seed)
        # Two modules: whoever looks at one of them looks at one place.
        first, second = nn.Dropout(self.options.dropout), nn.Dropout(self.options.dropout)
        return nn.Sequential(first, hidden, nn.ReLU(), second, last(narrowed))


def _hidden(name: str, offer: Offer, width: int, seed: int) -> tuple[nn.Module, Offer]:
    """Return a layer on the features, and what it offers; SpecError where they are no vectors."""
    if offer.kind not in ("pooled", "tokens"):
        raise SpecError(f"head '{name}' needs pooled features or tokens, not {offer.kind}")
    layer = seeded_linear(offer.width, width, seed, "head", "hidden")
    return layer, Offer(offer.kind, (width,), inputs=offer.inputs)
