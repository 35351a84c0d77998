"""A run that a GPU has no memory for is tried once more, in smaller parts."""

import torch

import ftbench


class Hungry(ftbench.Strategy):
    """Takes no more than so many rows at a time."""

    name = "hungry"
    most = 3
    tries = 0

    def prepare(self, model, data):
        type(self).tries += 1

    def objective(self, forward):
        if len(forward.targets) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward.loss


def run(tiny_run, most, refusals=(), **recipe):
    class Mine(Hungry):
        pass

    Mine.most, Mine.refuses = most, refusals
    return Mine, tiny_run(Mine, size=24, **{"batch_size": 6, "steps": 3, **recipe})


def test_the_second_try_has_the_batch_in_twice_as_many_parts_and_says_so(tiny_run):
    strategy, record = run(tiny_run, 3)
    assert (record.status, strategy.tries) == ("ok", 2), record.message
    assert record.protocol["batch_parts"] == 2
    assert record.protocol["batch_size"] == 6
    assert record.identity["recipe"].get("accumulation", 1) == 1
    _, in_parts = run(tiny_run, 3, accumulation=2)
    assert record.scores == in_parts.scores


def test_a_run_that_has_room_is_tried_once(tiny_run):
    strategy, record = run(tiny_run, 6)
    assert (record.status, strategy.tries, record.protocol["batch_parts"]) == ("ok", 1, 1)


def test_a_second_failure_is_the_record(tiny_run):
    strategy, record = run(tiny_run, 1)
    assert (record.status, strategy.tries) == ("out-of-memory", 2)


def test_what_cannot_be_parted_is_not_tried_again(tiny_run):
    for options in ({"refusals": ("accumulation",)}, {"batch_size": 2, "accumulation": 2}):
        strategy, record = run(tiny_run, 0, **options)
        assert (record.status, strategy.tries) == ("out-of-memory", 1)
