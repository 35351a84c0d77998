"""How far a run moved the source head's answers to the target's test inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftbench import rng
from ftbench.backbone import Backbone, Model
from ftbench.predictions import BATCH, Batched, predictions
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


class Untouched:
    """The backbone before training: what its source head answers, once for all runs from it.

    It is made anew by ``build`` where that is not known: while a run trains, nothing more is held.
    """

    def __init__(self, prefixes: Prefixes, build: Callable[[], Backbone]) -> None:
        self._prefixes, self._build = prefixes, build
        self._stages = prefixes.values()  # as they are now, before training

    def answers(self, device: str) -> Tensor | None:
        """Return logits (N, K) for the rows of drift, None where they are none."""
        found = self._prefixes.made(
            "source answers", lambda: self._predicted(device), "drift", {}, self._stages
        )
        return found.get(_LOGITS)

    def _predicted(self, device: str) -> dict[str, Tensor]:
        backbone = self._build()
        assert backbone.source_head is not None  # who asks has one
        whole = nn.Sequential(*(stage for _, stage in backbone.stages), backbone.source_head)
        answers = _answers(whole.to(device), self._prefixes.rows("drift"))
        return {"none": torch.zeros(1)} if answers is None else {_LOGITS: answers}


_LOGITS = "logits"


def measure_drift(
    untouched: Untouched, model: Model, head: nn.Module, prefixes: Prefixes, device: str
) -> Drift | None:
    """Return how the stages with the source head answer, against the untouched backbone.

    Whole answers are compared, so no label of the source is needed: forgetting can be seen without
    the source's data. None where the head's answers are no logits.
    """
    flows = prefixes.evaluated("drift")
    depth = 0 if flows is None else flows.depth
    whole = nn.Sequential(*model.stages[depth:], head)
    after = _answers(whole, prefixes.rows("drift") if flows is None else flows)
    before = None if after is None else untouched.answers(device)
    if before is None or after is None:
        return None
    if depth == len(model.stages):  # nothing moved
        return Drift(0.0, 1.0, len(before))
    return drift_between(before, after)


@torch.inference_mode()
def drift_between(before: Tensor, after: Tensor) -> Drift:
    """Return how far logits (N, K) have moved: exactly 0 and 1 where they have not."""
    divergence = 0.0
    if not torch.equal(before, after):
        parts = zip(before.split(BATCH), after.split(BATCH), strict=True)
        divergence = sum(float(_divergences(first, second).sum()) for first, second in parts)
    same = int((before.argmax(dim=1) == after.argmax(dim=1)).sum())
    return Drift(divergence / len(before), same / len(before), len(before))


@torch.inference_mode()
def _answers(whole: nn.Module, rows: Batched) -> Tensor | None:
    found = []
    for answers, _ in predictions(whole, rows):
        if not _are_logits(answers):
            return None
        found.append(answers)
    return torch.cat(found)


def _are_logits(answers: object) -> bool:
    return isinstance(answers, Tensor) and answers.dim() == 2 and answers.is_floating_point()


def _divergences(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before ‖ after) in nats of each row of logits (N, K), in float64."""
    first, second = (logits.double().log_softmax(dim=1) for logits in (before, after))
    return (first.exp() * (first - second)).sum(dim=1)
