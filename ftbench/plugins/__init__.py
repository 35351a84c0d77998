"""Entry points → a catalogue of names, owners, versions and load errors."""

from ftbench.plugins.catalogue import Catalogue, Entry, Part, Resolved
from ftbench.plugins.kinds import Kind, LoadError, Owner, base_class
from ftbench.plugins.loading import GROUP, load_catalogue

__all__ = [
    "GROUP",
    "Catalogue",
    "Entry",
    "Kind",
    "LoadError",
    "Owner",
    "Part",
    "Resolved",
    "base_class",
    "load_catalogue",
]
