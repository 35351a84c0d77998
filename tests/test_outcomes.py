"""What is kept of each test row: written before the record, read as one frame, missed in words."""

import re
import shutil

import numpy as np
import pytest
import torch

import ftbench
from ftbench import outcomes
from ftbench.store import Store, read_records
from ftbench.sweep import expand, run_sweep
from tests.support import run_record, tiny_sweep
from tests.tiny import TinyPlugin, TinyTask


@pytest.fixture
def swept(tmp_path, catalogue):
    run_sweep(tiny_sweep(seeds=(0, 1)), tmp_path / "out", catalogue=catalogue)
    return tmp_path / "out"


def test_outcomes_agree_with_the_scores_of_their_run(swept):
    frame, runs = ftbench.load_outcomes(swept), ftbench.load_results(swept).set_index("key")
    assert list(frame.columns) == ["key", "row", "correct", "nll"]
    assert len(frame) == 4 * 30
    for key, rows in frame.groupby("key"):
        assert rows["row"].tolist() == list(range(30))
        assert rows["correct"].mean() == pytest.approx(runs.accuracy[key])
        # float16 has three digits.
        assert rows["nll"].astype(float).mean() == pytest.approx(runs.nll[key], rel=1e-3)
    assert frame["correct"].dtype == bool
    assert frame["nll"].dtype == np.float16


def test_predictions_are_kept_on_request(tmp_path, catalogue):
    plan = run_sweep(tiny_sweep(keep="predictions"), tmp_path, catalogue=catalogue)
    frame = ftbench.load_outcomes(tmp_path)
    assert {"label", "predicted", "log_probabilities"} <= set(frame.columns)
    assert frame["label"].tolist() == 2 * TinyTask().test().targets.tolist()
    assert ((frame["label"] == frame["predicted"]) == frame["correct"]).all()
    chosen = np.stack(frame["log_probabilities"].to_list())
    own = chosen[np.arange(len(frame)), frame["label"]]
    np.testing.assert_allclose(-own, frame["nll"], rtol=2e-3, atol=2e-3)
    # What is kept changes no score, so it is no part of a run's key.
    assert [run.key for run in plan.runs] == [r.key for r in expand(tiny_sweep(), catalogue)]


def test_a_task_without_predictions_is_refused_when_they_are_asked_for(tmp_path):
    class Bare(TinyTask):
        predictions = ftbench.Task.predictions

    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=Bare)})
    with pytest.raises(
        ftbench.FtbenchError, match=r"'tiny' has no predictions\(\) to keep; set ke"
    ):
        run_sweep(tiny_sweep(keep="predictions"), tmp_path / "out", catalogue=catalogue)
    with pytest.raises(
        ftbench.FtbenchError, match=r"key 'keep': Input should be 'outcomes' or 'pred"
    ):
        tiny_sweep(keep="all")


@pytest.mark.parametrize("harm", ["lost", "torn", "empty", "another's"])
def test_outcomes_that_are_lost_or_torn_are_said_and_the_run_is_still_a_run(
    swept, harm, caplog, catalogue
):
    first, *others = sorted((swept / "outcomes").iterdir())
    if harm == "lost":
        first.unlink()
    elif harm == "torn":
        first.write_bytes(first.read_bytes()[:100])
    elif harm == "empty":
        first.write_bytes(b"")
    else:
        shutil.copy(others[-1], first)
    frame = ftbench.load_outcomes(swept)
    assert first.stem not in set(frame["key"])
    assert len(frame) == 3 * 30
    why = {"lost": "are missing", "another's": "are not those that the record was made with"}
    assert f"the outcomes of 1 of 4 runs {why.get(harm, 'are torn')}" in caplog.text
    assert (ftbench.load_results(swept)["status"] == "ok").all()
    assert run_sweep(tiny_sweep(seeds=(0, 1)), swept, catalogue=catalogue).pending == []


