"""Calls from several threads and from a loader's processes."""

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader

from ftbench.ops import QuadraticPenalty, mix, sample_mix
from tests.ops.cases import draw_values, same_bits
from tests.support import STUCK_SECONDS

pytestmark = pytest.mark.usefixtures("compiled")


def batch_of(seed):
    images = draw_values((8, 3, 64, 64), torch.uint8, seed).permute(0, 2, 3, 1).contiguous()
    return images, sample_mix(8, 64, 64, mixup_alpha=0.4, cutmix_alpha=1.0, seed=seed, step=0)


@pytest.mark.parametrize("count", [1, 2])
def test_calls_from_several_threads_at_once_do_not_disturb_each_other(threads, count):
    batches = [batch_of(seed) for seed in range(6)]
    expected = [mix(*batch) for batch in batches]
    parameters = [draw_values((100_001,), torch.float32, seed) for seed in range(6)]
    penalties = [QuadraticPenalty([p], [None], [0.5]) for p in parameters]
    values = [penalty.value() for penalty in penalties]

    def work(index):
        torch.set_num_threads(count)  # each thread has its own
        for _ in range(10):
            assert same_bits(mix(*batches[index]), expected[index])
            assert same_bits(penalties[index].value(), values[index])
        return True

    threads(count)
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(6)))


def mixed(rows):
    images, plan = batch_of(rows[0])
    return rows[0], mix(images, plan)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_loaders_worker_mixes_though_the_parent_has_used_threads(threads):
    threads(2)
    expected = [mix(*batch_of(seed)) for seed in range(3)]
    loader = DataLoader(
        range(3),
        batch_size=1,
        collate_fn=mixed,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context("fork"),
        timeout=STUCK_SECONDS,
    )
    for seed, found in loader:
        assert same_bits(found, expected[seed])
