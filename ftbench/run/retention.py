"""What of the source task a run keeps, and what of it a strategy may see."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ftbench import scores
from ftbench.answers import require
from ftbench.backbone import Backbone, BackboneFamily, Model
from ftbench.class_names import class_indices
from ftbench.errors import SpecError, did_you_mean
from ftbench.evaluate import evaluate
from ftbench.run.prefixes import Prefixes
from ftbench.run.ready import ready
from ftbench.strategy import Strategy
from ftbench.task import Examples, Source, SourceTask, Task, require_examples


@dataclass(frozen=True)
class Retention:
    """A source task, and the head that was trained on it."""

    task: SourceTask
    head: nn.Module


def find_retention(
    task: Task, family: BackboneFamily, strategy: Strategy, backbone: Backbone, device: str
) -> Retention | None:
    """Return the task's source where the backbone's source head was trained for it."""
    source = task.source()
    if source is not None:
        what = f"task '{task.name}': source() returned"
        require(source, SourceTask, what, "an ftbench.SourceTask or None")
    if source is None or not (source.classes or source.name == family.source):
        return None
    # Random weights keep nothing of a source, whatever head a backbone hands out with them.
    if not strategy.pretrained or backbone.source_head is None:
        return None
    if source.classes:
        source = _among_its_classes(task, source, family)
    return Retention(source, backbone.source_head.to(device))


def check_source(task: Task, family: BackboneFamily) -> None:
    """Raise SpecError where a task names a source whose classes the source head does not have."""
    source = task.source()
    if isinstance(source, SourceTask) and source.classes:
        _places_of_classes(task, source, family)


def _places_of_classes(task: Task, source: SourceTask, family: BackboneFamily) -> list[int]:
    """Return which output of the source head each class of the source is."""
    classes = family.source_classes()
    if not classes:
        raise SpecError(
            f"task '{task.label}' names a source, and backbone '{family.label}' does not know what "
            "its source head's classes are called; leave out source="
        )
    indices = class_indices(source.classes, classes)
    strange = [name for name, index in indices.items() if index is None]
    if strange:
        raise SpecError(
            f"task '{task.label}': {len(strange)} classes of its source are none of backbone "
            f"'{family.label}' ({', '.join(strange[:5])}"
            f"{did_you_mean(strange[0], classes)}); rename their folders, or leave them out"
        )
    return [int(indices[name] or 0) for name in source.classes]


def _among_its_classes(task: Task, source: SourceTask, family: BackboneFamily) -> SourceTask:
    """Return a source of the user's with the source head's own labels, as the backbone takes it."""
    labels = torch.tensor(_places_of_classes(task, source, family))

    def relabelled(examples: Examples) -> Examples:
        targets = labels[examples.targets]  # type: ignore[attr-defined]
        found: Examples = dataclasses.replace(examples, targets=targets)  # type: ignore[type-var]
        return ready(found, family)

    return dataclasses.replace(
        source, samples=relabelled(source.samples), held_out=relabelled(source.held_out)
    )


def visible_source(
    task: Task, retention: Retention | None, model: Model, device: str
) -> Source | None:
    """Return what a strategy may see of the source task: copies of the samples and of the head."""
    if retention is None:
        return None
    require_examples(task, "source().samples", retention.task.samples, "subset")
    samples = retention.task.samples.subset(np.arange(len(retention.task.samples)))
    head = visible_head(retention.head, model)
    assert head is not None  # as given
    return Source(
        samples.to(device),
        head,
        loss=retention.task.loss,
        draw=retention.task.draw,
    )


def visible_head(head: nn.Module | None, model: Model) -> nn.Module | None:
    """Return a copy of the source head for a strategy, None where there is none.

    What the head shares with the stages stays shared, or a Fisher would miss that use of it.
    """
    shared = {id(parameter): parameter for parameter in model.stages.parameters()}
    return None if head is None else copy.deepcopy(head, shared)


def source_accuracy(
    task: Task, retention: Retention | None, model: Model, prefixes: Prefixes
) -> float | None:
    """Return the accuracy of the stages with the source head on the rows held out for it."""
    if retention is None:
        return None
    flows = prefixes.evaluated("held out")
    depth = 0 if flows is None else flows.depth
    whole = nn.Sequential(*model.stages[depth:], retention.head)
    return evaluate(whole, prefixes.rows("held out") if flows is None else flows, scores.accuracy)
