from ftbench.executors import Serial
from tests.support import run_record, run_spec


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.events = []

    def started(self, run):
        self.events.append(("start", run.seed))

    def stepped(self, run, step, total_steps):
        self.events.append(("step", run.seed, step, total_steps))


def test_runs_go_one_by_one_in_order_each_announced_before_it_starts():
    heard = Heard()

    def work(run, on_step, place):
        assert place == "cpu"
        heard.events.append(("run", run.seed))
        on_step(1, 2)
        return run_record(seed=run.seed)

    runs = [run_spec(seed=seed) for seed in (2, 0, 1)]
    for record in Serial("cpu").map(runs, work, heard):
        heard.events.append(("stored", record.identity["seed"]))
    assert heard.events == [
        event
        for seed in (2, 0, 1)
        for event in (("start", seed), ("run", seed), ("step", seed, 1, 2), ("stored", seed))
    ]


def test_nothing_runs_before_its_record_is_asked_for():
    heard = Heard()
    records = Serial("cpu").map([run_spec()], lambda run, on_step, place: run_record(), heard)
    assert heard.events == []
    next(records)
    assert len(heard.events) == 1


def test_no_runs_give_no_records():
    assert list(Serial("cpu").map([], lambda run, on_step, place: run_record(), Heard())) == []


def test_runs_in_turn_share_neither_device_nor_process():
    assert (Serial.shares_device, Serial.shares_process) == (False, False)
