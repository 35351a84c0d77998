"""One writer at a time, and what it finds of a writer that died."""

import os

import pytest

from ftbench.errors import StoreError
from ftbench.store import Store
from tests.support import run_record, run_spec


def test_a_second_writer_is_told_who_holds_the_directory(tmp_path):
    with Store(tmp_path):
        with pytest.raises(StoreError, match=rf"is in use by process {os.getpid()} on \S+ since"):
            Store(tmp_path).__enter__()
        # The refused one must not have taken the holder's name away.
        with pytest.raises(StoreError, match=rf"is in use by process {os.getpid()}"):
            Store(tmp_path).__enter__()
    with Store(tmp_path):
        pass


def test_the_lock_is_free_again_after_an_opening_that_failed(tmp_path):
    (tmp_path / "runs.jsonl").write_text("not ours\n")
    with pytest.raises(StoreError, match="no ftbench record"):
        Store(tmp_path).__enter__()
    (tmp_path / "runs.jsonl").unlink()
    with Store(tmp_path):
        pass


def test_the_lock_is_free_again_where_its_owner_could_not_be_noted(tmp_path):
    (tmp_path / ".lock-owner").mkdir()
    failed = Store(tmp_path)
    with pytest.raises(StoreError, match="cannot write to"):
        failed.__enter__()
    (tmp_path / ".lock-owner").rmdir()
    with Store(tmp_path):
        pass


# A run in progress.


def test_a_run_that_a_dead_process_left_becomes_crashed(tmp_path):
    spec = run_spec("ewc", seed=4)
    with Store(tmp_path) as store:
        store.begin(spec)  # and no more: the process was killed
    with Store(tmp_path) as store:
        [record] = store.records()
    assert (record.status, record.key, record.labels["strategy"]) == ("crashed", spec.key, "ewc")
    assert record.identity == spec.identity()
    assert "the process ended during this run" in record.message
    with Store(tmp_path) as store:
        assert len(store.records()) == 1


@pytest.mark.parametrize("ended", ["append", "forgotten"])
def test_a_run_that_ended_leaves_no_crash(tmp_path, ended):
    spec = run_spec("full")
    with Store(tmp_path) as store:
        store.begin(spec)
        if ended == "append":
            store.append(run_record("full"))
        else:
            store.forget_running()
    with Store(tmp_path) as store:
        assert [r.status for r in store.records()] == (["ok"] if ended == "append" else [])


def test_a_death_between_the_record_and_the_notes_removal_is_no_crash(tmp_path):
    with Store(tmp_path) as store:
        store.begin(run_spec("full"))
        [note] = tmp_path.glob(".running-*")
        text = note.read_text()
        store.append(run_record("full", started_at="2099-01-01T00:00:00.000+00:00"))
        note.write_text(text)
    with Store(tmp_path) as store:
        assert [r.status for r in store.records()] == ["ok"]
    assert not list(tmp_path.glob(".running-*"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec_key": "a"}'])
def test_a_damaged_note_is_no_obstacle(tmp_path, text):
    (tmp_path / ".running-abc").write_text(text)
    with Store(tmp_path) as store:
        assert store.records() == []
    assert not list(tmp_path.glob(".running-*"))
