"""The shelf: each entry is computed once, is whole or not there, and damage is no harm."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ftbench.cache import Shelf
from ftbench.cache.entry import Writer
from tests.support import ROOT

WHAT = {"of": "a test", "number": 1}


def blocks(rows=(3, 2), value=1.0):
    """Two blocks of rows: images whose channels lie last, halves, whole numbers and flags."""
    start = 0
    for count in rows:
        images = torch.arange(start, start + count * 2 * 3 * 4, dtype=torch.float32) * value
        start += count * 24
        yield {
            "image": images.view(count, 3, 4, 2).permute(0, 3, 1, 2),
            "half": torch.full((count, 5), value, dtype=torch.bfloat16),
            "index": torch.arange(count),
            "mask": torch.ones(count, 2, dtype=torch.bool),
        }


class Counted:
    """Makes blocks, and counts how often."""

    def __init__(self, value=1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return blocks(value=self.value)


def shelf(folder, **options):
    return Shelf(folder, **{"limit": 1e9, **options})


def check(found, value=1.0):
    rows = [block.values() for block in blocks(value=value)]
    expected = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    for name, wanted in zip(("image", "half", "index", "mask"), expected, strict=True):
        assert torch.equal(found.tensors[name], wanted), name
        assert found.tensors[name].dtype == wanted.dtype
    assert found.tensors["image"].is_contiguous(memory_format=torch.channels_last)


def entry(folder):
    [path] = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
def test_what_one_process_computed_the_next_finds(tmp_path, memory):
    make = Counted()
    first = shelf(tmp_path, memory=memory)
    found = first.rows(WHAT, 5, make)
    assert not found.was_there
    check(found)
    assert (first.computed, first.saved.wall) == (1, 0.0)
    again = first.rows(WHAT, 5, make)
    other = shelf(tmp_path, memory=memory)
    elsewhere = other.rows(WHAT, 5, make)
    for later in (again, elsewhere):
        assert later.was_there
        assert later.seconds == found.seconds or memory  # as the file says
        check(later)
    assert make.calls == 1
    assert other.computed == 0
    assert other.saved.wall == pytest.approx(found.seconds.wall, abs=1e-5)


def test_something_else_is_another_entry(tmp_path):
    found = shelf(tmp_path)
    check(found.rows(WHAT, 5, Counted()))
    check(found.rows({**WHAT, "number": 2}, 5, Counted(2.0)), 2.0)
    check(found.rows(WHAT, 5, Counted(3.0)))


def test_values_of_any_shape_are_kept(tmp_path):
    made = {"a": torch.randn(2, 3), "b": torch.arange(4)}
    for each in (shelf(tmp_path), shelf(tmp_path)):
        found = each.values(WHAT, lambda: made)
        assert torch.equal(found.tensors["a"], made["a"])
        assert torch.equal(found.tensors["b"], made["b"])


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)


def garbage(path):
    path.write_bytes(b"\xff" * 200)


def another(path):
    folder = path.parent / "other"
    shelf(folder).rows({"of": "another"}, 5, Counted(9.0))
    os.replace(entry(folder), path)


def foreign(path):
    from safetensors.torch import save_file

    save_file({"image": torch.zeros(5)}, path)


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, garbage, another, foreign])
def test_a_damaged_entry_is_computed_anew(tmp_path, damage, memory):
    shelf(tmp_path).rows(WHAT, 5, Counted())
    damage(entry(tmp_path))
    make = Counted()
    check(shelf(tmp_path, memory=memory).rows(WHAT, 5, make))
    assert make.calls == 1
    check(shelf(tmp_path).rows(WHAT, 5, make))
    assert make.calls == 1


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
def test_whoever_reads_an_entry_keeps_it_though_it_goes(tmp_path, memory):
    found = shelf(tmp_path, memory=memory).rows(WHAT, 5, Counted())
    entry(tmp_path).unlink()
    check(found)


def test_the_least_recently_used_go_first(tmp_path):
    size = 0
    for number in range(4):
        shelf(tmp_path).rows({"number": number}, 5, Counted())
        [newest] = [p for p in tmp_path.glob("*.safetensors") if p.stat().st_mtime > 1e6 + 4]
        os.utime(newest, (1e6 + number, 1e6 + number))
        size = newest.stat().st_size
    shelf(tmp_path).rows({"number": 0}, 5, Counted())  # used again
    shelf(tmp_path, limit=3.5 * size).rows({"number": 4}, 5, Counted())
    counts = []
    for number in range(5):
        make = Counted()
        Shelf(tmp_path, limit=1e9).rows({"number": number}, 5, make)
        counts.append(make.calls)
    assert counts == [0, 1, 1, 0, 0]


def test_memory_holds_the_most_recent_ones(tmp_path):
    make, one = Counted(), sum(t.numel() * t.element_size() for b in blocks() for t in b.values())
    found = shelf(None, memory=2 * one)
    for number in (0, 1, 0, 2, 0, 1):
        found.rows({"number": number}, 5, make)
    assert make.calls == 4  # 0, 1, 2, and 1 again


def test_nothing_is_written_where_nothing_is_to_be_kept(tmp_path):
    check(shelf(tmp_path / "runs", limit=0).rows(WHAT, 5, Counted()))
    assert not (tmp_path / "runs").exists()


def test_what_is_larger_than_asked_for_is_not_computed(tmp_path):
    make = Counted()
    for each in (shelf(tmp_path), shelf(None)):
        assert each.rows(WHAT, 5, make, most=100) is None
        assert each.rows(WHAT, 5, make, most=10_000) is not None
    assert shelf(None, memory=10).rows(WHAT, 5, make) is None


def test_a_folder_that_cannot_be_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found = shelf(tmp_path / "file" / "runs")
    for number in range(3):
        check(found.rows({"number": number}, 5, Counted()))
    assert caplog.text.count("cannot be kept in") == 1
    assert "set FTBENCH_CACHE to a folder on a disk with room" in caplog.text


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
def test_a_disk_that_fills_up_costs_only_the_sharing(tmp_path, monkeypatch, caplog, memory):
    write, calls = Writer.write, []

    def full(self, block):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(self, block)

    monkeypatch.setattr(Writer, "write", full)
    found = shelf(tmp_path, memory=memory).rows(WHAT, 5, Counted())
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.safetensors"))
    if memory:
        check(found)
    else:
        assert found is None


LIMITED = """
import resource, sys, torch
from pathlib import Path
from ftbench.cache import Shelf
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
blocks = lambda: iter([{"": torch.ones(10, 1000)} for _ in range(10)])
found = Shelf(Path(sys.argv[1]), limit=1e9).rows({"a": 1}, 100, blocks)
assert torch.equal(found.tensors[""], torch.ones(100, 1000))
"""


def test_a_file_that_the_system_does_not_let_grow_is_no_harm(tmp_path):
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=True)
    assert [p.suffix for p in tmp_path.iterdir()] in ([".lock"], [])


SLOW = """
import sys, time, torch
from pathlib import Path
from ftbench.cache import Shelf
folder = Path(sys.argv[1])

def blocks():
    with open(folder / "computed", "a") as file:
        file.write("x")
    for _ in range(10):
        time.sleep(0.1)
        yield {"": torch.ones(10, 4)}

found = Shelf(folder / "runs", limit=1e9).rows({"a": 1}, 100, blocks)
assert torch.equal(found.tensors[""], torch.ones(100, 4))
"""


def start(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], env=environment)


def test_one_of_several_processes_computes_and_the_others_wait(tmp_path):
    assert [process.wait() for process in [start(tmp_path) for _ in range(3)]] == [0, 0, 0]
    assert (tmp_path / "computed").read_text() == "x"


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(tmp_path):
    process = start(tmp_path)
    while not list(tmp_path.glob("runs/*.part")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("runs/*.safetensors"))
    assert start(tmp_path).wait() == 0
    assert not list(tmp_path.glob("runs/*.part"))
    assert (tmp_path / "computed").read_text() == "xx"
