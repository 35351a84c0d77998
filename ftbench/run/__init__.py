"""One RunSpec → one RunRecord."""

from ftbench.run.elsewhere import lacks, versions
from ftbench.run.isolation import resolve_device
from ftbench.run.one import OnStep, RunWork, run_one

__all__ = ["OnStep", "RunWork", "lacks", "resolve_device", "run_one", "versions"]
