import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftbench.recipes.schedules import Constant, Cosine, Linear, WarmupOptions

SCHEDULES = {schedule.name: schedule for schedule in (Constant, Cosine, Linear)}


def factors(total, schedule="cosine", warmup=0.0):
    made = SCHEDULES[schedule](WarmupOptions(warmup=warmup))
    return [made.factor(step, total) for step in range(total)]


def test_constant_stays_at_one():
    assert factors(5, schedule="constant") == [1.0] * 5


def test_linear_falls_in_equal_parts_towards_zero():
    assert factors(4, schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_falls_along_half_a_cosine():
    expected = [1, math.cos(math.pi / 8) ** 2, 0.5, math.sin(math.pi / 8) ** 2]
    assert factors(4, schedule="cosine") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", [1.0] * 6),
        ("linear", [1 - k / 6 for k in range(6)]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * k / 6) for k in range(6)]),
    ],
)
def test_warm_up_rises_to_one_and_the_schedule_follows(schedule, after):
    found = factors(10, schedule=schedule, warmup=0.4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, *after])


def test_warm_up_may_take_all_steps():
    assert factors(4, warmup=0.99) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@given(
    total=st.integers(1, 300),
    warmup=st.floats(0, 0.999),
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
)
def test_a_factor_is_positive_and_at_most_one(total, warmup, schedule):
    found = factors(total, warmup=warmup, schedule=schedule)
    assert all(0 < factor <= 1 for factor in found)
    assert max(found) == 1
