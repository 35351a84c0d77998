"""Tasks: a labelled pool, a test set, the loss, the scores, and where there is one a source."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ftbench import rng, scores, subsets
from ftbench.answers import described
from ftbench.backbone import BackboneFamily
from ftbench.component import Component, OptionsT
from ftbench.errors import SpecError
from ftbench.fisher import draw_classes
from ftbench.metric import CLASSIFICATION, Metric
from ftbench.offers import Kind, Offer, checked_offers, choose_offer
from ftbench.ops import MixPlan, mixed_cross_entropy
from ftbench.targets import Classes, ClassWeights, class_weight


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some rows: each a tensor or a flat dict of tensors, rows first."""

    inputs: Any
    targets: Any


class Examples(Protocol):
    """Rows that can be batched by index."""

    @property
    def strata(self) -> npt.ArrayLike | None:
        """What subsets are stratified by, one entry a row: see :func:`ftbench.subsets.as_strata`.

        Classes (N,), several labels (N, K) of 0 and 1, numbers (N,) to be predicted, or None.
        """

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the inputs and targets of ``rows``, in that order."""

    def subset(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return the examples that hold only ``rows``."""

    def to(self, device: str) -> Examples:
        """Return the examples with batches on ``device``."""


Tensors = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class TensorExamples:
    """Examples held in memory: ``inputs`` (N, ...) and ``targets`` (N, ...), or dicts of such.

    ValueError where they have different numbers of rows.
    """

    inputs: Tensors
    targets: Tensors

    def __post_init__(self) -> None:
        """Compare the numbers of rows."""
        counts = {what: _row_counts(getattr(self, what)) for what in ("inputs", "targets")}
        if len({count for found in counts.values() for count in found}) > 1:
            raise ValueError(
                f"inputs hold {_shown(counts['inputs'])} and targets {_shown(counts['targets'])}; "
                "expected as many of both"
            )

    @property
    def strata(self) -> npt.NDArray[Any]:
        """The targets; TypeError where they are no tensor, and a subclass has to say."""
        if not isinstance(self.targets, Tensor):
            raise TypeError(
                f"targets are a {type(self.targets).__name__}, expected a tensor (N,) int64; "
                "otherwise define strata in a subclass"
            )
        return self.targets.cpu().numpy()

    def __len__(self) -> int:
        """Return the number of rows."""
        return _row_counts(self.inputs)[0]

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the inputs and targets of ``rows``, in that order."""
        index = torch.from_numpy(np.ascontiguousarray(rows))
        return Batch(_chosen(self.inputs, index), _chosen(self.targets, index))

    def subset(self, rows: npt.NDArray[np.int64]) -> Self:
        """Return the examples that hold only ``rows``."""
        chosen = self.batch(rows)
        return replace(self, inputs=chosen.inputs, targets=chosen.targets)

    def to(self, device: str) -> Self:
        """Return the examples with all tensors on ``device``."""
        return replace(
            self, inputs=_moved(self.inputs, device), targets=_moved(self.targets, device)
        )


def _row_counts(tensors: Tensors) -> list[int]:
    return [len(t) for t in tensors.values()] if isinstance(tensors, Mapping) else [len(tensors)]


def _shown(counts: list[int]) -> str:
    return f"{counts[0]} rows" if len(set(counts)) == 1 else f"{', '.join(map(str, counts))} rows"


def _chosen(tensors: Tensors, index: Tensor) -> Tensors:
    if isinstance(tensors, Mapping):
        return {name: tensor[index.to(tensor.device)] for name, tensor in tensors.items()}
    return tensors[index.to(tensors.device)]


def _moved(tensors: Tensors, device: str) -> Tensors:
    if isinstance(tensors, Mapping):
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    return tensors.to(device)


Draw = Callable[[Any, Tensor], Any]
"""Draws labels: see :func:`ftbench.fisher.draw_classes`."""


@dataclass(frozen=True)
class Source:
    """What a strategy sees of the source task: samples, and the head that was trained on them.

    ``head`` takes what the last stage returns. ``loss(outputs, targets)`` is the source task's,
    and ``draw(outputs, uniforms)`` draws targets from the model's own prediction. The samples are
    apart from the held-out ones on which retention is measured.
    """

    samples: Examples
    head: nn.Module
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    draw: Draw = draw_classes


@dataclass(frozen=True)
class SourceTask:
    """A source task's data; ``held_out`` is read only to measure retention.

    ``loss`` and ``draw`` are those of classes unless given: see :class:`Source`.
    """

    name: str
    samples: Examples
    held_out: Examples
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    draw: Draw = draw_classes
    classes: tuple[str, ...] = ()
    """Names of the labels, where these are to be found among the source head's own classes."""


