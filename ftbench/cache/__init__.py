"""What is computed once and used by many runs: tensors by key, in memory and on disk."""

from ftbench.cache.shelf import Found, Shelf, shared_shelf

__all__ = ["Found", "Shelf", "shared_shelf"]