def test_a_resumed_and_a_merged_directory_keep_them(tmp_path, catalogue):
    one, other = tmp_path / "one", tmp_path / "other"
    run_sweep(tiny_sweep(), one, catalogue=catalogue)
    run_sweep(tiny_sweep(seeds=(0, 1)), one, catalogue=catalogue)
    assert len(ftbench.load_outcomes(one)) == 4 * 30
    run_sweep(tiny_sweep(seeds=(2,)), other, catalogue=catalogue)
    with open(one / "runs.jsonl", "ab") as file:
        file.write((other / "runs.jsonl").read_bytes())
    shutil.copytree(other / "outcomes", one / "outcomes", dirs_exist_ok=True)
    assert len(ftbench.load_outcomes(one)) == 6 * 30


def test_they_are_on_disk_before_the_record_is(tmp_path, monkeypatch):
    packed = outcomes.pack({"correct": np.array([True, False])})
    fields = {"outcomes_fingerprint": outcomes.fingerprint({"correct": np.array([True, False])})}
    record = run_record(protocol=fields)
    object.__setattr__(record, "outcomes", packed)
    with Store(tmp_path) as opened:
        before = opened._write_outcomes

        def first(written):
            assert read_records(tmp_path) == []
            before(written)

        monkeypatch.setattr(opened, "_write_outcomes", first)
        opened.append(record)
        assert opened.records()[0].outcomes == b""  # what is on the disk is not kept in memory
    assert ftbench.load_outcomes(tmp_path)["correct"].tolist() == [True, False]
    assert b"PK" not in (tmp_path / "runs.jsonl").read_bytes()


def test_records_of_before_there_were_outcomes_are_said(tmp_path, caplog):
    with Store(tmp_path) as opened:
        opened.append(run_record())
    assert ftbench.load_outcomes(tmp_path).empty
    assert "the outcomes of 1 of 1 runs were not kept by the ftbench that made" in caplog.text


def test_the_same_outcomes_have_one_fingerprint_in_any_order():
    one = {"a": np.arange(3), "b": np.ones(3, dtype=np.float16)}
    assert outcomes.fingerprint(one) == outcomes.fingerprint(dict(reversed(one.items())))
    assert outcomes.fingerprint(outcomes.unpack(outcomes.pack(one))) == outcomes.fingerprint(one)
    assert outcomes.fingerprint({**one, "a": np.arange(3.0)}) != outcomes.fingerprint(one)
    with pytest.raises(ValueError, match="one entry a row"):
        outcomes.unpack(outcomes.pack({"a": np.arange(3), "b": np.arange(2)}))


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("outcomes", None, r"outcomes\(\) returned None; expected a dict of tensors, one entry"),
        ("outcomes", {"label": 3}, r"outcomes\(\) has label as 3; expected a dict of tensors"),
        ("outcomes", {"label": torch.ones(2)}, r"has label as a tensor of shape \(2,\)"),
        ("kept", {"loss": torch.ones(())}, r"kept\(\) has loss as a tensor of shape \(\)"),
        ("kept", {"row": torch.ones(30)}, r"kept\(\) has row as a name; call it otherwise"),
    ],
)
def test_what_a_task_keeps_has_one_entry_a_row(tiny_run, method, answer, message):
    odd = type("Odd", (TinyTask,), {method: lambda self, *_: answer})
    record = tiny_run(task=odd)
    assert record.status == "failed"
    assert re.search(message, record.message), record.message


def test_no_outputs_outlive_their_batch(tiny_run):
    """Nothing of vocabulary or image size is kept: batches of 256 rows are reduced one by one."""
    sizes = []

    class Wide(TinyTask):
        def test(self):
            rows = super().test()
            return rows.subset(np.arange(600) % 30)

        def outcomes(self, outputs, targets):
            sizes.append(len(outputs))
            return super().outcomes(outputs, targets)

    assert tiny_run(task=Wide).status == "ok"
    assert sizes == [256, 256, 88]
