"""How a number of the results reads: its name, unit and direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Cost = Literal["", "measured", "counted"]
COSTS: tuple[Cost, ...] = get_args(Cost)


@dataclass(frozen=True)
class Metric:
    """How a score reads: its name, unit and direction.

    ``higher_is_better`` None: tables mark no best. ``rows`` names the column that counts the rows
    where the score is a share of rows, and so a multiple of one over them: ``test_rows``.
    ``scored_on`` names the column that counts the rows it is taken on, a share or not.

    ``cost`` says that the number is no score: ``measured`` on a device (seconds, bytes) or
    ``counted`` (parameters). Tables show a cost's mean and spread, test nothing and mark no best.
    """

    name: str
    title: str
    higher_is_better: bool | None = True
    percent: bool = False  # shown times 100
    rows: str = ""
    scored_on: str = "test_rows"
    cost: Cost = ""


CLASSIFICATION = (
    Metric("accuracy", "accuracy (%)", percent=True, rows="test_rows"),
    Metric("macro_f1", "macro F1 (%)", percent=True),
    Metric("nll", "NLL (nats)", higher_is_better=False),
    Metric("ece", "ECE (%)", higher_is_better=False, percent=True),
)


def _is(*kinds: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds)


METRIC_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is(str), "a string"),
    "title": (_is(str), "a string"),
    "higher_is_better": (_is(bool, type(None)), "True, False or None"),
    "percent": (_is(bool), "True or False"),
    "rows": (_is(str), "the name of a column that counts rows"),
    "scored_on": (_is(str), "the name of a column that counts rows"),
    "cost": (
        lambda value: isinstance(value, str) and value in COSTS,
        f"one of {', '.join(map(repr, COSTS))}",
    ),
}
"""By field of a Metric: whether tables can read a value of it, and what they expect."""
