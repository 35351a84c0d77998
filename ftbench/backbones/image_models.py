"""What the libraries of image models share: a model by name, its weights, cut into stages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.utils import _pytree

from ftbench import rng
from ftbench.backbone import Backbone, BackboneFamily, Outline, parameter_count
from ftbench.backbones.cutting import (
    Cut,
    Grain,
    are_vectors,
    cut_image_model,
    traced_cut,
)
from ftbench.backbones.flows import flatten_flows, flows_of
from ftbench.backbones.weights import SUFFIXES, StateDict, expanded, read_weights, sha256_of
from ftbench.component import Options, Place
from ftbench.errors import SpecError, WeightsError
from ftbench.offers import Kind, Offer
from ftbench.preprocessing import Preprocessing

RANDOM = "random"


class ImageModelOptions(Options):
    """Options of ``torchvision`` and ``timm``."""

    model: str = Field(min_length=1, description="the library's name of it")
    weights: Place = Field(
        "", description="a .pth or .safetensors file, random, or empty for the library's own"
    )
    stages: Grain = Field("stage", description="grain of the cuts: stage or block")
    size: int | None = Field(
        None, ge=8, description="side of its images in pixels; none: the weights' own"
    )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # Whoever runs it may stand in another folder.
        return expanded(value) if is_file_name(value) else value


def is_file_name(weights: str) -> bool:
    """Return whether this says a file rather than weights that the library knows."""
    return "/" in weights or weights.endswith(SUFFIXES)


@dataclass(frozen=True)
class Described:
    """What a library knows of a model before any weights are read.

    ``classifier`` names the layers that make the answers; ``classes`` are their names where they
    are known, and ``outputs`` how many there are: 0 for weights without a classifier.
    """

    preprocessing: Preprocessing
    classifier: tuple[str, ...]
    outputs: int
    classes: tuple[str, ...] = ()


class ImageModelFamily(BackboneFamily[ImageModelOptions]):
    """Base of a library of image models: any that can be cut is a backbone.

    The model's own modules do the work. It is compared with the uncut model, in eval and in train
    mode, when it is first built in a process; what differs is refused.
    """

    def described(self) -> Described:
        """Return what is known of the model; SpecError for an unknown one."""
        raise NotImplementedError

    def create(self, outputs: int) -> nn.Module:
        """Return the whole model with random weights."""
        raise NotImplementedError

    def weights_file(self) -> Path:
        """Return the library's own weights, downloaded to its own cache where they are not there.

        WeightsError says file, place and what else can be done.
        """
        raise NotImplementedError

    def where_weights_lie(self) -> str:
        """Return where the library's own weights are looked for, and what they are called."""
        raise NotImplementedError

    def load(self, outputs: int, weights: StateDict, path: Path) -> nn.Module:
        """Return the whole model with these weights; WeightsError where they do not fit."""
        raise NotImplementedError

    def is_undecayed(self, model: nn.Module, name: str) -> bool:
        """Return whether the library's own recipes take no weight decay on a parameter."""
        return False

    def offers(self) -> tuple[Offer, ...]:
        """Return the vector in front of the classifier; found on the meta device, without weights.

        SpecError for a model that cannot be cut.
        """
        return (Offer("pooled", (self.outline().shapes[-1][0],)),)

    def preprocessing(self) -> Preprocessing:
        """Return what the weights want, at another size where the options say one."""
        return self._described_here().preprocessing

    def source_classes(self) -> tuple[str, ...]:
        """Return the names of the source head's outputs, empty where they are not known."""
        found = self._described_here()
        outputs, _ = self._head_in_file(found)
        return found.classes if outputs == len(found.classes) else ()

    def build(self, *, pretrained: bool) -> Backbone:
        """Return the stages and, where weights bring one, the classifier as source head."""
        found = self._described_here()
        if not pretrained or self.options.weights == RANDOM:
            model = self.create(found.outputs or 1)
            return self._backbone(model, found, has_head=False)
        path = self.used_weights()
        assert path is not None  # only random ones have no file
        weights = read_weights(path)
        outputs, has_head = self._head_in_file(found)
        return self._backbone(self.load(outputs or 1, weights, path), found, has_head=has_head)

    def _backbone(self, model: nn.Module, found: Described, *, has_head: bool) -> Backbone:
        undecayed = frozenset(
            p for name, p in model.named_parameters() if self.is_undecayed(model, name)
        )
        cut = self._cut(model, found)
        return Backbone(cut.stages, cut.head if has_head else None, _READOUTS, undecayed)

    def fingerprint(self) -> str:
        """Return a hash of the weights' SHA-256 and the preprocessing that belongs to them.

        WeightsError for a user's file that does not fit the model: before a sweep, not in its runs.
        """
        path = self.used_weights()
        weights = RANDOM if path is None else sha256_of(path)
        if path is not None and is_file_name(self.options.weights):
            self._require_fit(path, weights)
        preprocessing = self.preprocessing().as_dict()
        text = json.dumps({"weights": weights, "preprocessing": preprocessing}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _require_fit(self, path: Path, sha256: str) -> None:
        known = (self.name, self.options.model, sha256)
        if known not in _FITTING:
            outputs, _ = self._head_in_file(self._described_here())
            self.load(outputs or 1, read_weights(path), path)
            _FITTING.add(known)

    def used_weights(self) -> Path | None:
        """Return the weights file, None for random weights; WeightsError where there is none."""
        if self.options.weights == RANDOM:
            return None
        if not is_file_name(self.options.weights):
            return self.weights_file()
        path = Path(self.options.weights)
        if not path.is_file():
            raise WeightsError(
                f"there is no weights file {path}; check the path, or leave out weights= for the "
                f"library's own, looked for as {self.where_weights_lie()}"
            )
        return path

    def _described_here(self) -> Described:
        found = self.described()
        if self.options.size is None:
            return found
        preprocessing = resized_to(found.preprocessing, self.options.size)
        return dataclasses.replace(found, preprocessing=preprocessing)

    def _head_in_file(self, found: Described) -> tuple[int, bool]:
        """Return the outputs of the classifier in the weights, and whether there is one."""
        if not is_file_name(self.options.weights):
            return found.outputs, found.outputs > 0
        weights = read_weights(Path(self.options.weights))
        heads = [
            weights[f"{name}.weight"] for name in found.classifier if f"{name}.weight" in weights
        ]
        if heads:
            return len(heads[0]), True
        return found.outputs, False

    def _cut(self, model: nn.Module, found: Described) -> Cut:
        """Return the cut model, compared with itself uncut once in a process."""
        options = self.options
        known = (self.name, options.model, options.stages, found.preprocessing.size)
        size = found.preprocessing.size
        model.train()
        if known in _COMPARED:
            cut = traced_cut(model, classifier=found.classifier, grain=options.stages)
            self.outline()
            flatten_flows(cut.stages, _FLOWS[known])
            return cut
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, found.preprocessing.channels, *size, generator=generator)
        cut = cut_image_model(model, images, classifier=found.classifier, grain=options.stages)
        _COMPARED.add(known)
        return cut

    def outline(self) -> Outline:
        """Return names, parameters and output shapes of the stages, found without weights."""
        options, size = self.options, self.preprocessing().size
        known = (self.name, options.model, options.stages, size)
        if known not in _OUTLINES:
            found = self._described_here()
            whole = on_meta(lambda: self.create(found.outputs or 1))
            with torch.device("meta"), rng.isolated(0, "outline"):
                _OUTLINES[known] = self._traced_outline(whole, found, size)
        return _OUTLINES[known]

    def _traced_outline(self, whole: nn.Module, found: Described, size: tuple[int, int]) -> Outline:
        cut = traced_cut(whole, classifier=found.classifier, grain=self.options.stages)
        images = torch.empty(2, found.preprocessing.channels, *size)
        try:
            flows = flows_of(cut.stages, images)
        except Exception as error:  # whatever its layers raise for a size that they cannot take
            raise SpecError(
                f"backbone '{self.label}' cannot take images of {size[0]} × {size[1]} pixels: "
                f"{type(error).__name__}: {error}"
            ) from error
        options = self.options
        _FLOWS[self.name, options.model, options.stages, size] = flows
        shapes = [_shape_of(flow) for flow in flows]
        if not are_vectors((2, *shapes[-1])):
            raise SpecError(
                f"backbone '{self.label}' cannot be cut into stages: its classifier takes features "
                f"of shape {shapes[-1]}, expected a vector"
            )
        parameters = tuple(parameter_count(stage) for _, stage in cut.stages)
        return Outline(tuple(name for name, _ in cut.stages), parameters, tuple(shapes))


