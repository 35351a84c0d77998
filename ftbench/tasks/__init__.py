"""The built-in tasks, one family a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.task import Task


@hookimpl
def ftbench_tasks() -> Iterable[type[Task]]:
    """Return the built-in tasks."""
    from ftbench.tasks.digits import Digits
    from ftbench.tasks.image_folder import ImageFolder
    from ftbench.tasks.image_table import Csv
    from ftbench.tasks.letters import Letters
    from ftbench.tasks.torchvision_data import TorchvisionData

    return [Csv, Digits, ImageFolder, Letters, TorchvisionData]
