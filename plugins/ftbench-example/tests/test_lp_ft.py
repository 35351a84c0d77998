from ftbench_example import LinearProbeThenFull

import ftbench
from ftbench.backbone import Stage

STEM, HEAD = Stage(0, 5, "stem"), Stage(5, 5, "head")


def test_only_the_head_trains_at_first():
    strategy = LinearProbeThenFull()
    assert strategy.trains(HEAD, 0.0)
    assert not strategy.trains(STEM, 0.49)
    assert strategy.trains(STEM, 0.5)


def test_it_sweeps_next_to_a_built_in(tmp_path):
    spec = ftbench.SweepSpec(
        strategies=("full", "lp-ft(probe=0.2)"), sizes=(20,), seeds=(0,), recipe={"steps": 5}
    )
    ftbench.run_sweep(spec, tmp_path)
    results = ftbench.load_results(tmp_path)
    assert list(results["strategy"]) == ["full", "lp-ft(probe=0.2)"]
    assert set(results["status"]) == {"ok"}
