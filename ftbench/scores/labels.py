"""Scores of several labels a row, each there or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from ftbench.scores.ranks import Score, areas, mean


def label_outcomes(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return what the scores need of each row: targets and logits (N, K), and its mean loss.

    A label is predicted where its logit is above 0.
    """
    loss = F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none")
    return {"target": targets, "logit": logits.float(), "loss": loss.mean(dim=1)}


def label_scores(
    outcomes: Mapping[str, Tensor], names: Sequence[str], *, by_label: bool
) -> dict[str, Score]:
    """Return mean average precision, macro AUROC, micro and macro F1, exact match, Hamming loss.

    Means over labels are over those that the rows have (and for AUROC, lack); F1 of a label that
    is neither there nor predicted is no part of the macro F1. ``by_label`` adds each label's
    average precision. None for one that is not defined on these rows.
    """
    truth = outcomes["target"].cpu().numpy().astype(bool)
    logits = outcomes["logit"].cpu().numpy()
    chosen = logits > 0
    precisions = [average_precision(logits[:, k], truth[:, k]) for k in range(len(names))]
    both, either = 2 * (truth & chosen).sum(axis=0), truth.sum(axis=0) + chosen.sum(axis=0)
    found: dict[str, Score] = {
        "map": mean(precisions),
        "macro_auroc": mean(areas(logits, truth)),
        "micro_f1": float(both.sum() / either.sum()) if either.sum() else None,
        "macro_f1": mean(float(b / e) if e else None for b, e in zip(both, either, strict=True)),
        "exact_match": float((truth == chosen).all(axis=1).mean()),
        "hamming_loss": float(np.mean(truth != chosen)),
        "bce": float(outcomes["loss"].mean()),
    }
    if by_label:
        found |= {f"ap:{name}": value for name, value in zip(names, precisions, strict=True)}
    return found


def average_precision(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> Score:
    """Return scikit-learn's average precision of (N,) scores; None where no row is positive.

    NaN where a score is not finite, as other scores of a diverged model are.
    """
    from sklearn.metrics import average_precision_score

    if not positive.any():
        return None
    if not np.isfinite(scores).all():
        return float("nan")
    return float(average_precision_score(positive, scores))
