import os

import numpy as np
import pytest

import ftbench
from ftbench.errors import SpecError, StoreError
from ftbench.store import read_records
from ftbench.sweep import Progress, run_sweep
from tests.support import tiny_sweep
from tests.tiny import TinyPlugin


def test_a_sweep_leaves_a_record_a_run_and_the_derived_files(tmp_path, catalogue):
    plan = run_sweep(tiny_sweep(seeds=(0, 1)), tmp_path, catalogue=catalogue)
    assert (len(plan.runs), len(plan.pending), len(plan.done)) == (4, 0, 4)
    assert [record.status for record in read_records(tmp_path)] == ["ok"] * 4
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        *("runs.jsonl", "spec.toml", "results.csv", "results.parquet", "outcomes")
    }
    assert ftbench.load_spec(tmp_path / "spec.toml") == tiny_sweep(seeds=(0, 1))


def test_a_sweep_skips_completed_runs(tmp_path, catalogue):
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    before = (tmp_path / "runs.jsonl").read_bytes()
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert (tmp_path / "runs.jsonl").read_bytes() == before
    run_sweep(tiny_sweep(seeds=(0, 1)), tmp_path, catalogue=catalogue)
    assert [r.identity["seed"] for r in read_records(tmp_path)] == [0, 0, 1, 1]


class Fails(ftbench.Strategy):
    name = "fails"
    attempts = 0

    def prepare(self, model, data):
        type(self).attempts += 1
        raise ValueError("always")


def test_a_failed_run_is_a_record_and_the_others_go_on(tmp_path, catalogue):
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin([Fails])})
    spec = tiny_sweep(strategies=("fails", "full"), seeds=(0, 1))
    Fails.attempts = 0
    plan = run_sweep(spec, tmp_path, catalogue=catalogue)
    assert sorted(r.status for r in plan.done.values()) == ["failed", "failed", "ok", "ok"]
    run_sweep(spec, tmp_path, catalogue=catalogue)
    assert Fails.attempts == 4
    run_sweep(spec, tmp_path, catalogue=catalogue, retry=())
    assert Fails.attempts == 4


class OddScores(TinyPlugin.Task):
    """A third party's scores, as numbers of NumPy."""

    def score(self, outcomes):
        return {"accuracy": np.float32(0.5)}


def test_scores_of_another_number_type_are_stored_or_a_failed_run_but_end_no_sweep(tmp_path):
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=OddScores)})
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert len(read_records(tmp_path)) == 2


def test_each_record_is_on_disk_before_the_next_run_starts(tmp_path, catalogue):
    seen = []

    class Spy(Progress):
        def started(self, run):
            seen.append(("start", len(read_records(tmp_path))))

        def finished(self, record):
            seen.append(("end", len(read_records(tmp_path))))

    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue, progress=Spy())
    assert seen == [("start", 0), ("end", 1), ("start", 1), ("end", 2)]


def test_an_interrupt_writes_the_derived_files_and_leaves_no_crash(tmp_path, catalogue):
    class Impatient(Progress):
        runs = 0

        def stepped(self, run, step, total_steps):
            self.runs += step == 1
            if self.runs == 2:
                raise KeyboardInterrupt

    spec = tiny_sweep(seeds=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec, tmp_path, catalogue=catalogue, progress=Impatient())
    assert len(ftbench.load_results(tmp_path)) == 1
    assert (tmp_path / "results.csv").read_text().count("\n") == 2
    run_sweep(spec, tmp_path, catalogue=catalogue)
    assert [r.status for r in read_records(tmp_path)] == ["ok"] * 4


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, catalogue):
    spec = tiny_sweep().model_copy(update={"device": "cuda:99"})
    with pytest.raises(SpecError, match=r"device cuda:99 is not there.*use --device cpu or auto"):
        run_sweep(spec, tmp_path / "out", catalogue=catalogue)
    assert not (tmp_path / "out").exists()


def test_another_projects_directory_is_not_swept_into(tmp_path, catalogue):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(StoreError, match="holds other files"):
        run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert not (tmp_path / "spec.toml").exists()


def test_data_that_changes_after_planning_fails_the_run_with_the_reason(tmp_path, catalogue):
    class Shifting(TinyPlugin.Task):
        calls = 0

        def fingerprint(self):
            type(self).calls += 1
            return f"call {self.calls}"

    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=Shifting)})
    plan = run_sweep(tiny_sweep(strategies=("full",)), tmp_path, catalogue=catalogue)
    [record] = plan.done.values()
    assert record.status == "failed"
    assert "of task 'tiny' changed since the sweep was planned" in record.message


def test_a_seed_of_any_length_is_refused_or_runs_and_loads(tmp_path, catalogue):
    try:
        spec = tiny_sweep(seeds=(2**70,), strategies=("full",))
    except SpecError:
        return  # refused by the spec
    run_sweep(spec, tmp_path, catalogue=catalogue)
    assert len(ftbench.load_results(tmp_path)) == 1


@pytest.mark.parametrize("spec", ["spec.toml", {"strategies": ["full"]}, None])
def test_what_is_no_spec_is_told_how_to_make_one(tmp_path, spec):
    with pytest.raises(SpecError, match=r"wants an ftbench.SweepSpec, got \w+; make one of it by"):
        run_sweep(spec, tmp_path)


def test_what_to_retry_may_be_a_comma_list_and_is_checked(tmp_path, catalogue):
    with pytest.raises(SpecError, match="unknown status 'faild'; did you mean 'failed'"):
        run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue, retry=["faild"])
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue, retry="failed,crashed")


def test_a_strategy_may_change_the_working_directory(tmp_path, monkeypatch):
    class Wanders(ftbench.Strategy):
        name = "wanders"

        def prepare(self, model, data):
            os.chdir("/")

    monkeypatch.chdir(tmp_path)
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin([Wanders])})
    run_sweep(tiny_sweep(strategies=("wanders",), seeds=(0, 1)), "out", catalogue=catalogue)
    assert [r.status for r in read_records(tmp_path / "out")] == ["ok", "ok"]