# What a classifier that is a convolution takes has two sides of 1.
_READOUTS: dict[Kind, nn.Module] = {"pooled": nn.Flatten()}
_COMPARED: set[tuple[object, ...]] = set()
_FITTING: set[tuple[object, ...]] = set()  # files that were seen to fit
_OUTLINES: dict[tuple[object, ...], Outline] = {}
_FLOWS: dict[tuple[object, ...], tuple[Any, ...]] = {}  # on the meta device


def _shape_of(flow: Any) -> tuple[int, ...]:
    """Return the shape of what a stage makes of one image, of several tensors the largest."""
    shapes = [tuple(leaf.shape[1:]) for leaf in _pytree.tree_leaves(flow) if hasattr(leaf, "shape")]
    return max(shapes, key=math.prod)


def on_meta(create: Callable[[], nn.Module]) -> nn.Module:
    """Return a model on the meta device, where it takes no memory."""
    with rng.isolated(0, "outline"):
        try:
            with torch.device("meta"):
                return create()
        # Some compute their widths with tensors, whose values a meta tensor does not have.
        except (NotImplementedError, RuntimeError):
            return create().to("meta")


def resized_to(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """Return the same at another size, with as much room for cropping in proportion."""
    room = preprocessing.resize / max(preprocessing.size)
    return dataclasses.replace(preprocessing, size=(size, size), resize=round(size * room))
