"""Which of a source head's classes a user's name means."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

_SYNSET = re.compile(r"n\d{8}")  # how ImageNet's own folders are called


def class_indices(names: Sequence[str], classes: Sequence[str]) -> dict[str, int | None]:
    """Return for each name the index of the class that it means, None where it means none.

    A name means a class whatever its case, with underscores for spaces, and where it is one of the
    several names that stand in a class's, parted by commas: ``tench`` is ``tench, Tinca tinca``.
    Of ImageNet's 1,000 classes a WordNet id is a name, too, where timm is installed.
    """
    exact = {name: index for index, name in reversed([*enumerate(classes)])}
    known = _by_name(tuple(classes))
    synsets = _synsets() if len(classes) == 1000 and any(map(_SYNSET.fullmatch, names)) else {}
    return {name: exact.get(name, known.get(_plain(name), synsets.get(name))) for name in names}


@functools.lru_cache(maxsize=8)
def _by_name(classes: tuple[str, ...]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for index, name in enumerate(classes):
        for alias in (name, *name.split(",")):
            found.setdefault(_plain(alias), index)
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


@functools.cache
def _synsets() -> Mapping[str, int]:
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return {}
    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(index): index for index in range(info.num_classes())}
