"""Tasks: a labelled pool, a test set, the loss, the scores, and where there is one a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ftbench import rng, scores
from ftbench.answers import described
from ftbench.component import Component, OptionsT
from ftbench.errors import SpecError
from ftbench.metric import CLASSIFICATION, Metric
from ftbench.ops import MixPlan, mixed_cross_entropy


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some rows; inputs may be any nested structure of tensors."""

    inputs: Any
    targets: Any


class Examples(Protocol):
    """Rows that can be batched by index."""

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """One class a row (N,), by which subsets are stratified."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the inputs and targets of ``rows``, in that order."""

    def subset(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return the examples that hold only ``rows``."""

    def to(self, device: str) -> Examples:
        """Return the examples with batches on ``device``."""


@dataclass(frozen=True)
class TensorExamples:
    """Examples held in memory: ``inputs`` (N, ...) and class labels ``targets`` (N,) int64.

    ValueError where they have different numbers of rows.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Compare the numbers of rows."""
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"inputs hold {len(self.inputs)} rows and targets {len(self.targets)}; expected as "
                "many of both"
            )

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """The class labels; TypeError where the targets are no tensor."""
        if not isinstance(self.targets, Tensor):
            raise TypeError(
                f"targets are a {type(self.targets).__name__}, expected a tensor (N,) int64"
            )
        return self.targets.cpu().numpy()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the inputs and targets of ``rows``, in that order."""
        index = torch.from_numpy(np.ascontiguousarray(rows)).to(self.inputs.device)
        return Batch(self.inputs[index], self.targets[index])

    def subset(self, rows: npt.NDArray[np.int64]) -> TensorExamples:
        """Return the examples that hold only ``rows``."""
        chosen = self.batch(rows)
        return TensorExamples(chosen.inputs, chosen.targets)

    def to(self, device: str) -> TensorExamples:
        """Return the examples with both tensors on ``device``."""
        return TensorExamples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Source:
    """What a strategy sees of the source task: samples, and the head that was trained on them.

    The samples are apart from the held-out ones on which retention is measured.
    """

    samples: Examples
    head: nn.Module


@dataclass(frozen=True)
class SourceTask:
    """A source task's data; ``held_out`` is read only to measure retention."""

    name: str
    samples: Examples
    held_out: Examples


class Task(Component[OptionsT]):
    """Base of a task plugin. ``metrics[0]`` is the score that tables show unless asked otherwise.

    The harness alone calls :meth:`test`: once in a run, after training, and when a sweep is
    planned, for the number of rows alone. Nothing that a strategy or a recipe is handed leads
    there.
    """

    kind: ClassVar[str] = "task"
    metrics: ClassVar[tuple[Metric, ...]]

    def pool(self) -> Examples:
        """Return the labelled rows that budgets are drawn from."""
        raise NotImplementedError(f"task '{self.name}' must define pool()")

    def test(self) -> Examples:
        """Return the test rows, none of them in the pool."""
        raise NotImplementedError(f"task '{self.name}' must define test()")

    def source(self) -> SourceTask | None:
        """Return the source task on which retention is measured, None where there is none."""
        return None

    def fingerprint(self) -> str:
        """Return a hash of all data that scores depend on; it is part of a run's key."""
        raise NotImplementedError(f"task '{self.name}' must define fingerprint()")

    def head(self, features: int, *, dropout: float, seed: int) -> nn.Module:
        """Return a new head for (N, features), the same for every strategy at one seed."""
        raise NotImplementedError(f"task '{self.name}' must define head()")

    def loss(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the 0-dim mean training loss of a batch; ``plan`` says how it was mixed."""
        raise NotImplementedError(f"task '{self.name}' must define loss()")

    def score(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return one number for each of ``metrics``."""
        raise NotImplementedError(f"task '{self.name}' must define score()")


class ClassificationTask(Task[OptionsT]):
    """A task with one of K labels a row: linear head, cross-entropy, and the scores of those."""

    classes: ClassVar[int]
    metrics: ClassVar[tuple[Metric, ...]] = CLASSIFICATION

    def head(self, features: int, *, dropout: float, seed: int) -> nn.Module:
        """Return dropout and a linear layer, drawn U(±1/√features) from ``seed`` alone."""
        linear = nn.Linear(features, self.classes)
        bound = features**-0.5
        with torch.no_grad():
            for name, parameter in linear.named_parameters():
                drawn = rng.uniforms(parameter.numel(), seed, "head", name) * 2 * bound - bound
                parameter.copy_(torch.from_numpy(drawn).view_as(parameter))
        return nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear

    def loss(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the mean cross-entropy of logits (N, K) against labels (N,) int64.

        FtbenchError where either is of another shape or type.
        """
        _check_predictions(self, outputs, targets)
        return mixed_cross_entropy(outputs, targets, plan, smoothing=smoothing)

    def score(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return accuracy, macro F1, NLL and expected calibration error.

        FtbenchError where logits (N, K) and labels (N,) int64 in [0, K) are something else.
        """
        _check_predictions(self, outputs, targets)
        _check_range(self, "labels", targets, outputs.shape[1])
        return scores.classification_scores(outputs, targets)


def pool_strata(task: Task) -> npt.NDArray[np.int64]:
    """Return the class of each row of the pool (N,); SpecError where the pool is not usable.

    What a :class:`TensorExamples` holds for a :class:`ClassificationTask` must be its classes; the
    strata of other examples may be finer.
    """
    pool = require_rows(task, "pool()", task.pool())
    if isinstance(pool, TensorExamples) and isinstance(pool.targets, Tensor):
        whole = not (pool.targets.is_floating_point() or pool.targets.is_complex())
        _check_shape(task, "pool() has targets", pool.targets, len(pool), whole=whole)
    given = getattr(pool, "strata", None)
    if given is None:
        raise _no_examples(task, "pool()", pool, "strata")
    strata = np.asarray(given)
    whole = np.issubdtype(strata.dtype, np.integer)
    _check_shape(task, "pool() has strata", strata, len(pool), whole=whole)
    if isinstance(pool, TensorExamples) and type(task).loss is ClassificationTask.loss:
        _check_classes(task, pool.targets)
    return strata


def require_rows(task: Task, role: str, examples: Examples, member: str = "__len__") -> Examples:
    """Return ``examples``; SpecError where they hold no rows or lack ``member``."""
    require_examples(task, role, examples, member)
    if not len(examples):
        raise SpecError(
            f"task '{task.name}': {role} holds no rows; it must return at least one, so look at "
            "what the task reads and selects"
        )
    return examples


def require_examples(task: Task, role: str, examples: object, member: str) -> None:
    """Raise SpecError where ``examples`` lack a length, or the ``member`` that is used next."""
    for needed in ("__len__", member):
        if not hasattr(examples, needed):
            raise _no_examples(task, role, examples, needed)


def _no_examples(task: Task, role: str, found: object, lacking: str) -> SpecError:
    verb = "returned" if role.endswith("()") else "is"
    return SpecError(
        f"task '{task.name}': {role} {verb} {described(found)}, which has no {lacking}; expected "
        "examples such as ftbench.TensorExamples"
    )


_ONE_HOT = "; one-hot or soft labels become classes by .argmax(dim=1)"


def _check_shape(
    task: Task, what: str, values: Tensor | npt.NDArray[Any], rows: int, *, whole: bool
) -> None:
    if whole and tuple(values.shape) == (rows,):
        return
    hint = _ONE_HOT if len(values.shape) == 2 else ""
    raise SpecError(
        f"task '{task.name}': {what} of shape {tuple(values.shape)} and dtype {values.dtype}; "
        f"expected ({rows},) integers, one class for each of its {rows} rows{hint}"
    )


def _check_classes(task: Task, labels: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise SpecError(
            f"task '{task.name}': pool() has targets of dtype {labels.dtype}; expected "
            "torch.int64, so convert them with .long()"
        )
    _check_range(task, "targets of pool()", labels, getattr(task, "classes", None))
    if bool((labels == labels[0]).all()):
        raise SpecError(
            f"task '{task.name}': every row of pool() is of class {int(labels[0])}; "
            "classification needs rows of two classes at least"
        )


def _check_range(task: Task, what: str, labels: Tensor, classes: int | None) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        top = "" if classes is None else f" to {classes - 1}"
        raise SpecError(
            f"task '{task.name}': {what} hold {low if low < 0 else high}; expected classes 0{top}, "
            "so number them from 0 or raise the task's `classes`"
        )


def _check_predictions(task: Task, logits: Any, labels: Any) -> None:
    if not (isinstance(logits, Tensor) and logits.dim() == 2 and logits.is_floating_point()):
        raise SpecError(
            f"task '{task.name}': the head returned {described(logits)}; expected logits (N, K)"
        )
    if not (isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.dim() == 1):
        hint = _ONE_HOT if isinstance(labels, Tensor) and labels.dim() == 2 else ""
        raise SpecError(
            f"task '{task.name}': labels are {described(labels)}; expected (N,) torch.int64, one "
            f"class a row{hint}"
        )
    if len(labels) != len(logits):
        raise SpecError(
            f"task '{task.name}': there are {len(labels)} labels for {len(logits)} rows of inputs"
        )


def data_fingerprint(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 over the shape, dtype and bytes of each array, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
