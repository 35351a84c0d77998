"""The only training loop."""

from ftbench.train.loop import TrainingLog, train

__all__ = ["TrainingLog", "train"]
