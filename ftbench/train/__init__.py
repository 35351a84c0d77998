"""The only training loop."""

from ftbench.train.loop import TrainingLog, train
from ftbench.train.stopwatch import Seconds, Stopwatch

__all__ = ["Seconds", "Stopwatch", "TrainingLog", "train"]
