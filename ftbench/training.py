"""What a strategy sees of a training: its data, a forward pass, a step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ftbench.backbone import Model
from ftbench.ops import MixPlan
from ftbench.predictions import predict
from ftbench.task import Examples, Source, Task


class TaskLoss:
    """The loss of a task, for batches that are neither mixed nor smoothed.

    It holds its task weakly, so that what a strategy keeps does not lead to the test set.
    """

    def __init__(self, task: Task) -> None:
        self._task = weakref.ref(task)

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the 0-dim mean loss."""
        task = self._task()
        if task is None:
            raise RuntimeError("the run that this loss belongs to is over")
        return task.loss(outputs, targets)


Share = Callable[
    [str, Callable[[], Mapping[str, Tensor]], str, Mapping[str, Any]], Mapping[str, Tensor]
]


@dataclass(frozen=True)
class Data:
    """What a strategy may look at; nothing in it leads to the test set.

    ``training`` holds the rows of the label budget without those held back, which are
    ``validation``: None unless the recipe has ``patience`` or the strategy ``validates``.
    ``source`` is None where task and backbone share none. ``loss(outputs, targets)`` is the
    task's, unmixed and unsmoothed. ``generator`` is the strategy's own, on the run's device: it is
    pointed at ``prepare``, at each backward of each step, and at ``finish``, so that its draws are
    the same whatever else draws.
    """

    training: Examples
    validation: Examples | None
    source: Source | None
    loss: Callable[[Any, Any], Tensor]
    generator: torch.Generator
    source_head: nn.Module | None = None
    """The head that the backbone was pre-trained with, a copy; None for random weights."""
    _share: Share | None = field(default=None, repr=False)

    def shared(
        self,
        name: str,
        make: Callable[[], Mapping[str, Tensor]],
        *,
        rows: Literal["training", "source"] = "training",
        **options: Any,
    ) -> dict[str, Tensor]:
        """Return the tensors that ``make`` makes, or that it made in an earlier run like this one.

        For what is the same in many runs of a sweep and takes long: a Fisher, say, features, class
        means. It may depend on the weights of the stages as they are now, on ``source_head``, on
        the inputs and targets of ``rows``, and on ``options``, JSON values of which nothing may be
        forgotten; never on the head, the seed or ``generator``. Called in ``prepare``. The tensors
        are on the run's device, and copies; the record counts what making them took.
        """
        made = make() if self._share is None else self._share(name, make, rows, options)
        return dict(made)

    def predict(self, module: nn.Module, examples: Examples) -> tuple[Any, Any]:
        """Return outputs and targets of all rows, in batches, in eval mode, without gradients.

        The outputs may enter a graph later. The module's training flags come back as they were.
        """
        flags = {child: child.training for child in module.modules()}
        try:
            return predict(module, examples)
        finally:
            for child, training in flags.items():
                child.training = training


@dataclass(frozen=True)
class Forward:
    """One pass over a batch: what went in, what each stage made of it, and the task's loss.

    ``stages`` holds each stage's output, None for frozen ones but the last. ``loss`` is the task's,
    with mixing and smoothing. ``plan`` says how the batch was mixed, None where it was not.
    """

    model: Model
    targets: Any
    plan: MixPlan | None
    stages: tuple[Any, ...]
    features: Any
    """What the head took: the readout of ``stages[-1]``."""
    outputs: Any
    loss: Tensor
    _inputs: Callable[[], Any] = field(repr=False)
    _again: Callable[[Any], Forward] = field(repr=False)

    @property
    def inputs(self) -> Any:
        """The batch as the model saw it, augmented and mixed."""
        return self._inputs()

    def again(self, inputs: Any = None) -> Forward:
        """Return another pass over ``inputs``, or over the same ones.

        It moves no statistics, has dropout draws of its own, and a gradient through frozen stages
        where the inputs want one.
        """
        return self._again(self._inputs() if inputs is None else inputs)

    def mixed(self, values: Tensor) -> Tensor:
        """Return values (N, ...) mixed as the labels were: a share of each row's own and the rest
        of its partner's."""
        if self.plan is None:
            return values
        own = self.plan.label_weight.to(values.dtype).view(-1, *(1,) * (values.dim() - 1))
        return own * values + (1 - own) * values[self.plan.partner]


class Step:
    """One optimizer step: ``number`` counts from 0 to ``total`` − 1."""

    def __init__(
        self,
        model: Model,
        number: int,
        total: int,
        *,
        backward: Callable[[], Tensor],
        update: Callable[[], None],
    ) -> None:
        self.model, self.number, self.total = model, number, total
        self.backwards = self.updates = 0
        self._backward, self._update = backward, update

    @property
    def progress(self) -> float:
        """The share of the steps that are done: 0 in the first."""
        return self.number / self.total

    def backward(self) -> Tensor:
        """Leave the gradients of objective and penalty in ``.grad``; return the task's loss.

        Gradients of before are cleared. Each call has the same rows, mixing, dropout and draws of
        ``data.generator``; statistics move in the first alone.
        """
        self.backwards += 1
        return self._backward()

    def update(self) -> None:
        """Clip the gradients where the recipe says so, and take the optimizer's step."""
        self.updates += 1
        self._update()
