from ftbench.executors import run_serially
from tests.support import run_record, run_spec


def test_runs_go_one_by_one_in_order_each_announced_before_it_starts():
    events = []

    def run(spec):
        events.append(("run", spec.seed))
        return run_record(seed=spec.seed)

    specs = [run_spec(seed=seed) for seed in (2, 0, 1)]
    for record in run_serially(specs, run, on_start=lambda s: events.append(("start", s.seed))):
        events.append(("stored", record.identity["seed"]))
    assert events == [(what, seed) for seed in (2, 0, 1) for what in ("start", "run", "stored")]


def test_nothing_runs_before_its_record_is_asked_for():
    started = []
    records = run_serially(
        [run_spec()], lambda s: run_record(), on_start=lambda s: started.append(s)
    )
    assert started == []
    next(records)
    assert len(started) == 1


def test_no_runs_give_no_records():
    assert list(run_serially([], lambda s: run_record(), on_start=lambda s: None)) == []
