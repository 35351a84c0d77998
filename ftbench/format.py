"""What a report format is: a function of a Summary, and the suffix of the files it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Format:
    """A report format. ``render`` gets an :class:`ftbench.report.summary.Summary`.

    It returns text, or bytes where a file of the format is no text. ``suffix`` ends the name of
    such a file and begins with a dot: ``.md``.
    """

    render: Callable[[Any], str | bytes]
    suffix: str
