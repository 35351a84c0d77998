"""The built-in strategies, one a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.strategy import Strategy


@hookimpl
def ftbench_strategies() -> Iterable[type[Strategy]]:
    """Return the built-in strategies."""
    from ftbench.strategies.ewc import EWC
    from ftbench.strategies.full import Full
    from ftbench.strategies.head_only import HeadOnly
    from ftbench.strategies.l2sp import L2SP
    from ftbench.strategies.partial import Partial
    from ftbench.strategies.progressive import Progressive
    from ftbench.strategies.scratch import Scratch

    return [Scratch, Full, Partial, Progressive, HeadOnly, L2SP, EWC]
