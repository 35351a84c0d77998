"""pytest's side of the suite: its options, its threads and what the report says of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.machine import core_count, describe
from benchmarks.timing import Budget

# Half of the size (32 MiB) from which glibc hands every block back.
_SETTLING_BYTES = 2**24
_MACHINE = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the device and the size."""
    parser.addoption("--bench-device", default="cpu", choices=["cpu", "cuda"])
    parser.addoption("--bench-quick", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Let torch use every core, and start as a process that has run for a while does."""
    torch.set_num_threads(core_count())
    # glibc hands freed blocks back to the system, and pays for their pages at each call, until it
    # has seen one of their size. Else a small case's times would depend on what ran before it.
    torch.zeros(_SETTLING_BYTES, dtype=torch.uint8)
    # Now, since a checkout may be edited while this runs.
    config.stash[_MACHINE] = describe(config.getoption("bench_device"))


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> Budget:
    """How long each function is measured."""
    if request.config.getoption("bench_quick"):
        return Budget(0.01, least_turns=1, most_turns=2)
    # A CPU's pace changes from second to second.
    return Budget(3.0 if request.config.getoption("bench_device") == "cpu" else 1.0)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Let peers that draw from global generators draw alike in every run."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.hookimpl
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put what the table prints into the report."""
    quick = config.getoption("bench_quick")
    machine_info["ftbench"] = config.stash[_MACHINE] | {"quick": quick}
