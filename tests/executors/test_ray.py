"""Runs on Ray: a real one, of two nodes on this machine."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ftbench import SweepSpec, run_sweep
from ftbench.errors import FtbenchError, SpecError
from ftbench.executors import Cluster, OnRay
from ftbench.results import load_results
from tests.executors.test_serial import Heard
from tests.support import ROOT, environment_with, run_record, run_spec

ray = pytest.importorskip("ray")
# Ray leaves sockets and files to the collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.xdist_group("ray"),
]


@dataclass(frozen=True)
class Work:
    """Does what a run's seed says; ``notes`` is a folder in which each try leaves a file."""

    notes: Path
    timeout_seconds: float | None = None

    def __call__(self, run, on_step, place):
        before = len(list(self.notes.glob(f"{run.seed}-*")))
        node = ray.get_runtime_context().get_node_id()
        (self.notes / f"{run.seed}-{before}").write_text(f"{os.getpid()} {node}")
        on_step(1, 2)
        if run.seed == 11 or (run.seed == 12 and not before):
            os.kill(os.getpid(), signal.SIGKILL)
        if run.seed == 14:
            ctypes.PyDLL(None).sleep(60)  # in C, holding the interpreter
        if run.seed == 15:
            raise ValueError("not caught by the work")
        if run.seed == 16 and not before:
            time.sleep(60)  # until its node is gone
        time.sleep(0.2)
        on_step(2, 2)
        return replace(run_record(seed=run.seed), message=f"{node} {before}")

    def spoils(self, record):
        return False

    def lost(self, run, place, status, message):
        return run_record(seed=run.seed, status=status, message=message)


