import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ftbench.errors import FtbenchError
from ftbench.executors import Workers
from tests.executors.test_serial import Heard
from tests.support import ROOT, run_record, run_spec


@dataclass(frozen=True)
class Work:
    """Does what a run's seed says: 0 to 9 end well, in that many tenths of a second."""

    timeout_seconds: float | None = None

    def __call__(self, run, on_step, place):
        on_step(1, 2)
        if run.seed == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.seed == 12:
            ctypes.string_at(0)  # a segmentation fault
        if run.seed == 13:
            os._exit(7)
        if run.seed == 14:
            ctypes.PyDLL(None).sleep(60)  # in C, holding the interpreter
        if run.seed == 15:
            raise ValueError("not caught by the work")
        time.sleep(run.seed / 10 if run.seed < 10 else 0)
        on_step(2, 2)
        found = run_record(seed=run.seed)
        return replace(found, message=f"{os.getpid()} on {place}")

    def spoils(self, record):
        return record.identity["seed"] == 7

    def lost(self, run, place, status, message):
        return run_record(seed=run.seed, status=status, message=f"{place}: {message}")


def carried_out(seeds, places=("a", "b"), **options):
    heard = Heard()
    records = Workers(places).map([run_spec(seed=s) for s in seeds], Work(**options), heard)
    return {record.identity["seed"]: record for record in records}, heard


def test_every_run_is_announced_and_carried_out_once_by_as_many_processes_as_places():
    records, heard = carried_out([3, 0, 1, 2, 4, 0])
    assert set(records) == {0, 1, 2, 3, 4}
    assert {record.status for record in records.values()} == {"ok"}
    assert [event[1] for event in heard.events if event[0] == "start"] == [3, 0, 1, 2, 4, 0]
    homes = {record.message for record in records.values()}
    assert len(homes) == 2
    assert {home.split(" on ")[1] for home in homes} == {"a", "b"}
    assert str(os.getpid()) not in {home.split()[0] for home in homes}


def test_a_process_that_a_run_spoiled_carries_out_no_other():
    records, _ = carried_out([0, 7, 1, 2], places=("a",))
    homes = {seed: record.message.split()[0] for seed, record in records.items()}
    assert homes[0] == homes[7] != homes[1] == homes[2]


def test_a_worker_that_dies_between_two_runs_costs_none():
    class Kills(Heard):
        home = None

        def started(self, run):
            super().started(run)
            if self.home is not None:
                os.kill(self.home, signal.SIGKILL)
                time.sleep(1.0)
                self.home = None

    heard, records = Kills(), []
    for record in Workers(["a"]).map([run_spec(seed=s) for s in (0, 1, 2)], Work(), heard):
        records.append(record)
        # The next run is under way already; the one after it starts in a dead process.
        heard.home = int(record.message.split()[0]) if len(records) == 1 else None
    assert [record.status for record in records] == ["ok"] * 3
    assert len({record.message for record in records}) == 2


def test_steps_are_heard():
    _, heard = carried_out([9], places=("a",))
    assert ("step", 9, 1, 2) in heard.events


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (11, "a: its worker process was ended by SIGKILL, which is how Linux ends"),
        (12, "a: its worker process was ended by SIGSEGV"),
        (13, "a: its worker process ended with code 7"),
    ],
)
def test_a_worker_that_dies_costs_one_run_and_is_replaced(seed, said):
    records, _ = carried_out([seed, 1, 2], places=("a",))
    assert records[seed].status == "crashed"
    assert records[seed].message.startswith(said)
    assert [records[s].status for s in (1, 2)] == ["ok", "ok"]


def test_a_run_that_hangs_in_c_is_ended_at_its_limit(monkeypatch):
    monkeypatch.setattr("ftbench.executors.workers.GRACE", 0.5)
    began = time.monotonic()
    records, _ = carried_out([14, 1, 2], timeout_seconds=1.0)
    assert time.monotonic() - began < 30
    assert records[14].status == "timeout"
    assert "out of time: ended after" in records[14].message
    assert [records[s].status for s in (1, 2)] == ["ok", "ok"]


def test_what_the_work_does_not_catch_is_a_failed_run():
    records, _ = carried_out([15, 1], places=("a",))
    assert records[15].status == "failed"
    assert "ValueError: not caught by the work" in records[15].message
    assert records[1].status == "ok"


def test_runs_share_a_device_where_places_are_equal():
    assert Workers(["cpu", "cpu"]).shares_device
    assert not Workers(["cuda:0", "cuda:1"]).shares_device
    assert not Workers(["cpu", "cpu"]).shares_process


def test_work_that_cannot_be_sent_is_refused():
    with pytest.raises(FtbenchError, match=r"cannot be sent to worker processes .* --workers 0"):
        next(Workers(["a"]).map([run_spec()], lambda run, on_step, place: None, Heard()))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return status != "Z"


DRIVER = """
import sys
from tests.executors.test_workers import Work
from tests.executors.test_serial import Heard
from tests.support import run_spec
from ftbench.executors import Workers

if __name__ == "__main__":
    runs = [run_spec(seed=s) for s in (0, 0, 14, 14)]
    for record in Workers(["a", "b"]).map(runs, Work(), Heard()):
        print(record.message.split()[0], flush=True)
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_driver(tmp_path, how):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # What a shell started in the background ignores SIGINT, and so do its children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with driver.stdout:
        pids = [int(driver.stdout.readline()) for _ in range(2)]
    time.sleep(0.5)  # both hang in C now
    driver.send_signal(how)
    driver.wait(timeout=20)
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_closing_the_records_ends_the_workers():
    records = Workers(["a", "b"]).map([run_spec(seed=s) for s in (0, 9, 9, 9)], Work(), Heard())
    home = int(next(records).message.split()[0])
    records.close()
    assert not alive(home)
