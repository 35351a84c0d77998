"""Executors map work over the runs of a sweep; they know nothing of what is in either."""

from ftbench.executors.contract import Executor, Listener, Work
from ftbench.executors.serial import Serial
from ftbench.executors.workers import Workers

__all__ = ["Executor", "Listener", "Serial", "Work", "Workers"]
