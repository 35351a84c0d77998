"""``ops.mix`` beside a copy, timm, torchvision, kornia and plain torch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.cases import COPY, OURS, OURS_WITH_PLAN, MixCase, mix_cases
from benchmarks.mix_checks import check_ours, check_peer, mix_ours, result_buffer
from benchmarks.mix_peers import ALPHA, BUILDERS, Batch, draw_batch, draw_plan
from benchmarks.timing import Budget, copy_function, measure
from ftbench import ops

# Plans alternate, since every batch has its own and the size of CutMix's box sets the work.
_PLANS = 32


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one benchmark of each case's contenders."""
    device = metafunc.config.getoption("bench_device")
    metafunc.parametrize(
        ("case", "contender", "variant"),
        [
            pytest.param(case, *contender, id="-".join(filter(None, (case.id, *contender))))
            for case in mix_cases(device, metafunc.config.getoption("bench_quick"))
            for contender in case.contenders()
        ],
    )


def bench_mix(benchmark: Any, budget: Budget, case: MixCase, contender: str, variant: str) -> None:
    """Time one contender of one case."""
    if contender == OURS:
        check_ours(case, _batch(case))
    for peer in case.peers:
        if peer.name == contender:
            check_peer(case, peer, variant)
    function = _function(case, contender, variant)
    beside = {name: _function(case, name) for name in case.beside(contender)}
    measure(benchmark, budget, case, contender, variant, function, beside)


def _function(case: MixCase, contender: str, variant: str = "") -> Callable[[], object]:
    if contender == COPY:
        return copy_function(case.values, case.device)
    batch = _batch(case)
    # Nobody mixes into the images that the next one reads.
    batch = Batch(batch.images.clone(), batch.labels)
    if contender == OURS:
        return _ours(case, batch)
    if contender == OURS_WITH_PLAN:
        return _ours_with_plan(case, batch)
    return BUILDERS[contender](batch, case, variant)


@functools.lru_cache(maxsize=1)
def _batch(case: MixCase) -> Batch:
    return draw_batch(case, case.shape)


def _ours(case: MixCase, batch: Batch) -> Callable[[], object]:
    out = result_buffer(case, batch.images)
    count = 1 if case.peers[0].name in ("reference", "add") else _PLANS
    plans = itertools.cycle([draw_plan(case, case.shape, step) for step in range(count)])
    return lambda: mix_ours(case, batch.images, next(plans), out)


def _ours_with_plan(case: MixCase, batch: Batch) -> Callable[[], object]:
    """Return a draw, the mix and the labels' weights: what ``ops.mixed_cross_entropy`` takes."""
    out = result_buffer(case, batch.images)
    size, _, height, width = case.shape
    steps = itertools.count()
    alphas = {
        "mixup_alpha": 0.0 if case.cutmix else ALPHA,
        "cutmix_alpha": ALPHA if case.cutmix else 0.0,
    }

    def mix() -> torch.Tensor:
        plan = ops.sample_mix(size, height, width, **alphas, seed=0, step=next(steps))
        plan = plan.to(case.device)
        mix_ours(case, batch.images, plan, out)
        return plan.label_weight

    return mix
