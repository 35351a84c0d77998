"""The only training loop."""

from ftbench.stopwatch import Seconds, Stopwatch
from ftbench.train.loop import TrainingLog, train
from ftbench.train.optimizer import rehearse_optimizer
from ftbench.train.shapes import check_declared, check_features

__all__ = [
    "Seconds",
    "Stopwatch",
    "TrainingLog",
    "check_declared",
    "check_features",
    "rehearse_optimizer",
    "train",
]
