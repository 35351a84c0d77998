import sys

import numpy as np
import pytest
import torch

from ftbench.memory import PeakMemory

MIB = 2**20


@pytest.fixture
def needs_linux():
    if not sys.platform.startswith("linux") or PeakMemory("cpu").peak_bytes() is None:
        pytest.skip("the system does not tell a process its peak memory")


def touch(mebibytes):
    """Allocate and write that much, and free it again."""
    block = np.ones(mebibytes * MIB, dtype=np.uint8)
    assert block[-1] == 1


@pytest.mark.usefixtures("needs_linux")
def test_memory_freed_before_the_end_counts_in_the_peak():
    peak = PeakMemory("cpu")
    touch(96)
    assert 90 * MIB < peak.peak_bytes() < 140 * MIB


@pytest.mark.usefixtures("needs_linux")
def test_an_earlier_higher_peak_does_not_hide_a_later_one():
    touch(192)
    peak = PeakMemory("cpu")
    touch(48)
    assert 44 * MIB < peak.peak_bytes() < 96 * MIB


@pytest.mark.usefixtures("needs_linux")
def test_doing_nothing_costs_next_to_nothing():
    assert 0 <= PeakMemory("cpu").peak_bytes() < 16 * MIB


@pytest.mark.usefixtures("needs_linux")
def test_the_peak_only_grows():
    peak = PeakMemory("cpu")
    touch(32)
    first = peak.peak_bytes()
    touch(8)
    assert peak.peak_bytes() >= first


def test_the_peak_is_bytes_or_unknown_on_any_system():
    assert isinstance(PeakMemory("cpu").peak_bytes(), int | None)


@pytest.mark.cuda
def test_the_peak_of_a_gpu_is_what_torch_allocated():
    device = "cuda:0"
    kept = torch.ones(8 * MIB, dtype=torch.uint8, device=device)
    before = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    del before
    peak = PeakMemory(device)
    freed = torch.ones(32 * MIB, dtype=torch.uint8, device=device)
    del freed
    assert 40 * MIB <= peak.peak_bytes() < 60 * MIB
    assert kept.numel() == 8 * MIB