def _nothing(work, place):
    return ""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, this process connected to them."""
    from ray.cluster_utils import Cluster as Nodes

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    nodes = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    nodes.add_node(num_cpus=1, labels={"kind": "second"})
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def carried_out(seeds, folder, *, check=_nothing, during=None, **options):
    folder.mkdir(exist_ok=True)
    heard, found = Heard(), {}
    executor = OnRay(Cluster(), check)
    runs = [run_spec(seed=seed) for seed in seeds]
    for record in executor.map(runs, Work(folder, **options), heard):
        found[record.identity["seed"]] = record
    return found, heard


def test_runs_go_to_every_node_and_each_is_announced_once(cluster, tmp_path):
    executor = OnRay(Cluster(), _nothing)
    assert (executor.at_once, executor.shares_device, executor.shares_process) == (2, False, False)
    records, heard = carried_out([1, 2, 3, 4, 5, 6], tmp_path)
    assert {record.status for record in records.values()} == {"ok"}
    assert len({record.message for record in records.values()}) == 2
    assert sorted(event[1] for event in heard.events if event[0] == "start") == [1, 2, 3, 4, 5, 6]
    assert OnRay(Cluster(), _nothing, at_most=1).at_once == 1


def test_a_lost_worker_is_tried_again_three_times_in_all(cluster, tmp_path):
    records, heard = carried_out([11, 12, 1], tmp_path)
    assert records[12].status == "ok"
    assert records[12].message.endswith(" 1")  # in the second try
    assert records[11].status == "crashed"
    assert records[11].message.startswith("lost 3 times")
    assert len(list(tmp_path.glob("11-*"))) == 3
    assert [event[1] for event in heard.events if event[0] == "start"].count(11) == 1


def test_a_run_over_its_time_in_c_is_ended_and_an_error_is_a_record(cluster, tmp_path):
    records, _ = carried_out([14, 15, 1], tmp_path, timeout_seconds=1.0)
    assert records[14].status == "timeout"
    assert "its limit is 1" in records[14].message
    assert len(list(tmp_path.glob("14-*"))) == 1  # not tried again
    assert records[15].status == "failed"
    assert "ValueError: not caught by the work" in records[15].message
    assert records[1].status == "ok"


def test_what_no_node_can_give_is_refused_before_the_start(cluster):
    with pytest.raises(SpecError, match=r"no node .* asks for \(2 CPU\); it has .*1 CPU, 0 GPU"):
        OnRay(Cluster(threads=2), _nothing)
    with pytest.raises(SpecError, match=r"1 CPU, 0\.5 GPU"):
        OnRay(Cluster(device="cuda", runs_per_gpu=2), _nothing)
    with pytest.raises(SpecError, match="label kind=third"):
        OnRay(Cluster(labels={"kind": "third"}), _nothing)


def test_labels_choose_the_nodes(cluster, tmp_path):
    executor = OnRay(Cluster(labels={"kind": "second"}), _nothing)
    assert executor.at_once == 1
    runs = [run_spec(seed=seed) for seed in (1, 2, 3)]
    records = list(executor.map(runs, Work(tmp_path), Heard()))
    second = next(n["NodeID"] for n in ray.nodes() if n["Labels"].get("kind") == "second")
    assert {record.message.split()[0] for record in records} == {second}


def test_a_node_that_lacks_the_data_is_named_before_the_start(cluster, tmp_path):
    head = ray.get_runtime_context().get_node_id()
    second = next(n["NodeID"] for n in ray.nodes() if n["NodeID"] != head)

    def check(work, place):
        here = ray.get_runtime_context().get_node_id()
        return "no folder /data" if here == second else ""

    with pytest.raises(FtbenchError, match=rf"node \S+ \({second[:8]}\): no folder /data"):
        carried_out([1], tmp_path, check=check)
    assert not list(tmp_path.iterdir())


def test_a_node_that_is_killed_costs_a_try_and_no_run(cluster, tmp_path):
    doomed = [cluster.add_node(num_cpus=1, labels={"kind": "doomed"}) for _ in range(2)]
    cluster.wait_for_nodes()
    killed = []

    class Kills(Heard):
        def stepped(self, run, step, total):
            super().stepped(run, step, total)
            if run.seed == 16 and not killed:
                where = (tmp_path / "16-0").read_text().split()[1]
                killed.append(where)
                node = next(node for node in doomed if node.node_id == where)
                cluster.remove_node(node, allow_graceful=False)

    executor = OnRay(Cluster(labels={"kind": "doomed"}), _nothing)
    assert executor.at_once == 2
    runs = [run_spec(seed=seed) for seed in (16, 1, 2)]
    records = {r.identity["seed"]: r for r in executor.map(runs, Work(tmp_path), Kills())}
    assert {record.status for record in records.values()} == {"ok"}
    node, tries_before = records[16].message.split()
    assert tries_before == "1"
    assert killed != [node]


def test_a_sweep_ends_where_no_node_is_left_that_could_go_on(cluster, tmp_path):
    last = cluster.add_node(num_cpus=1, labels={"kind": "last"})
    cluster.wait_for_nodes()
    killed = []

    class Kills(Heard):
        def stepped(self, run, step, total):
            if not killed:
                killed.append(run)
                cluster.remove_node(last, allow_graceful=False)

    executor = OnRay(Cluster(labels={"kind": "last"}), _nothing)
    with pytest.raises(SpecError, match=r"no node .* label kind=last"):
        list(executor.map([run_spec(seed=16)], Work(tmp_path), Kills()))
    assert killed


SWEEP = (
    *("sweep", "--strategies", "head-only,full", "--sizes", "20", "--num-seeds", "2"),
    *("--steps", "30", "--executor", "ray", "--workers", "2"),
)


def _scores(directory):
    table = load_results(directory).sort_values(["strategy", "size", "seed"])
    return table[["strategy", "size", "seed", "status", "accuracy", "nll"]].to_dict("records")


def test_a_sweep_whose_driver_is_killed_goes_on_and_ends_as_one_in_this_process(tmp_path):
    command = [sys.executable, "-m", "ftbench", *SWEEP, "--out", str(tmp_path / "ray")]
    environment = environment_with()
    environment.pop("FTBENCH_WORKERS", None)
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    runs = tmp_path / "ray" / "runs.jsonl"
    deadline = time.monotonic() + 90
    while not (runs.exists() and runs.read_bytes().count(b"\n") >= 1):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(raylet)" not in done.stdout
    spec = SweepSpec.model_validate(
        {
            "strategies": ["head-only", "full"],
            "sizes": [20],
            "seeds": [0, 1],
            "recipe": {"steps": 30},
        }
    )
    run_sweep(spec, tmp_path / "here")
    assert _scores(tmp_path / "ray") == _scores(tmp_path / "here")
