"""The first use where nothing is built: compiled once, kept, a failure remembered."""

from ftbench.ops.first_use.cache import cache_folder
from ftbench.ops.first_use.failures import forget_failures
from ftbench.ops.first_use.once import binary_for

__all__ = ["binary_for", "cache_folder", "forget_failures"]
