import copy
import json
import random

import pytest

from ftbench.lines import LineReader, parse
from ftbench.records import RunRecord, identity_key
from tests.support import run_record, run_spec


@pytest.fixture
def reader(tmp_path):
    """A reader that knows the sections of a record already."""
    reader = LineReader(tmp_path / "runs.jsonl")
    assert isinstance(reader.read(run_record(seed=0).to_json().encode(), 1), RunRecord)
    return reader


def test_what_many_lines_say_is_one_object(reader):
    first, second = (reader.read(run_record(seed=n).to_json().encode(), n) for n in (1, 2))
    for name in ("labels", "metrics", "environment"):
        assert getattr(first, name) is getattr(second, name)
    for name in ("task", "backbone", "strategy", "recipe"):
        assert first.identity[name] is second.identity[name]
    assert first.identity["seed"] == 1
    assert second.identity["seed"] == 2


WRONG = [
    None, True, 0, -1, 1.5, 2**64, -(2**70), 1e308, "", "text", [], [1], {}, {"a": 1}, "\ud800",
    "😀", float("nan"), float("inf"), "ok",
]  # fmt: skip


def _places(value, path=()):
    """Yield the path of everything in nested JSON values."""
    yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for name, inner in items.items() if isinstance(items, dict) else ():
        yield from _places(inner, (*path, name))


def _changed(values, path, change):
    found = copy.deepcopy(values)
    holder = found
    for name in path[:-1]:
        holder = holder[name]
    change(holder, path[-1])
    return found


def test_a_line_is_read_as_by_the_full_check_whatever_is_wrong_in_it(reader):
    values = json.loads(run_record(seed=3).to_json())
    values["protocol"] = {"steps": 5, "remark": "", "final_loss": None, "nested": {"a": [1]}}
    for path in [path for path in _places(values) if path]:
        for wrong in WRONG:
            line = json.dumps(_changed(values, path, lambda h, n, w=wrong: _set(h, n, w))).encode()
            _same(reader, line)
        if isinstance(path[-1], str):
            _same(reader, json.dumps(_changed(values, path, lambda h, n: h.pop(n))).encode())
            more = _changed(values, path, lambda h, n: h.update({f"{n}_more": 1}))
            _same(reader, json.dumps(more).encode())


def _set(holder, name, value):
    holder[name] = value


def test_a_line_is_read_as_by_the_full_check_whatever_byte_is_hit(reader):
    line = run_record(seed=3).to_json().encode()
    draws = random.Random(0)
    for _ in range(3000):
        hit = bytearray(line)
        for _ in range(draws.choice((1, 1, 2))):
            place = draws.randrange(len(hit))
            byte = draws.choice(b'"{}[],:\\u0dE.-+ \n\xed\xff' + bytes([draws.randrange(256)]))
            if draws.random() < 0.3:
                del hit[place : place + draws.choice((1, 5, 60))]
            else:
                hit[place] = byte
        _same(reader, bytes(hit))


def _same(reader, line):
    quick, full = (_outcome(read, line) for read in (reader.read, parse))
    if isinstance(full, str):
        assert quick == full
        return
    assert isinstance(quick, RunRecord)
    assert quick == full
    # As they are written again: 1 is not 1.0.
    assert json.loads(_spelled(quick)) == json.loads(_spelled(full))
    assert sorted(_spelled(quick)) == sorted(_spelled(full))


def _spelled(record):
    return json.dumps({n: v for n, v in vars(record).items() if n != "outcomes"})


def _outcome(read, line):
    try:
        return read(line, "a line")
    except Exception as error:
        return type(error).__name__


def test_a_seed_away_is_another_key_and_nothing_else():
    run = run_spec(seed=0)
    other = run.at_seed(7)
    assert other == run_spec(seed=7)
    assert other.key == run_spec(seed=7).key
    assert other.key == identity_key(other.identity()) != run.key
    assert run.at_seed(0).key == run.key
