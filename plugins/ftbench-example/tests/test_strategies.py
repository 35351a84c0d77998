import pytest
from ftbench_example import SAM, Consistent, LinearProbeThenFull, PullToMean

import ftbench
from ftbench.testing import is_full_at

STEM, HEAD = ftbench.Stage(0, 5, "stem"), ftbench.Stage(5, 5, "head")


def test_only_the_head_trains_at_first():
    strategy = LinearProbeThenFull()
    assert strategy.trains(HEAD, 0.0)
    assert not strategy.trains(STEM, 0.49)
    assert strategy.trains(STEM, 0.5)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (LinearProbeThenFull, {"probe": 0}),
        (PullToMean, {"strength": 0}),
        (Consistent, {"strength": 0}),
        (SAM, {"rho": 0}),
    ],
)
def test_at_strength_zero_it_is_full(strategy, options):
    assert is_full_at(strategy, **options)


def test_they_sweep_next_to_a_built_in(tmp_path):
    strategies = ("full", "lp-ft(probe=0.2)", "pull", "consistent", "sam")
    spec = ftbench.SweepSpec(strategies=strategies, sizes=(20,), seeds=(0,), recipe={"steps": 5})
    ftbench.run_sweep(spec, tmp_path)
    results = ftbench.load_results(tmp_path)
    assert set(results["strategy"]) == set(strategies)
    assert set(results["status"]) == {"ok"}
    passes = results.set_index("strategy")["backward_passes"]
    assert (passes["sam"], passes["full"]) == (2, 1)
