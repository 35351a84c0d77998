"""What is learned of a row: a class, several labels, or numbers; loss and scores of each."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ftbench import scores
from ftbench.errors import SpecError
from ftbench.metric import CLASSIFICATION, Metric
from ftbench.ops import MixPlan, mixed_cross_entropy
from ftbench.scores.ranks import Score

ClassWeights = Literal["none", "balanced"]
MANY = 20  # classes, labels: beyond that no score is named after each


@dataclass(frozen=True)
class Target(ABC):
    """What is learned of a row; ``names`` are those of the outputs, one each.

    ``loss`` takes what a head returns and a batch's targets, ``outcomes`` reduces both to what
    ``score`` needs, one entry a row, and ``kept`` is what of that stays with a run.
    """

    names: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """How many numbers a head returns for a row."""
        return len(self.names)

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """How the scores read; tables show the first."""

    @abstractmethod
    def fitted(self, targets: Tensor, *, class_weights: ClassWeights = "none") -> Self:
        """Return what it is for the training rows with these targets.

        Whatever is estimated from data, weights of classes or the spread of numbers, is estimated
        from them alone. SpecError for class weights of what has none.
        """

    @abstractmethod
    def loss(
        self, outputs: Tensor, targets: Tensor, *, plan: MixPlan | None, smoothing: float
    ) -> Tensor:
        """Return the 0-dim mean loss of a batch; ``plan`` says how it was mixed."""

    @abstractmethod
    def outcomes(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return what the scores need of each row."""

    @abstractmethod
    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Score]:
        """Return a number for each metric, None where it is not defined on these rows."""

    @abstractmethod
    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what stays of each row."""

    @abstractmethod
    def predictions(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return targets and whole predictions of each row."""


@dataclass(frozen=True)
class Classes(Target):
    """One of K classes: logits (N, K), labels (N,) int64, cross-entropy.

    With ``weights`` w (K,) the loss is Σ wᵧ·l / Σ wᵧ, as in ``torch.nn.functional.cross_entropy``;
    of a mixed batch each label counts by its share in both sums.
    """

    weights: tuple[float, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy first; those of each class where there are 20 at most."""
        found = [*CLASSIFICATION]
        if self.outputs > 5:
            found.append(_share("top5_accuracy", "top-5 accuracy", rows="test_rows"))
        found += [
            _share("balanced_accuracy", "balanced accuracy"),
            _share("macro_precision", "macro precision"),
            _share("macro_recall", "macro recall"),
            _share("macro_auroc", "macro AUROC"),
        ]
        if self._by_class:
            found += [
                _share(f"{of}:{name}", f"{title} of {name}")
                for name in self.names
                for of, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
            ]
        return tuple(found)

    @property
    def _by_class(self) -> bool:
        return self.outputs <= MANY

    def fitted(self, targets: Tensor, *, class_weights: ClassWeights = "none") -> Self:
        """Return it with weights n / (K·nₖ) where they are balanced.

        K counts the classes that have rows, as scikit-learn does; the others weigh 0.
        """
        if class_weights == "none":
            return self
        counts = torch.bincount(targets.cpu(), minlength=self.outputs).double()
        there = int((counts > 0).sum())
        weights = torch.where(counts > 0, counts.sum() / (there * counts.clamp(min=1)), 0.0)
        return dataclasses.replace(self, weights=tuple(weights.tolist()))

    def loss(
        self, outputs: Tensor, targets: Tensor, *, plan: MixPlan | None, smoothing: float
    ) -> Tensor:
        """Return the mean cross-entropy in nats."""
        weight = class_weight(self.weights, outputs)
        return mixed_cross_entropy(outputs, targets, plan, smoothing=smoothing, class_weight=weight)

    def outcomes(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return label, prediction, its probability, NLL, the label's rank, all probabilities."""
        return scores.all_class_outcomes(outputs, targets)

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Score]:
        """Return :func:`ftbench.scores.all_classification_scores`."""
        return scores.all_classification_scores(outcomes, self.names, by_class=self._by_class)

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return whether each row was right, its NLL as float16, label and prediction."""
        small = torch.uint8 if self.outputs <= 256 else torch.int32
        return {
            "correct": outcomes["predicted"] == outcomes["label"],
            "nll": outcomes["nll"].to(torch.float16),
            "label": outcomes["label"].to(small),
            "predicted": outcomes["predicted"].to(small),
        }

    def predictions(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return each row's log-probabilities (N, K) as float16."""
        return {"log_probabilities": outputs.float().log_softmax(dim=1).to(torch.float16)}


