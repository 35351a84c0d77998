"""Real processes, killed and interrupted: nothing that was finished is lost, and scores stay."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ftbench
from ftbench.cli import main
from ftbench.report.formats.csv import comma_separated
from ftbench.report.tables import summarize
from ftbench.store import Store, read_records
from tests.support import (
    STUCK_SECONDS,
    TINY_FLAGS,
    environment_with,
    ftbench_process,
    tiny_distribution,
)

# Imports once, then runs the command in one fork after the other. Each but the last kills itself
# at a call that is drawn: every other one at a call from the store, the others from anywhere.
KILLER = """
import json, os, random, signal, sys
import ftbench.cli, ftbench.cli.sweeping, ftbench_tiny
import pandas, pyarrow.parquet, sklearn.metrics, torch._dynamo  # what a run would import

def kill_at(call, code):
    def count(frame, event, argument):
        nonlocal call
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(code):
            call -= 1
            if call == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)

# The sweep has some 400 calls from the store and 200,000 in all, its start 50 and 40,000.
package = os.path.dirname(ftbench.__file__)
kinds = [(200, os.path.join(package, "store")), (100_000, package)]
most_kills, arguments, draws, endings = int(sys.argv[1]), sys.argv[2:], random.Random(4), []
while not endings or os.WIFSIGNALED(endings[-1]):
    most, code = kinds[len(endings) % 2]
    call, child = draws.randrange(most), os.fork()
    if child == 0:
        if len(endings) < most_kills:
            kill_at(1 + call, code)
        sys.argv = ["ftbench", *arguments]
        try:
            ftbench.cli.main()
        except SystemExit as stop:
            sys.stdout.flush()
            os._exit(stop.code or 0)
    endings.append(os.waitpid(child, 0)[1])
