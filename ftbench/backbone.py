"""Backbones: a pre-trained model cut into ordered stages, input to output, a readout and a head."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ftbench.component import Component, OptionsT
from ftbench.offers import Kind, Offer
from ftbench.preprocessing import Preprocessing


@dataclass(frozen=True)
class Stage:
    """What a strategy is told about one part of a model.

    ``index`` counts from the input; the head's index is ``depth``, the number of stages. What a
    strategy adds to ``model.extras`` is a head-like one named ``extras``.
    """

    index: int
    depth: int
    name: str

    @property
    def is_head(self) -> bool:
        """Whether this is the new head, or extras, rather than a stage of the backbone."""
        return self.index == self.depth

    @property
    def from_top(self) -> int:
        """The distance from the head: 0 for the head itself, 1 for the last stage."""
        return self.depth - self.index


@dataclass(frozen=True)
class Part:
    """One part of a model with the parameters that belong to it, by their names in the model."""

    stage: Stage
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]


class Model(nn.Module):
    """Stages, a readout and a head in sequence.

    What flows between them is a tensor or a flat dict of tensors, rows first. The readout, which
    has no parameters, makes of the last stage's output the *features* that the head takes;
    ``width`` is theirs, None where the model's maker did not say. ``undecayed`` are the backbone's:
    see :class:`Backbone`. ``extras`` holds what a strategy
    trains besides, at the head's rate; it is emptied before the model is scored.
    """

    def __init__(
        self,
        stages: Sequence[tuple[str, nn.Module]],
        head: nn.Module,
        readout: nn.Module | None = None,
        *,
        width: int | None = None,
        undecayed: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__()
        self.stage_names = tuple(name for name, _ in stages)
        self.stages = nn.ModuleList(module for _, module in stages)
        self.readout = nn.Identity() if readout is None else readout
        self.head = head
        self.extras = nn.ModuleDict()
        self.width = width
        self.undecayed = frozenset(undecayed)

    def parts(self) -> list[tuple[Stage, nn.Module]]:
        """Return each stage, then the head, then extras if any, with what a strategy is told."""
        depth = len(self.stages)
        found: list[tuple[Stage, nn.Module]] = [
            (Stage(index, depth, name), module)
            for index, (name, module) in enumerate(zip(self.stage_names, self.stages, strict=True))
        ]
        found.append((Stage(depth, depth, "head"), self.head))
        if len(self.extras):
            found.append((Stage(depth, depth, "extras"), self.extras))
        return found

    def owned(self) -> list[Part]:
        """Return each part with the parameters that it owns, in order, each parameter once.

        A parameter belongs to the first part that holds it, under the first name that it has
        there: one that a later part shares is trained, frozen, decayed and held back as its
        owner's. What no part holds belongs to none.
        """
        seen: set[nn.Parameter] = set()
        found = []
        for stage, module in self.parts():
            prefix = stage.name if stage.is_head else f"stages.{stage.index}"
            named = dict(module.named_parameters(prefix))
            own = {name: parameter for name, parameter in named.items() if parameter not in seen}
            seen.update(own.values())
            found.append(Part(stage, module, own))
        return found

    def features(self, inputs: Any, frozen: int = 0) -> Any:
        """Return what the head takes; the first ``frozen`` stages run outside autograd.

        Nothing that trains is cut off by that where the leading stages are frozen: whatever they
        hold, they or a stage before them own.
        """
        with torch.no_grad():
            for stage in self.stages[:frozen]:
                inputs = stage(inputs)
        for stage in self.stages[frozen:]:
            inputs = stage(inputs)
        return self.readout(inputs)

    def forward(self, inputs: Any, frozen: int = 0) -> Any:
        """Return the head's output, with the first ``frozen`` stages outside autograd."""
        return self.answer(self.features(inputs, frozen))

    def answer(self, features: Any, targets: Any = None) -> Any:
        """Return the head's output; a head whose ``forward`` has ``targets`` gets them, too.

        They are those of the batch in training and None in prediction.
        """
        if _takes_targets(type(self.head).forward):
            return self.head(features, targets=targets)
        return self.head(features)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """Return the stages' parameters by name: those that a source model has as well.

        One that the head shares is among them, since a stage owns it.
        """
        stages = self.owned()[: len(self.stages)]
        return {name: value for part in stages for name, value in part.parameters.items()}


