import pytest

from ftbench.backbone import Stage
from ftbench.strategies.partial import Partial, PartialOptions

PARTS = [Stage(index, 5, "part") for index in range(6)]


@pytest.mark.parametrize(
    ("stages", "trained"),
    [(0, [5]), (1, [4, 5]), (2, [3, 4, 5]), (5, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])],
)
def test_the_last_stages_and_the_head_train(stages, trained):
    strategy = Partial(PartialOptions(stages=stages))
    for progress in (0.0, 0.5, 0.99):
        assert [part.index for part in PARTS if strategy.trains(part, progress)] == trained


def test_by_default_one_stage_trains_with_the_head(tiny_run):
    # The top stage's Linear(96, 8), and the head's Linear(8, 3).
    assert tiny_run("partial").costs["trainable_parameters"] == (96 * 8 + 8) + (8 * 3 + 3)


def test_a_stage_can_be_named_instead_of_counted(tiny_run):
    assert (
        tiny_run("partial(last='body')").costs["trainable_parameters"]
        == (tiny_run("partial(stages=2)").costs["trainable_parameters"])
    )
    assert tiny_run("partial(last='body')").scores == tiny_run("partial(stages=2)").scores


def test_an_unknown_stage_is_refused_with_those_that_there_are(tiny_run):
    record = tiny_run("partial(last='bodi')")
    assert record.status == "failed"
    assert "did you mean 'body'? (it has stem, body, top)" in record.message