print(json.dumps(endings), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder where the tiny task is installed."""
    return tiny_distribution(tmp_path_factory.mktemp("site"))


def slow_sweep(out, seeds=3):
    """Return the arguments of a sweep of 2 × ``seeds`` runs."""
    strategies = "slow(seconds=0.0),ewc(samples=10)"
    grid = ["--strategies", strategies, "--sizes", "12", "--num-seeds", seeds]
    return [*map(str, ["sweep", *TINY_FLAGS, *grid, "--out", out])]


def waiting_after(runs, site):
    """Return the environment of a process that has the tiny task, and whose sweep does not end.

    Its ``slow`` runs wait once there were so many of them, so that it is there however late it is
    interrupted.
    """
    return {**environment_with(site), "TINY_WAITS_AFTER": str(runs)}


def sweep_undisturbed(site, out, **grid):
    """Sweep to the end, in this process: it is the quickest to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setattr(sys, "argv", ["ftbench", *slow_sweep(out, **grid)])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()


def sweep_under_fire(site, out, kills):
    """Sweep to the end through that many ``kill -9``; return how many took effect."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(kills), *slow_sweep(out)],
        env=environment_with(site),
        capture_output=True,
        text=True,
        timeout=STUCK_SECONDS,
        check=True,
    )
    *killed, last = json.loads(done.stderr.splitlines()[-1])
    assert last == 0, done.stderr
    return len(killed)


@pytest.fixture(scope="module")
def undisturbed(site, tmp_path_factory):
    """The results of a sweep that nothing interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    sweep_undisturbed(site, out)
    return out


def assert_same_to_the_last_digit(out, undisturbed):
    """Assert equal scores and score tables of two directories."""
    found, expected = ftbench.load_results(out), ftbench.load_results(undisturbed)
    scores = ["accuracy", "macro_f1", "nll", "ece", "source_accuracy_after", "final_loss"]
    columns = ["key", "status", "subset_fingerprint", *scores]
    assert found[columns].to_dict("records") == expected[columns].to_dict("records")
    tables = [comma_separated(summarize(frame, m)) for frame in (found, expected) for m in scores]
    assert tables[: len(scores)] == tables[len(scores) :]


def wait_for(condition, process):
    """Wait until the condition holds; fail where the process ends first."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)  # lets the process have the processor


def lines(out):
    """Return how many whole lines runs.jsonl has."""
    path = out / "runs.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_at_most_the_run_in_progress(site, undisturbed, tmp_path):
    out = tmp_path / "out"
    kills = sweep_under_fire(site, out, 12)
    assert kills >= 3
    records = read_records(out)
    ok = [record.key for record in records if record.status == "ok"]
    assert len(ok) == len(set(ok)) == 6  # none ran again once it had ended well
    assert {record.status for record in records} <= {"ok", "crashed"}
    assert len(records) - len(ok) <= kills
    assert_same_to_the_last_digit(out, undisturbed)


def test_kill_9_in_a_run_makes_it_crashed_and_its_lock_is_no_obstacle(site, tmp_path):
    out = tmp_path / "out"
    process = ftbench_process(slow_sweep(out, seeds=1), env=waiting_after(0, site))
    wait_for(lambda: list(out.glob(".running-*")), process)
    process.kill()
    process.communicate()
    assert (out / ".lock-owner").exists()
    sweep_undisturbed(site, out, seeds=1)
    assert [record.status for record in read_records(out)] == ["crashed", "ok", "ok"]
    crashed = read_records(out)[0]
    assert crashed.labels["strategy"] == "slow(seconds=0.0)"
    assert "the process ended during this run" in crashed.message


@pytest.mark.slow
def test_ctrl_c_exits_130_with_the_finished_runs_and_goes_on(site, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = ftbench_process(slow_sweep(out), env=waiting_after(2, site))
    wait_for(lambda: lines(out) == 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"every finished run is in {out}, the same command goes on from there" in err
    assert lines(out) == 4
    assert (out / "results.csv").read_text().count("\n") == 4 + 1
    assert (out / "results.parquet").exists()
    sweep_undisturbed(site, out)
    assert [record.status for record in read_records(out)] == ["ok"] * 6
    assert_same_to_the_last_digit(out, undisturbed)


@pytest.mark.slow
def test_a_second_sweep_into_the_same_directory_names_the_holder_and_stops(site, tmp_path):
    out = tmp_path / "out"
    first = ftbench_process(slow_sweep(out, seeds=1), env=waiting_after(0, site))
    try:
        wait_for(lambda: list(out.glob(".running-*")), first)
        second = ftbench_process(slow_sweep(out, seeds=1), site)
        _, err = second.communicate(timeout=STUCK_SECONDS)
        assert second.returncode == 2
        assert f"{out} is in use by process {first.pid} on " in err
        assert "wait for it, or choose another --out" in err
        assert "Traceback" not in err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    with Store(out) as store:
        assert [record.status for record in store.records()] == ["crashed"]


@pytest.mark.slow
def test_a_full_disk_keeps_every_finished_run_and_the_same_command_goes_on(
    site, undisturbed, tmp_path
):
    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    out = tmp_path / "out"
    process = ftbench_process(slow_sweep(out), site, preexec_fn=small_disk)
    _, err = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert (
        f"cannot write to {out / 'runs.jsonl'}: File too large; the finished runs are safe" in err
    )
    assert "make room and run the same command again" in err
    finished = [record.status for record in read_records(out)]
    assert 1 <= len(finished) < 6
    assert set(finished) == {"ok"}
    assert len(ftbench.load_results(out)) == len(finished)
    sweep_undisturbed(site, out)
    assert_same_to_the_last_digit(out, undisturbed)


def with_workers(out, seconds=0.4):
    """Return the arguments of a sweep in two worker processes, each run of which takes a while."""
    grid = ["--strategies", f"slow(seconds={seconds}),ewc(samples=10)", "--sizes", "12"]
    return [
        *map(str, ["sweep", *TINY_FLAGS, *grid, "--num-seeds", 3, "--workers", 2, "--out", out])
    ]


def workers_of(process):
    """Return the ids of the processes that a driver's forks have become, whatever they do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, rest = path.read_text().rpartition(")")[::2]
            state, parent = rest.split()[:2]
            if state != "Z":
                found.append((int(parent), int(name.split()[0])))
    servers = [child for parent, child in found if parent == process.pid]
    return [child for parent, child in found if parent in servers]


def is_alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_sweep_in_workers_that_is_ended_leaves_no_orphan_and_goes_on(site, tmp_path, how, code):
    out = tmp_path / "out"
    process = ftbench_process(with_workers(out), site)
    wait_for(lambda: lines(out) >= 2, process)
    wait_for(lambda: list(out.glob(".running-*")), process)
    workers = workers_of(process)
    assert len(workers) >= 2
    process.send_signal(how)
    _, err = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == code
    wait_until_gone(workers)
    assert "Traceback" not in err
    assert lines(out) < 6
    if how != signal.SIGKILL:
        return
    again = ftbench_process(with_workers(out), site)
    _, err = again.communicate(timeout=STUCK_SECONDS)
    assert again.returncode == 0, err
    whole = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        arguments = with_workers(whole)
        arguments[arguments.index("--workers") + 1] = "0"
        patch.setattr(sys, "argv", ["ftbench", *arguments])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
    found, expected = (
        ftbench.load_results(folder).sort_values("key", ignore_index=True)
        for folder in (out, whole)
    )
    columns = ["key", "status", "accuracy", "nll", "source_accuracy_after", "final_loss"]
    assert found[columns].equals(expected[columns])


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_run_alone(site, tmp_path):
    out = tmp_path / "out"
    process = ftbench_process(with_workers(out), site)
    wait_for(lambda: list(out.glob(".running-*")) and len(workers_of(process)) >= 2, process)
    wait_for(lambda: lines(out) >= 1, process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=STUCK_SECONDS)
    statuses = sorted(record.status for record in read_records(out))
    assert statuses in (["crashed", *["ok"] * 5], ["ok"] * 6), err  # between two runs: none
    if "crashed" in statuses:
        assert process.returncode == 1
        assert "its worker process was ended by SIGKILL" in err
    assert not list(out.glob(".running-*"))


@pytest.mark.slow
def test_two_sweeps_share_a_cache_though_one_is_killed(site, undisturbed, tmp_path):
    shared = {"FTBENCH_CACHE": str(tmp_path / "cache"), "FTBENCH_CACHE_GB": "1"}
    environment = {**environment_with(site), **shared}
    first, second = tmp_path / "first", tmp_path / "second"
    doomed, other = (ftbench_process(slow_sweep(o), env=environment) for o in (first, second))
    wait_for(lambda: lines(first) >= 1 or doomed.poll() is not None, other)
    doomed.kill()
    doomed.communicate()
    again = ftbench_process(slow_sweep(first), env=environment)
    for process in (other, again):
        _, err = process.communicate(timeout=STUCK_SECONDS)
        assert process.returncode == 0, err
    assert list((tmp_path / "cache" / "runs").rglob("*.safetensors"))
    for out in (first, second):
        assert_same_to_the_last_digit(out, undisturbed)