@functools.cache
def _takes_targets(forward: Callable[..., Any]) -> bool:
    return "targets" in inspect.signature(forward).parameters


@dataclass(frozen=True)
class Backbone:
    """What a family builds: fresh modules that the run may change.

    ``source_head`` maps what the last stage returns to the source task's outputs, None where the
    family has none. ``readouts`` holds, by kind of offer, what makes that kind's features of what
    the last stage returns; a kind without one takes it as it is.
    """

    stages: Sequence[tuple[str, nn.Module]]
    source_head: nn.Module | None = None
    readouts: Mapping[Kind, nn.Module] = field(default_factory=dict)
    undecayed: frozenset[nn.Parameter] = frozenset()
    """Parameters that take no weight decay besides biases and those of norms: position embeddings,
    class tokens."""


@dataclass(frozen=True)
class Outline:
    """What is known of a backbone without its weights: of each stage, in order."""

    names: tuple[str, ...]
    parameters: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()  # of one image's output, empty where not known


class BackboneFamily(Component[OptionsT]):
    """Base of a backbone plugin: builds a backbone, pre-trained or from random weights."""

    kind: ClassVar[str] = "backbone"
    source: ClassVar[str | None] = None
    """Name of the source task that ``source_head`` was trained on."""

    def offers(self) -> tuple[Offer, ...]:
        """Return the features that a head can have; asked while a sweep is planned, so be quick."""
        raise NotImplementedError(f"backbone '{self.name}' must define offers()")

    def preprocessing(self) -> Preprocessing | None:
        """Return how images are made into what the first stage takes; None: tasks know it.

        Asked while a sweep is planned, and part of what :meth:`fingerprint` has to cover.
        """
        return None

    def outline(self) -> Outline:
        """Return names, parameters and output shapes of the stages; weights are not read."""
        stages = self.build(pretrained=False).stages
        names = tuple(name for name, _ in stages)
        parameters = tuple(parameter_count(stage) for _, stage in stages)
        wanted = self.preprocessing()
        if wanted is None:
            return Outline(names, parameters)
        flows: Any = torch.zeros(2, wanted.channels, *wanted.size)
        shapes = []
        with torch.no_grad():
            for _, stage in stages:
                flows = stage.eval()(flows)
                shapes.append(tuple(flows.shape[1:]) if isinstance(flows, Tensor) else ())
        return Outline(names, parameters, tuple(shapes))

    def source_classes(self) -> tuple[str, ...]:
        """Return the names of the source head's outputs, empty where they are not known."""
        return ()

    def build(self, *, pretrained: bool) -> Backbone:
        """Return new modules with pre-trained weights, or random ones.

        Random weights may be drawn from torch's global generator: the run seeds it.
        """
        raise NotImplementedError(f"backbone '{self.name}' must define build()")

    def fingerprint(self) -> str:
        """Return a hash of the pre-trained weights and of what is done to images for them.

        It is part of a run's key.
        """
        raise NotImplementedError(f"backbone '{self.name}' must define fingerprint()")


def parameter_count(module: nn.Module) -> int:
    """Return the number of scalars in a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms of every dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def undecayed_parameters(module: nn.Module) -> set[Tensor]:
    """Return the parameters that never take weight decay: biases and normalisation parameters.

    Whatever has at most one dimension counts: biases of every layer, and the scales of norms that
    are no subclass of torch's; and what a :class:`Backbone` names.
    """
    return set(getattr(module, "undecayed", ())) | {
        parameter
        for child in module.modules()
        for parameter in child.parameters(recurse=False)
        if isinstance(child, NORMS) or parameter.dim() <= 1
    }
