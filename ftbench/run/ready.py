"""Examples as a backbone takes them."""

from __future__ import annotations

from ftbench.backbone import BackboneFamily
from ftbench.errors import FtbenchError
from ftbench.task import Examples


def ready(examples: Examples, family: BackboneFamily) -> Examples:
    """Return the examples as the backbone takes them: stored images by its preprocessing."""
    prepared = getattr(examples, "prepared", None)
    if prepared is None:
        return examples
    preprocessing = family.preprocessing()
    if preprocessing is None:
        raise FtbenchError(
            f"backbone '{family.name}' does not say how images are prepared for it: it needs "
            "preprocessing(), which returns an ftbench.Preprocessing"
        )
    found: Examples = prepared(preprocessing)
    return found
