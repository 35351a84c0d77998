"""Executors map a function from RunSpec to RunRecord over the runs of a sweep."""

from ftbench.executors.serial import run_serially

__all__ = ["run_serially"]