class Task(Component[OptionsT]):
    """Base of a task plugin. ``metrics[0]`` is the score that tables show unless asked otherwise.

    The harness alone calls :meth:`test`: once in a run, after training, and when a sweep is
    planned, for the number of rows alone. Nothing that a strategy or a recipe is handed leads
    there.
    """

    kind: ClassVar[str] = "task"
    metrics: ClassVar[tuple[Metric, ...]]
    needs: ClassVar[tuple[Kind, ...]] = ("pooled",)
    """Kinds of features that the head can take, the best first: see :class:`ftbench.Offer`."""
    inputs: ClassVar[str] = "image"
    """What a row is: ``image``, ``text`` or ``image+text``."""

    def pool(self) -> Examples:
        """Return the labelled rows that budgets are drawn from."""
        raise NotImplementedError(f"task '{self.name}' must define pool()")

    def test(self) -> Examples:
        """Return the test rows, none of them in the pool."""
        raise NotImplementedError(f"task '{self.name}' must define test()")

    def at_seed(self, seed: int) -> Task:
        """Return the task as a seed splits it into pool and test set: itself, unless it does.

        The fingerprint is of all seeds.
        """
        return self

    def fitted(self, training: Examples, *, class_weights: ClassWeights = "none") -> Task:
        """Return the task as it is for a run's training rows: itself, unless it learns of them.

        Whatever is estimated from data, class weights or the spread of targets, is estimated from
        them alone. SpecError for class weights of a task that has none.
        """
        if class_weights != "none":
            raise SpecError(
                f"task '{self.name}' has no class weights; leave out recipe.class_weights"
            )
        return self

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why by name of what lies with the data and is no row."""
        return {}

    def details(self) -> Iterable[tuple[str, str]]:
        """Yield headings and texts for ``ftbench show task``."""
        return ()

    def source(self) -> SourceTask | None:
        """Return the source task on which retention is measured, None where there is none."""
        return None

    def fingerprint(self) -> str:
        """Return a hash of all data that scores depend on; it is part of a run's key."""
        raise NotImplementedError(f"task '{self.name}' must define fingerprint()")

    def head(self, offer: Offer, *, seed: int) -> nn.Module:
        """Return a new head for the features of an offer, the same for every strategy at a seed.

        The offer's kind is one of ``needs``.
        """
        raise NotImplementedError(f"task '{self.name}' must define head()")

    def loss(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the 0-dim mean training loss of a batch; ``plan`` says how it was mixed."""
        raise NotImplementedError(f"task '{self.name}' must define loss()")

    def outcomes(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return what scores need of a test batch, one entry a row: the outputs are dropped then.

        Asked batch by batch, so a row's entries must not depend on the rows beside it.
        """
        raise NotImplementedError(f"task '{self.name}' must define outcomes()")

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, float | None]:
        """Return one number for each of ``metrics``; ``outcomes`` are those of all rows.

        None for one that is not defined on these rows: it is missing then.
        """
        raise NotImplementedError(f"task '{self.name}' must define score()")

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what of the outcomes stays beside the run's record; keep it small."""
        return outcomes

    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return what ``--keep predictions`` keeps of a batch besides, one entry a row."""
        raise SpecError(
            f"task '{self.name}' has no predictions() to keep; leave out --keep predictions"
        )


class ClassificationTask(Task[OptionsT]):
    """A task with one of K labels a row: linear head, cross-entropy, and the scores of those."""

    classes: ClassVar[int]
    metrics: ClassVar[tuple[Metric, ...]] = CLASSIFICATION
    _class_weight: tuple[float, ...] = ()

    def fitted(self, training: Examples, *, class_weights: ClassWeights = "none") -> Task:
        """Return the task with the classes' weights in the training rows, where there are any."""
        if class_weights == "none":
            return self
        found = copy.copy(self)
        classes = Classes(tuple(map(str, range(self.classes))))
        labels = all_targets(training)  # strata may be finer than classes
        found._class_weight = classes.fitted(labels, class_weights=class_weights).weights
        return found

    def head(self, offer: Offer, *, seed: int) -> nn.Module:
        """Return a linear layer on (N, F), drawn U(±1/√F) from ``seed`` alone."""
        return seeded_linear(offer.width, self.classes, seed, "head")

    def loss(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the mean cross-entropy of logits (N, K) against labels (N,) int64.

        FtbenchError where either is of another shape or type.
        """
        _check_predictions(self, outputs, targets)
        weight = class_weight(self._class_weight, outputs)
        return mixed_cross_entropy(outputs, targets, plan, smoothing=smoothing, class_weight=weight)

    def outcomes(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return each row's label, prediction, NLL in nats and the prediction's probability.

        FtbenchError where logits (N, K) and labels (N,) int64 in [0, K) are something else.
        """
        _check_predictions(self, outputs, targets)
        _check_range(self, "labels", targets, outputs.shape[1])
        return scores.class_outcomes(outputs, targets)

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, float | None]:
        """Return accuracy, macro F1, NLL and expected calibration error."""
        return scores.classification_scores(outcomes)

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return whether each row was right, and its NLL as float16."""
        correct = outcomes["predicted"] == outcomes["label"]
        return {"correct": correct, "nll": outcomes["nll"].to(torch.float16)}

    def predictions(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return each row's label, prediction, and log-probabilities (N, K) as float16."""
        log_probability = outputs.float().log_softmax(dim=1)
        return {
            "label": targets,
            "predicted": log_probability.argmax(dim=1),
            "log_probabilities": log_probability.to(torch.float16),
        }


