import pytest

from ftbench.backbone import Stage
from ftbench.strategies.progressive import Progressive, ProgressiveOptions


def trained(strategy, depth, progress):
    """Return the indices of the parts that train."""
    parts = [Stage(index, depth, "part") for index in range(depth + 1)]
    return [part.index for part in parts if strategy.trains(part, progress)]


def test_gradual_thaws_one_more_stage_a_phase_from_the_top():
    strategy = Progressive()
    phases = [trained(strategy, 5, step / 12) for step in range(12)]
    expected = [[5], [4, 5], [3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert phases == [phase for phase in expected for _ in range(2)]


def test_gradual_keeps_the_recipes_rate():
    stage = Stage(4, 5, "part")
    assert {Progressive().rate(stage, step / 12) for step in range(12)} == {1.0}


@pytest.mark.parametrize("depth", range(1, 31))
def test_gradual_phases_are_equally_long(depth):
    steps = 3 * (depth + 1)
    counts = [len(trained(Progressive(), depth, step / steps)) for step in range(steps)]
    assert counts == [phase + 1 for phase in range(depth + 1) for _ in range(3)]


def test_classic_is_head_then_upper_stages_then_everything():
    strategy = Progressive(ProgressiveOptions(form="classic"))
    phases = [trained(strategy, 5, step / 9) for step in range(9)]
    expected = [[5], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert phases == [phase for phase in expected for _ in range(3)]


def test_classic_rates_fall_to_a_tenth_and_a_hundredth():
    strategy = Progressive(ProgressiveOptions(form="classic"))
    for part in (Stage(5, 5, "head"), Stage(4, 5, "top")):
        assert [strategy.rate(part, step / 6) for step in range(6)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_classic_options_set_the_upper_stages_and_the_rates():
    options = ProgressiveOptions(form="classic", upper=1, rates=(3, 2, 1))
    strategy = Progressive(options)
    assert trained(strategy, 5, 0.4) == [4, 5]
    assert [strategy.rate(Stage(5, 5, "head"), p) for p in (0, 0.4, 0.7)] == [3, 2, 1]


@pytest.mark.parametrize("form", ["gradual", "classic"])
def test_every_stage_has_trained_by_the_end(tiny_run, form):
    record = tiny_run(f"progressive(form='{form}')", steps=6)
    assert record.costs["trainable_parameters"] == record.costs["total_parameters"]
