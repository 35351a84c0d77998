import pytest

import ftbench
from ftbench.backbone import Stage
from ftbench.errors import SpecError
from ftbench.strategies.full import Full, FullOptions

PARTS = [Stage(index, 5, "part") for index in range(6)]


def test_everything_trains_at_the_recipes_rate():
    strategy = Full()
    for part in PARTS:
        assert strategy.trains(part, 0.0)
        assert strategy.trains(part, 0.99)
        assert strategy.rate(part, 0.5) == 1
        assert strategy.decays(part)


def test_decay_lowers_the_rate_once_a_stage_towards_the_input():
    strategy = Full(FullOptions(decay=0.5))
    assert [strategy.rate(part, 0.0) for part in PARTS] == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


@pytest.mark.parametrize("decay", [0, -1, 1.5, "nan"])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(SpecError, match="strategy 'full': option 'decay'"):
        ftbench.load_catalogue().build(ftbench.Strategy, "full", {"decay": decay})
