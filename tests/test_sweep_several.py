"""Sweeps over several tasks and backbones, and what travels to another process."""

import json
import os
import pickle
import subprocess
import sys

import pytest

import ftbench
from ftbench import store
from ftbench.errors import PluginError, SpecError
from ftbench.executors import Serial
from ftbench.lines import LineReader
from ftbench.plugins import load_catalogue
from ftbench.run import RunWork
from ftbench.sweep import estimate_seconds, expand, make_plan, plan_for, reasons, run_sweep
from tests.support import ROOT, run_record, run_spec, tiny_sweep
from tests.tiny import TinyNet, TinyPlugin, TinyTask


class SmallTask(TinyTask):
    """The tiny task with a pool of 30 rows."""

    name = "small"

    def pool(self):
        """Return half of the rows."""
        return super().pool().subset(range(30))


class OtherNet(TinyNet):
    """The tiny backbone by another name."""

    name = "other-net"


class Both(TinyPlugin):
    """Offers two tasks and two backbones."""

    @ftbench.hookimpl
    def ftbench_tasks(self):
        """Return both tasks."""
        return [TinyTask, SmallTask]

    @ftbench.hookimpl
    def ftbench_backbones(self):
        """Return both backbones."""
        return [TinyNet, OtherNet]


@pytest.fixture
def both():
    """A catalogue with two tasks and two backbones."""
    return load_catalogue(extra={"both": Both()})


def several(**changes):
    """Return the spec of a sweep over both tasks and backbones."""
    return tiny_sweep(tasks=("tiny", "small"), backbones=("tiny-net", "other-net"), **changes)


def test_the_grid_goes_seed_by_seed_over_tasks_backbones_and_sizes(both):
    runs = expand(several(sizes=("50%", 6), seeds=(1, 0), strategies=("full",)), both)
    found = [(r.seed, r.task.label, r.backbone.label, r.size) for r in runs]
    assert found == [
        (seed, task, backbone, size)
        for seed in (1, 0)
        for task, half in (("tiny", 30), ("small", 15))
        for backbone in ("tiny-net", "other-net")
        for size in (half, 6)
    ]
    assert len({run.key for run in runs}) == len(runs)


def test_a_size_that_one_task_cannot_give_names_the_task(both):
    with pytest.raises(SpecError, match="task 'small': size 40 is larger than the pool of 30"):
        expand(several(sizes=(40,)), both)


@pytest.mark.parametrize("key", ["tasks", "backbones"])
def test_a_task_or_backbone_twice_is_refused(both, key):
    names = {"tasks": ("tiny", "tiny"), "backbones": ("other-net", "other-net()")}[key]
    with pytest.raises(SpecError, match=f"{key[:-1]} '.*' is in the spec twice, as"):
        expand(tiny_sweep(**{key: names}), both)


def test_a_list_in_an_option_is_a_grid_of_tasks():
    spec = ftbench.SweepSpec(
        tasks=("digits(split=['stratified', 'blocks'])",), strategies=("full",), sizes=(20,)
    )
    labels = [run.task.label for run in expand(spec, load_catalogue())]
    assert labels == ["digits", "digits(split='blocks')"] * 5


def test_every_task_and_backbone_has_its_table_and_its_name_in_the_messages(tmp_path, both):
    plan = run_sweep(several(strategies=("full",)), tmp_path, catalogue=both)
    frame = ftbench.load_results(tmp_path)
    assert frame["status"].eq("ok").all()
    assert frame.groupby(["task", "backbone"]).size().tolist() == [1, 1, 1, 1]
    assert frame["condition"].nunique() == 4
    names = [plan.name(run) for run in plan.runs]
    assert names[0] == "full on tiny from tiny-net at size 12, seed 0"
    assert [plan.name(record) for record in plan.records] == names
    alone = plan_for(tiny_sweep(), tmp_path, both)
    assert alone.name(alone.runs[0]) == "full at size 12, seed 0"


def test_a_new_task_is_the_reason(tmp_path, both):
    run_sweep(tiny_sweep(strategies=("full",)), tmp_path, catalogue=both)
    plan = plan_for(several(strategies=("full",)), tmp_path, both)
    assert reasons(plan) == {
        "backbone.name: 'other-net' is new": 1,
        "task.name: 'small' is new": 1,
        "task.name: 'small' is new, backbone.name: 'other-net' is new": 1,
    }


def test_an_estimate_knows_task_and_recipe():
    done = [run_record(seed=0), run_record(seed=0, task="letters", steps=300)]
    assert estimate_seconds(make_plan([run_spec(seed=1, task="other")], done)) is None
    assert estimate_seconds(make_plan([run_spec(seed=1)], done)) == pytest.approx(3.0)


def test_an_estimate_for_a_gpu_does_not_count_a_processors_seconds():
    runs, done = [run_spec(seed=1)], [run_record(seed=0)]
    assert estimate_seconds(make_plan(runs, done, device_type="cuda")) is None


def test_a_resumed_sweep_reads_its_records_once(tmp_path, catalogue, monkeypatch):
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    parsed = []
    read = LineReader.read
    monkeypatch.setattr(LineReader, "read", lambda *args: parsed.append(args[1]) or read(*args))
    plan = run_sweep(tiny_sweep(seeds=(0, 1)), tmp_path, catalogue=catalogue)
    assert len(parsed) == 2
    assert len(plan.records) == len(plan.done) == 4


def test_records_that_another_sweep_wrote_meanwhile_are_seen(tmp_path, catalogue):
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    held = store.snapshot(tmp_path)
    run_sweep(tiny_sweep(seeds=(1,)), tmp_path, catalogue=catalogue)
    with store.Store(tmp_path, held) as opened:
        assert len(opened.records()) == 4


# Work that goes to another process.

CARRIED = """
import json, pickle, sys
work, runs = pickle.load(sys.stdin.buffer)
records = [work(run, lambda step, total: None, "cpu") for run in runs]
print(json.dumps([[r.status, r.message, r.scores] for r in records]))
"""


def test_work_gives_the_same_scores_in_a_process_of_its_own(tmp_path, both):
    runs = expand(several(seeds=(3,)), both)
    work = RunWork(None, shares_device=False, shares_process=False, catalogue=both)
    done = subprocess.run(
        [sys.executable, "-c", CARRIED],
        input=pickle.dumps((work, runs)),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    here = [work(run, lambda step, total: None, "cpu") for run in runs]
    assert found == [[r.status, r.message, dict(r.scores)] for r in here]
    assert {status for status, _, _ in found} == {"ok"}


def test_a_plugin_that_cannot_travel_is_named():
    class Local(TinyPlugin):
        pass

    catalogue = load_catalogue(extra={"notebook": Local()})
    with pytest.raises(PluginError, match="plugin 'notebook' cannot be sent to another process"):
        pickle.dumps(catalogue)


def test_the_executor_says_what_runs_share(catalogue):
    [run] = expand(tiny_sweep(strategies=("full",)), catalogue)
    alone, shared = (
        RunWork(None, shares_device=s, shares_process=s, catalogue=catalogue)(
            run, lambda step, total: None, "cpu"
        )
        for s in (Serial.shares_device, True)
    )
    assert alone.protocol["shared_device"] is False
    assert shared.protocol["shared_device"] is True
    assert alone.costs["peak_memory_bytes"] is not None
    assert shared.costs["peak_memory_bytes"] is None
