"""The built-in backbones, one family a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.backbone import BackboneFamily


@hookimpl
def ftbench_backbones() -> Iterable[type[BackboneFamily]]:
    """Return the built-in backbone families."""
    from ftbench.backbones.glyphnet import GlyphNet
    from ftbench.backbones.of_timm import TimmModel
    from ftbench.backbones.of_torchvision import TorchvisionModel

    return [GlyphNet, TimmModel, TorchvisionModel]
