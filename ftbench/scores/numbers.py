"""Scores of predicted numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ftbench.scores.ranks import Score, mean


def number_scores(outcomes: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Score]:
    """Return RMSE, MSE, MAE and R² of ``predicted`` against ``target``, both (N, D).

    RMSE is the root of the mean over all numbers; R² the mean over those D that are not constant.
    Where there are several, each has its own. None for an R² of numbers that are all equal.
    """
    truth = outcomes["target"].cpu().numpy().astype(np.float64)
    error = outcomes["predicted"].cpu().numpy().astype(np.float64) - truth
    squares = (error**2).mean(axis=0)
    spread = truth.var(axis=0)
    r2: list[Score] = [
        float(1 - e / s) if s > 0 else None for e, s in zip(squares, spread, strict=True)
    ]
    found: dict[str, Score] = {
        "rmse": float(np.sqrt(squares.mean())),
        "mse": float(squares.mean()),
        "mae": float(np.abs(error).mean()),
        "r2": mean(r2),
    }
    if len(names) > 1:
        for index, name in enumerate(names):
            found[f"rmse:{name}"] = float(np.sqrt(squares[index]))
            found[f"r2:{name}"] = r2[index]
    return found
