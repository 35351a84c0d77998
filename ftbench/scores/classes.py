"""Scores of class predictions. Higher is better but for NLL and the calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ftbench.scores.ranks import Score, areas, mean


def class_outcomes(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what the scores need of each row: label, prediction, NLL in nats, and confidence.

    ``logits`` is (N, K) float, ``labels`` (N,) int64 in [0, K). The confidence is the probability
    of the predicted class. NLL and confidence are float64.
    """
    log_probability = torch.log_softmax(logits.double(), dim=1)
    return {
        "label": labels,
        "predicted": log_probability.argmax(dim=1),
        "nll": -log_probability.gather(1, labels.unsqueeze(1)).squeeze(1),
        "confidence": log_probability.exp().amax(dim=1),
    }


def classification_scores(outcomes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return accuracy, macro F1, NLL in nats and expected calibration error of outcomes."""
    from sklearn.metrics import f1_score

    truth, chosen = outcomes["label"].cpu().numpy(), outcomes["predicted"].cpu().numpy()
    correct = truth == chosen
    return {
        "accuracy": float(correct.mean()),
        "macro_f1": float(f1_score(truth, chosen, average="macro", zero_division=0)),
        "nll": _mean_nll(outcomes["nll"]),
        "ece": expected_calibration_error(outcomes["confidence"].cpu().numpy(), correct),
    }


def _mean_nll(nll: Tensor) -> float:
    # nll_loss adds up in another order than mean(): its bits are those of every score so far.
    return float(torch.nn.functional.nll_loss(-nll.unsqueeze(1), torch.zeros_like(nll).long()))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of (N, K) ``logits`` whose largest entry is at the label, N > 0."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def expected_calibration_error(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """Return Σ_b |B_b|/N · |accuracy(B_b) − confidence(B_b)| over equal bins (Guo et al. 2017).

    ``confidence`` (N,) is the probability of the predicted class, ``correct`` (N,) whether it was
    right. torchmetrics has this score as well; importing it costs more time than a run takes, so
    the tests compare with it instead.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    gap = np.bincount(index, weights=correct.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def all_class_outcomes(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return :func:`class_outcomes`, the rank of each label and all probabilities as float32.

    The rank (N,) counts the classes that come before the label: with a larger logit, or an equal
    one and a smaller number, so that the prediction has rank 0.
    """
    own = logits.gather(1, labels.unsqueeze(1))
    earlier = torch.arange(logits.shape[1], device=labels.device) < labels.unsqueeze(1)
    return {
        **class_outcomes(logits, labels),
        "rank": ((logits > own) | ((logits == own) & earlier)).sum(dim=1),
        "probability": logits.float().softmax(dim=1),
    }


def all_classification_scores(
    outcomes: Mapping[str, Tensor], names: Sequence[str], *, by_class: bool
) -> dict[str, Score]:
    """Return the scores of :func:`classification_scores` and those of the confusion counts.

    Top-5 accuracy where there are more than five classes, balanced accuracy (mean recall of the
    classes that the rows have), macro precision and recall over the classes that occur or are
    predicted, as scikit-learn has them, macro AUROC one against the rest, and ``by_class``
    precision, recall and F1 of each class. None for one that is not defined on these rows.
    """
    counts = confusion(outcomes, len(names))
    right, truth, chosen = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratios(right, chosen), _ratios(right, truth)
    occurs = [index for index in range(len(names)) if truth[index] or chosen[index]]
    found: dict[str, Score] = {**classification_scores(outcomes)}
    if len(names) > _TOP:
        found["top5_accuracy"] = float((outcomes["rank"] < _TOP).double().mean())
    found["balanced_accuracy"] = mean(recall)
    found["macro_precision"] = mean(precision[index] or 0.0 for index in occurs)
    found["macro_recall"] = mean(recall[index] or 0.0 for index in occurs)
    labels = outcomes["label"].cpu().numpy()
    found["macro_auroc"] = mean(
        areas(outcomes["probability"].cpu().numpy(), labels[:, None] == np.arange(len(names)))
    )
    if by_class:
        f1 = _ratios(2 * right, truth + chosen)
        for index, name in enumerate(names):
            found[f"precision:{name}"] = precision[index]
            found[f"recall:{name}"] = recall[index]
            found[f"f1:{name}"] = f1[index]
    return found


_TOP = 5


def confusion(outcomes: Mapping[str, Tensor], classes: int) -> npt.NDArray[np.int64]:
    """Return how many rows of each class (its row) were predicted as each class (its column)."""
    labels, predicted = (outcomes[name].cpu().numpy() for name in ("label", "predicted"))
    pairs = np.bincount(labels * classes + predicted, minlength=classes**2)
    counts: npt.NDArray[np.int64] = pairs.reshape(classes, classes)
    return counts


def _ratios(some: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> list[Score]:
    return [float(a / b) if b else None for a, b in zip(some, of, strict=True)]
