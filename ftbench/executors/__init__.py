"""Executors map work over the runs of a sweep; they know nothing of what is in either."""

from ftbench.executors.contract import Executor, Listener, Work
from ftbench.executors.on_ray import Cluster, OnRay
from ftbench.executors.serial import Serial
from ftbench.executors.workers import Workers

__all__ = ["Cluster", "Executor", "Listener", "OnRay", "Serial", "Work", "Workers"]
