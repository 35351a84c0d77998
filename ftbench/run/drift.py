"""How far a run moved the source head's answers to the target's test inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftbench import rng
from ftbench.backbone import Backbone, Model
from ftbench.predictions import predictions
from ftbench.task import Examples

DRIFT_ROWS = 1_000  # of the test set, drawn once for a task: the same for every run


@dataclass(frozen=True)
class Drift:
    """Mean KL(before ‖ after) in nats, and the share of rows whose first answer is the same."""

    divergence: float
    agreement: float
    rows: int


def drift_from(
    model: Model, head: nn.Module, build: Callable[[], Backbone], test: Examples, device: str
) -> Drift | None:
    """Return :func:`measure_drift` against the backbone that ``build`` makes.

    It is made anew rather than copied beforehand: while a run trains, nothing more is held.
    """
    untouched = build()
    if untouched.source_head is None:
        return None
    for module in (*(stage for _, stage in untouched.stages), untouched.source_head):
        module.to(device)
    return measure_drift(model, head, untouched, test)


@torch.inference_mode()
def measure_drift(
    model: Model, head: nn.Module, untouched: Backbone, test: Examples
) -> Drift | None:
    """Return how the stages with the source head answer, against the untouched backbone.

    Whole answers are compared, so no label of the source is needed: forgetting can be seen without
    the source's data. Up to 1,000 test inputs are predicted by both. None where the head's answers
    are no logits (N, K).
    """
    rows = np.sort(rng.permutation(len(test), "drift rows")[:DRIFT_ROWS])
    if _same_weights(model, untouched):
        return Drift(0.0, 1.0, len(rows))
    assert untouched.source_head is not None  # who asks has one
    few = test.subset(rows)
    before = nn.Sequential(*(stage for _, stage in untouched.stages), untouched.source_head)
    after = nn.Sequential(*model.stages, head)
    divergence, same = 0.0, 0
    for (first, _), (second, _) in zip(
        predictions(before, few), predictions(after, few), strict=True
    ):
        if not _are_logits(first):
            return None
        divergence += float(_divergences(first, second).sum())
        same += int((first.argmax(dim=1) == second.argmax(dim=1)).sum())
    return Drift(divergence / len(rows), same / len(rows), len(rows))


def _same_weights(model: Model, untouched: Backbone) -> bool:
    """Return whether every tensor of the stages is what it was, and so every answer."""
    now = model.stages.state_dict()
    stages = nn.ModuleList(stage for _, stage in untouched.stages)
    then = stages.state_dict()
    return now.keys() == then.keys() and all(
        torch.equal(now[name], value) for name, value in then.items()
    )


def _are_logits(answers: object) -> bool:
    return isinstance(answers, Tensor) and answers.dim() == 2 and answers.is_floating_point()


def _divergences(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before ‖ after) in nats of each row of logits (N, K), in float64."""
    first, second = (logits.double().log_softmax(dim=1) for logits in (before, after))
    return (first.exp() * (first - second)).sum(dim=1)