def all_targets(examples: Examples, batch_size: int = 256) -> Tensor:
    """Return the targets of all examples, in order, where they are tensors."""
    rows = np.arange(len(examples))
    starts = range(0, len(rows), batch_size)
    return torch.cat([examples.batch(rows[i : i + batch_size]).targets for i in starts])


def seeded_linear(inputs: int, outputs: int, *purpose: int | str) -> nn.Linear:
    """Return a linear layer whose weights are U(±1/√inputs), drawn from ``purpose`` alone."""
    linear = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        for name, parameter in linear.named_parameters():
            drawn = rng.uniforms(parameter.numel(), *purpose, name) * 2 * bound - bound
            parameter.copy_(torch.from_numpy(drawn).view_as(parameter))
    return linear


def pool_strata(task: Task) -> subsets.Strata:
    """Return the strata of the pool; SpecError where the pool is not usable.

    What a :class:`TensorExamples` holds for a :class:`ClassificationTask` must be its classes; the
    strata of other examples may be finer.
    """
    pool = require_rows(task, "pool()", task.pool())
    classifies = isinstance(task, ClassificationTask)
    if classifies and isinstance(pool, TensorExamples) and isinstance(pool.targets, Tensor):
        whole = not (pool.targets.is_floating_point() or pool.targets.is_complex())
        _check_shape(task, "pool() has targets", pool.targets, len(pool), whole=whole)
    if not hasattr(pool, "strata"):
        raise _no_examples(task, "pool()", pool, "strata")
    if classifies and pool.strata is not None:
        given = np.asarray(pool.strata)
        whole = np.issubdtype(given.dtype, np.integer)
        _check_shape(task, "pool() has strata", given, len(pool), whole=whole)
    if isinstance(pool, TensorExamples) and type(task).loss is ClassificationTask.loss:
        assert isinstance(pool.targets, Tensor)  # its strata say so
        _check_classes(task, pool.targets)
    try:
        return subsets.as_strata(pool.strata, len(pool))
    except ValueError as error:
        raise SpecError(f"task '{task.name}': pool() has strata that {error}") from error


def require_offer(task: Task, family: BackboneFamily) -> Offer:
    """Return the offer that the task's head takes; SpecError, saying both sides, without one."""
    offers = checked_offers(family.name, family.offers())
    found = choose_offer(task.needs, task.inputs, offers)
    if found is not None:
        return found
    needs = " or ".join(task.needs)
    raise SpecError(
        f"task '{task.label}' needs {needs} features from {task.inputs}, and backbone "
        f"'{family.label}' offers {' and '.join(map(str, offers))}"
    )


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
