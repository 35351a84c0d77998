"""Scores of class predictions. Higher is better but for NLL and the calibration error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def classification_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, macro F1, NLL in nats and expected calibration error.

    ``logits`` is (N, K) float, ``labels`` (N,) int64 in [0, K).
    """
    from sklearn.metrics import f1_score

    log_probability = torch.log_softmax(logits.double(), dim=1)
    chosen = log_probability.argmax(dim=1)
    truth = labels.cpu().numpy()
    return {
        "accuracy": accuracy(logits, labels),
        "macro_f1": float(f1_score(truth, chosen.cpu().numpy(), average="macro", zero_division=0)),
        "nll": float(torch.nn.functional.nll_loss(log_probability, labels)),
        "ece": expected_calibration_error(
            log_probability.exp().amax(dim=1).cpu().numpy(), (chosen == labels).cpu().numpy()
        ),
    }


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
