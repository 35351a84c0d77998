"""``QuadraticPenalty.add_gradient_`` beside a copy, loops, ``_foreach`` and ``torch.compile``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cases import COPY, FLOOR, PenaltyCase, penalty_cases
from benchmarks.penalty_peers import BUILDERS, Model, autograd_loop, draw_model
from benchmarks.timing import Budget, copy_function, measure


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one benchmark of each case's contenders."""
    device = metafunc.config.getoption("bench_device")
    metafunc.parametrize(
        ("case", "contender", "variant"),
        [
            pytest.param(case, *contender, id="-".join(filter(None, (case.id, *contender))))
            for case in penalty_cases(device, metafunc.config.getoption("bench_quick"))
            for contender in case.contenders()
        ],
    )


def bench_penalty(
    benchmark: Any, budget: Budget, case: PenaltyCase, contender: str, variant: str
) -> None:
    """Time one contender of one case."""
    function = _function(case, contender, variant)
    if contender != FLOOR:
        _check(case, contender, function)
    beside = {name: _function(case, name) for name in case.beside(contender)}
    measure(benchmark, budget, case, contender, variant, function, beside)


def _function(case: PenaltyCase, contender: str, variant: str = "") -> Callable[[], object]:
    if contender == COPY:
        return copy_function(case.values, case.device)
    return BUILDERS[contender](_model(case), variant)


@functools.lru_cache(maxsize=1)
def _model(case: PenaltyCase) -> Model:
    return draw_model(case)


@functools.lru_cache(maxsize=1)
def _expected(case: PenaltyCase) -> tuple[Tensor, list[Tensor]]:
    """Return the autograd loop's value and gradients."""
    model = _model(case)
    return _one_call(model, autograd_loop(model))


def _check(case: PenaltyCase, contender: str, function: Callable[[], Any]) -> None:
    """Raise AssertionError unless one call gives what the autograd loop gives."""
    value, gradients = _expected(case)
    found_value, found_gradients = _one_call(_model(case), function)

    def differs(what: str) -> Any:
        return lambda text: f"{case.id}: {what} of '{contender}' is not the loop's. {text}"

    # The loop sums float32 over millions of elements.
    torch.testing.assert_close(found_value, value, rtol=1e-4, atol=0.0, msg=differs("the value"))
    for found, expected in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8, msg=differs("a gradient"))


def _one_call(model: Model, function: Callable[[], Any]) -> tuple[Tensor, list[Tensor]]:
    for gradient in model.gradients:
        gradient.zero_()
    value = function()
    return value.clone(), [gradient.clone() for gradient in model.gradients]
