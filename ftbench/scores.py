"""Scores of class predictions. Higher is better but for NLL and the calibration error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
