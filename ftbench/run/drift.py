"""How far a run moved the source head's answers to the target's test inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftbench import rng
from ftbench.backbone import Model
from ftbench.predictions import BATCH, predictions
from ftbench.run.prefixes import Prefixes
from ftbench.task import Examples

DRIFT_ROWS = 1_000  # of the test set, drawn once for a task: the same for every run


@dataclass(frozen=True)
class Drift:
    """Mean KL(before ‖ after) in nats, and the share of rows whose first answer is the same."""

    divergence: float
    agreement: float
    rows: int


def drift_rows(test: Examples) -> Examples:
    """Return the test rows that drift is measured on: up to 1,000."""
    rows = np.sort(rng.permutation(len(test), "drift rows")[:DRIFT_ROWS])
    return test.subset(rows)


@torch.inference_mode()
def source_answers(
    model: Model, head: nn.Module | None, few: Examples, prefixes: Prefixes
) -> Tensor | None:
    """Return what the stages with the source head answer to some rows, logits (N, K).

    None where the head's answers are no logits.
    """
    assert head is not None  # who asks has one
    flows = prefixes.evaluated("drift")
    depth = 0 if flows is None else flows.depth
    whole = nn.Sequential(*model.stages[depth:], head)
    found = []
    for answers, _ in predictions(whole, few if flows is None else flows):
        if not _are_logits(answers):
            return None
        found.append(answers)
    return torch.cat(found)


@torch.inference_mode()
def measure_drift(before: Tensor, after: Tensor | None) -> Drift:
    """Return how the source head's answers moved from those of the untouched backbone.

    Whole answers are compared, so no label of the source is needed: forgetting can be seen without
    the source's data. Equal ones are exactly 0 and 1.
    """
    assert after is not None  # as before training
    divergence = 0.0
    if not torch.equal(before, after):
        parts = zip(before.split(BATCH), after.split(BATCH), strict=True)
        divergence = sum(float(_divergences(first, second).sum()) for first, second in parts)
    same = int((before.argmax(dim=1) == after.argmax(dim=1)).sum())
    return Drift(divergence / len(before), same / len(before), len(before))


def _are_logits(answers: object) -> bool:
    return isinstance(answers, Tensor) and answers.dim() == 2 and answers.is_floating_point()


def _divergences(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before ‖ after) in nats of each row of logits (N, K), in float64."""
    first, second = (logits.double().log_softmax(dim=1) for logits in (before, after))
    return (first.exp() * (first - second)).sum(dim=1)