@dataclass(frozen=True)
class Labels(Target):
    """Any of K labels: logits (N, K), targets (N, K) of 0 and 1, binary cross-entropy.

    ``weights`` (K,) multiply the loss of labels that are there.
    """

    weights: tuple[float, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean average precision first; that of each label where there are 20 at most."""
        found = [
            _share("map", "mAP"),
            _share("macro_auroc", "macro AUROC"),
            _share("micro_f1", "micro F1"),
            _share("macro_f1", "macro F1"),
            _share("exact_match", "exact match", rows="test_rows"),
            _share("hamming_loss", "Hamming loss", higher_is_better=False),
            Metric("bce", "BCE (nats)", higher_is_better=False),
        ]
        if self.outputs <= MANY:
            found += [_share(f"ap:{name}", f"average precision of {name}") for name in self.names]
        return tuple(found)

    def fitted(self, targets: Tensor, *, class_weights: ClassWeights = "none") -> Self:
        """Return it with weights (n − nₖ) / nₖ where they are balanced; 1 for one without rows."""
        if class_weights == "none":
            return self
        counts = targets.double().sum(dim=0).cpu()
        rest = len(targets) - counts
        weights = torch.where((counts > 0) & (rest > 0), rest / counts.clamp(min=1), 1.0)
        return dataclasses.replace(self, weights=tuple(weights.tolist()))

    def loss(
        self, outputs: Tensor, targets: Tensor, *, plan: MixPlan | None, smoothing: float
    ) -> Tensor:
        """Return the mean over rows and labels of mixed targets, smoothed toward ½."""
        wanted = _mixed(targets.to(torch.promote_types(outputs.dtype, torch.float32)), plan)
        wanted = wanted * (1 - smoothing) + 0.5 * smoothing
        weight = wanted.new_tensor(self.weights) if self.weights else None
        return F.binary_cross_entropy_with_logits(
            outputs.to(wanted.dtype), wanted, pos_weight=weight
        )

    def outcomes(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return targets and logits (N, K), and each row's mean loss in nats."""
        return scores.label_outcomes(outputs, targets)

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Score]:
        """Return :func:`ftbench.scores.label_scores`."""
        return scores.label_scores(outcomes, self.names, by_label=self.outputs <= MANY)

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each row's loss as float16, and its labels as they are and were predicted."""
        return {
            "loss": outcomes["loss"].to(torch.float16),
            "label": outcomes["target"].bool(),
            "predicted": outcomes["logit"] > 0,
        }

    def predictions(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return the logits as float16."""
        return {"logits": outputs.to(torch.float16)}


@dataclass(frozen=True)
class Numbers(Target):
    """D numbers: outputs and targets (N, D), squared error in units of the training rows' spread.

    A head returns ``(y − mean) / spread``; outcomes and scores are in the targets' own units.
    """

    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """RMSE first; that of each number where there are several."""
        found = [
            Metric("rmse", "RMSE", higher_is_better=False),
            Metric("mse", "MSE", higher_is_better=False),
            Metric("mae", "MAE", higher_is_better=False),
            Metric("r2", "R²"),
        ]
        if self.outputs > 1:
            for name in self.names:
                found.append(Metric(f"rmse:{name}", f"RMSE of {name}", higher_is_better=False))
                found.append(Metric(f"r2:{name}", f"R² of {name}"))
        return tuple(found)

    def fitted(self, targets: Tensor, *, class_weights: ClassWeights = "none") -> Self:
        """Return it with the rows' means and standard deviations; 1 for numbers that are equal."""
        if class_weights != "none":
            raise SpecError(
                f"numbers ({', '.join(self.names)}) have no class weights; leave out "
                "recipe.class_weights"
            )
        values = targets.double().cpu().reshape(len(targets), -1)
        # Equal numbers may have a deviation of some 1e-17: their mean is rounded.
        varies = values.amax(dim=0) > values.amin(dim=0)
        spreads = torch.where(varies, values.std(dim=0, correction=0), 1.0)
        return dataclasses.replace(
            self, means=tuple(values.mean(dim=0).tolist()), spreads=tuple(spreads.tolist())
        )

    def loss(
        self, outputs: Tensor, targets: Tensor, *, plan: MixPlan | None, smoothing: float
    ) -> Tensor:
        """Return the mean squared error; smoothing is of classes and does nothing here."""
        wanted = targets.to(torch.promote_types(outputs.dtype, torch.float32))
        wanted = wanted.reshape(outputs.shape)
        if self.means:
            wanted = (wanted - wanted.new_tensor(self.means)) / wanted.new_tensor(self.spreads)
        return F.mse_loss(outputs.to(wanted.dtype), _mixed(wanted, plan))

    def outcomes(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return targets and predictions (N, D) in the targets' units, as float32."""
        predicted = outputs.double()
        if self.means:
            predicted = predicted * predicted.new_tensor(self.spreads)
            predicted = predicted + predicted.new_tensor(self.means)
        return {"target": targets.float().reshape(outputs.shape), "predicted": predicted.float()}

    def score(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Score]:
        """Return :func:`ftbench.scores.number_scores`."""
        return scores.number_scores(outcomes, self.names)

    def kept(self, outcomes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return target and prediction of each row."""
        return outcomes

    def predictions(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Return nothing more: the outcomes hold the predictions."""
        return {}


def class_weight(weights: tuple[float, ...], logits: Tensor) -> Tensor | None:
    """Return weights (K,) beside the logits, None without any; float32 at least."""
    if not weights:
        return None
    dtype = torch.promote_types(logits.dtype, torch.float32)  # bfloat16 rounds them by 0.4 %
    return torch.tensor(weights, dtype=dtype, device=logits.device)


def _mixed(targets: Tensor, plan: MixPlan | None) -> Tensor:
    """Return targets (N, K) as the batch's rows were mixed."""
    if plan is None:
        return targets
    own = plan.label_weight.to(targets.dtype).unsqueeze(1)
    return own * targets + (1 - own) * targets[plan.partner]


def _share(name: str, title: str, *, higher_is_better: bool = True, rows: str = "") -> Metric:
    return Metric(name, f"{title} (%)", higher_is_better, percent=True, rows=rows)
