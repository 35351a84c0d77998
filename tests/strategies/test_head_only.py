import pytest

from ftbench.backbone import Stage
from ftbench.strategies.head_only import HeadOnly, HeadOnlyOptions

PARTS = [Stage(index, 5, "part") for index in range(6)]


def test_only_the_head_trains():
    for progress in (0.0, 0.99):
        assert [HeadOnly().trains(part, progress) for part in PARTS] == [False] * 5 + [True]


def test_the_head_trains_at_ten_times_the_heads_rate():
    assert HeadOnly().rate(PARTS[5], 0.0) == pytest.approx(10)
    assert HeadOnly(HeadOnlyOptions(rate=2)).rate(PARTS[5], 0.0) == 2


def test_the_source_task_is_kept_as_it_was(tiny_run):
    scores = tiny_run("head-only", steps=8).scores
    assert scores["source_accuracy_after"] == scores["source_accuracy_before"]
