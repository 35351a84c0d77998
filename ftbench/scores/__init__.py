"""Scores: of classes, of several labels a row, of numbers. One that is not defined is None."""

from ftbench.scores.classes import (
    accuracy,
    all_class_outcomes,
    all_classification_scores,
    class_outcomes,
    classification_scores,
    expected_calibration_error,
)
from ftbench.scores.labels import label_outcomes, label_scores
from ftbench.scores.numbers import number_scores

__all__ = [
    "accuracy",
    "all_class_outcomes",
    "all_classification_scores",
    "class_outcomes",
    "classification_scores",
    "expected_calibration_error",
    "label_outcomes",
    "label_scores",
    "number_scores",
]
