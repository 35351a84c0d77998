"""Compiling on first use: one process does it, the others wait, and what each of them says."""

import logging
import os
from contextlib import contextmanager
from dataclasses import replace

import pytest
from filelock import FileLock

from ftbench.ops import build
from ftbench.ops.first_use import binary_for, cache, isolated, once
from ftbench.ops.first_use.failures import Failures, circumstances
from tests.ops.first_use.builds import CUT_SHORT, Builds, write_binary

DAY = 24 * 3600
pytestmark = pytest.mark.usefixtures("folder")


def test_a_binary_that_is_there_needs_no_lock(monkeypatch, folder, wanted, builds):
    made = binary_for(wanted)

    def lock(path):
        raise AssertionError(f"{path} was locked")

    monkeypatch.setattr(once, "FileLock", lock)
    assert binary_for(wanted) == made


@pytest.mark.parametrize("error", [PermissionError(13, "not yours"), NotImplementedError("none")])
def test_where_nothing_can_be_locked_binaries_are_made_beside_each_other(
    monkeypatch, folder, wanted, builds, error
):
    class NoLock:
        is_locked = False

        def __init__(self, path):
            pass

        def acquire(self, timeout):
            raise error

    monkeypatch.setattr(once, "FileLock", NoLock)
    first = []

    def compile_apart(wanted, partial):
        if not first:  # another is done meanwhile
            first.append(partial)
            first.append(binary_for(wanted))
        return Builds()(wanted, partial)

    monkeypatch.setattr(isolated, "compile_apart", compile_apart)
    assert binary_for(wanted) == first[1]
    assert [path.name for path in folder.iterdir()] == [f"ops-{cache.key_of(wanted)}"]


@contextmanager
def held_until(messages, folder, wanted, caplog, then=lambda: None):
    """Hold the lock as another process would, until so many lines were said."""
    folder.mkdir(exist_ok=True)
    name = folder / f"ops-{cache.key_of(wanted)}"
    lock = FileLock(f"{name}.lock")
    name.with_suffix(".builder.txt").write_text("process 12 on host (since 2026-11-26 01:02:03)")

    class Release(logging.Handler):
        def emit(self, record):
            if len(caplog.messages) >= messages:
                then()
                lock.release()

    handler = Release()
    logger = logging.getLogger("ftbench")
    lock.acquire()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, logger="ftbench"):
            yield
    finally:
        logger.removeHandler(handler)
        lock.release()


def test_who_waits_says_for_whom_and_says_it_again(folder, wanted, builds, caplog):
    def finish():
        write_binary(folder / f"ops-{cache.key_of(wanted)}", wanted)

    with held_until(3, folder, wanted, caplog, finish):
        assert binary_for(wanted, repeat_seconds=0).exists()
    who = "for process 12 on host (since 2026-11-26 01:02:03) to compile ftbench's operators"
    assert caplog.messages[:3] == [f"waiting {who}", *[f"still waiting {who}"] * 2]
    assert not builds.wanted


def test_who_waits_is_told_who_compiles(monkeypatch, folder, wanted, builds):
    def compile_apart(wanted, partial):
        [note] = folder.glob("*.builder.txt")
        assert note.read_text().startswith(f"process {os.getpid()} on ")
        return Builds()(wanted, partial)

    monkeypatch.setattr(isolated, "compile_apart", compile_apart)
    binary_for(wanted)
    assert not list(folder.glob("*.builder.txt"))


def test_a_build_that_was_awaited_is_not_tried_again_by_each_who_waited(
    folder, wanted, builds, caplog, clock
):
    def fail():
        clock.now += 30
        failures = Failures(folder, f"ops-{cache.key_of(wanted)}-{circumstances()}", clock)
        failures.keep(CUT_SHORT)

    with (
        held_until(1, folder, wanted, caplog, fail),
        pytest.raises(build.CompilationError, match="in the process that was waited for"),
    ):
        binary_for(wanted, repeat_seconds=0, clock=clock)
    assert not builds.wanted
    clock.now += 1
    assert binary_for(wanted, clock=clock).exists()


def test_a_holder_of_the_lock_that_dies_leaves_the_work_to_who_waits(
    folder, wanted, builds, caplog
):
    with held_until(1, folder, wanted, caplog):
        assert binary_for(wanted, repeat_seconds=0).exists()
    assert builds.wanted == [wanted]


def test_what_a_killed_build_left_is_taken_away_a_day_later(folder, wanted, builds, clock):
    old, new = folder / "partial-ops-1-x", folder / "partial-ops-2-y"
    for path, age in ((old, DAY + 1), (new, DAY - 1)):
        (path / "csrc").mkdir(parents=True)
        os.utime(path, (clock.now - age, clock.now - age))
    binary_for(wanted, clock=clock)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize(
    ("cuda", "cores", "said"),
    [
        ("", 2, "for the CPU, about 60 s on 2 cores"),
        ("", 64, "for the CPU, about 30 s on 64 cores"),
        ("9.0", 2, "for the CPU and CUDA, about 80 s on 2 cores"),
    ],
)
def test_it_says_what_it_compiles_and_what_that_costs(
    monkeypatch, wanted, builds, caplog, cuda, cores, said
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
    with caplog.at_level(logging.WARNING, logger="ftbench"):
        binary_for(replace(wanted, cuda=cuda))
    [message] = caplog.messages
    assert message.startswith("compiling ftbench's operators for torch 2.15.0, once: ")
    assert said in message
