"""``torchvision-data``: the data sets that torchvision knows, by their names."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ftbench.component import Errand, Place
from ftbench.errors import SpecError, did_you_mean
from ftbench.images import DatasetImages
from ftbench.tasks.image_task import ImageTask
from ftbench.tasks.listing import ImageTaskOptions, Listing, absolute

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class _Known:
    """The arguments of a data set's parts; without a test part the test set is drawn."""

    pool: tuple[Arguments, ...]
    test: Arguments | None = None


_BY_FLAG = _Known(({"train": True},), {"train": False})
_TRAIN_TEST = _Known(({"split": "train"},), {"split": "test"})
_WITH_VAL = _Known(({"split": "train"}, {"split": "val"}), {"split": "test"})
_TRAINVAL = _Known(({"split": "trainval"},), {"split": "test"})
_UNSPLIT = _Known(({},))

DATA_SETS: Mapping[str, _Known] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _BY_FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "StanfordCars", "STL10", "SVHN"), _TRAIN_TEST),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _WITH_VAL),
    "OxfordIIITPet": _TRAINVAL,
    "Country211": _Known(({"split": "train"}, {"split": "valid"}), {"split": "test"}),
    "Imagenette": _Known(({"split": "train"},), {"split": "val"}),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION"), _UNSPLIT),
}
"""Data sets whose rows have one class, and how their parts are asked for."""


class TorchvisionDataOptions(ImageTaskOptions):
    """Options of ``torchvision-data``."""

    name: str = Field(description="torchvision's name of it, say CIFAR10")
    root: Place = Field("", description="folder where the data are; empty: the current one")
    download: Errand = Field(False, description="fetch what is not there")

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, value: str) -> str:
        return absolute(value or ".")


class TorchvisionData(ImageTask[TorchvisionDataOptions]):
    """A data set of torchvision: its test part is the test set, all else is the pool."""

    name = "torchvision-data"
    version = "1"

    def listing(self) -> Listing:
        """Return the images of all parts; SpecError where they are not there."""
        known = DATA_SETS.get(self.options.name)
        if known is None:
            raise SpecError(
                f"torchvision-data does not know '{self.options.name}'"
                f"{did_you_mean(self.options.name, DATA_SETS)} (known: {', '.join(DATA_SETS)})"
            )
        drawn = known.test is None
        if not drawn and self.options.test == "per-seed":
            raise SpecError(
                f"{self.options.name} has a test part of its own, and test='per-seed' draws one; "
                "leave test out"
            )
        parts = [*known.pool, *([] if known.test is None else [known.test])]
        made = [self._made(arguments) for arguments in parts]
        labels = [_labels(part) for part in made]
        names = _class_names(made[0])
        if len(set(names)) < len(names):
            names = ()  # two classes of one name would be one
        sides = [
            side
            for part, arguments in zip(made, parts, strict=True)
            for side in ["test" if arguments is known.test else "pool"] * len(part)
        ]
        classes = [_name_of(label, names) for part in labels for label in part]
        return Listing(
            source=DatasetImages(made, self.options.root, self.options.name),
            kind="classes",
            names=tuple(names) or tuple(map(str, sorted({v for part in labels for v in part}))),
            values=np.array(classes, dtype=object),
            sides=None if drawn else np.array(sides, dtype=object),
        )

    def _made(self, arguments: Arguments) -> Any:
        from torchvision import datasets

        name, root = self.options.name, self.options.root
        cls = getattr(datasets, name)
        accepted = inspect.signature(cls).parameters
        more = {"download": self.options.download} if "download" in accepted else {}
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # "Files already downloaded"
                return cls(root, **arguments, **more)
        # Each raises what it likes: RuntimeError, FileNotFoundError, ModuleNotFoundError.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            what = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise SpecError(
                f"torchvision.datasets.{name}(root={root!r}{', ' if what else ''}{what}): "
                f"{reason}; put its files there"
                + ("" if self.options.download else ", or add download=True")
            ) from error


def _labels(part: Any) -> Sequence[int]:
    """Return the labels of a data set, without decoding images where it has a list of them."""
    for attribute in ("targets", "_labels", "labels", "y"):
        found = getattr(part, attribute, None)
        if found is not None:
            return [int(label) for label in np.asarray(found).ravel()]
    for attribute in ("samples", "_samples", "imgs"):
        found = getattr(part, attribute, None)
        if found:
            return [int(label) for _, label in found]
    return [int(part[index][1]) for index in range(len(part))]


def _class_names(part: Any) -> Sequence[str]:
    for attribute in ("classes", "categories"):
        found = getattr(part, attribute, None)
        if found is not None and len(found) and isinstance(found[0], str):
            return [str(name) for name in found]
    return ()


def _name_of(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label)
