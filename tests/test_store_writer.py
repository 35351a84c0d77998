"""One writer at a time, and what it finds of a writer that died."""

import json
import math
import os
import shutil

import pytest

from ftbench import store as store_module
from ftbench.errors import StoreError
from ftbench.store import SPEC_HEADER, Store, read_records
from tests.support import run_record, run_spec, write_runs


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


def edited(**changes):
    """Return a note of a run in progress with other values."""
    record = run_record("full")
    note = {
        "spec_key": "abc",
        "identity": record.identity,
        "labels": record.labels,
        "started_at": record.started_at,
    }
    return json.dumps({**note, **changes})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "5", "[" * 100_000, '{"spec_key": "a"}'),
        *(edited(spec_key=value) for value in ([], 5, None, "another", "abc\0")),
        *(edited(started_at=value) for value in (5, None, [])),
        *(edited(identity=value) for value in (5, {}, {**run_record().identity, "x": math.inf})),
        *(edited(labels=value) for value in (5, {}, {**run_record().labels, "x": math.nan})),
    ],
)
def test_a_damaged_note_is_no_obstacle(tmp_path, text):
    (tmp_path / ".running-abc").write_text(text)
    with Store(tmp_path) as store:
        assert store.records() == []
    assert not list(tmp_path.glob(".running-*"))


def test_a_note_whose_key_is_its_name_is_a_crash_and_a_directory_is_left_alone(tmp_path):
    (tmp_path / ".running-abc").write_text(edited(labels={**run_record().labels, "x": "\ud800"}))
    (tmp_path / ".running-abd").mkdir()
    for _ in range(2):
        with Store(tmp_path) as store:
            assert [(r.key, r.status) for r in store.records()] == [("abc", "crashed")]
    assert [path.name for path in tmp_path.glob(".running-*")] == [".running-abd"]


# A directory that is taken away.


def taken_away(directory):
    shutil.rmtree(directory)


def moved(directory):
    directory.rename(directory.with_name("elsewhere"))


def replaced(directory):
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def replaced_by_another_sweep(directory):
    replaced(directory)
    with Store(directory) as other:
        other.append(run_record("other", seed=9))


def emptied(directory):
    (directory / "runs.jsonl").unlink()


def cut(directory):
    os.truncate(directory / "runs.jsonl", 10)


def rewritten(directory):
    text = (directory / "runs.jsonl").read_bytes()
    (directory / "other").write_bytes(text.replace(b"full", b"fool"))
    (directory / "other").replace(directory / "runs.jsonl")


def saved_again(directory):
    (directory / "other").write_bytes((directory / "runs.jsonl").read_bytes())
    (directory / "other").replace(directory / "runs.jsonl")


def written_over(directory):
    with open(directory / "runs.jsonl", "w") as file:  # the same file, and a longer one
        file.writelines(run_record("other", seed=seed).to_json() + "\n" for seed in range(5))


def a_directory(directory):
    (directory / "runs.jsonl").unlink()
    (directory / "runs.jsonl").mkdir()


def copied(directory):
    directory.rename(directory.with_name("elsewhere"))
    shutil.copytree(directory.with_name("elsewhere"), directory)


TAKEN = [taken_away, moved, replaced, replaced_by_another_sweep, emptied, cut, rewritten]
TAKEN += [written_over, a_directory]


@pytest.mark.parametrize("take", TAKEN)
@pytest.mark.parametrize("next_step", ["begin", "append", "write_text", "check_in_place"])
def test_a_directory_that_is_taken_away_is_said_and_nothing_is_written_there(
    tmp_path, take, next_step
):
    out = tmp_path / "out"
    with Store(out) as store:
        store.append(run_record(seed=0))
        take(out)
        left = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        arguments = {
            "begin": [run_spec(seed=1)],
            "append": [run_record(seed=1)],
            "write_text": ["spec.toml", "x"],
            "check_in_place": [],
        }
        message = r"(is gone|was replaced|was cut) while the sweep ran, and its 1 records may be"
        with pytest.raises(StoreError, match=message) as caught:
            getattr(store, next_step)(*arguments[next_step])
        assert "are safe" not in str(caught.value)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == left
    if take is replaced_by_another_sweep:  # whose own files stay
        assert [r.labels["strategy"] for r in read_records(out)] == ["other"]


@pytest.mark.parametrize("renumber", [saved_again, copied])
def test_the_same_records_under_another_number_are_the_same(tmp_path, renumber):
    out = tmp_path / "out"
    with Store(out) as store:
        store.append(run_record(seed=0))
        renumber(out)
        store.append(run_record(seed=1))
    assert [r.identity["seed"] for r in read_records(out)] == [0, 1]
    assert not (out / ".lock-owner").exists()


def test_letting_go_of_a_replaced_directory_leaves_the_others_note(tmp_path):
    out = tmp_path / "out"
    store = Store(out)
    store.__enter__()
    replaced(out)
    with Store(out):
        note = (out / ".lock-owner").read_text()
        store.__exit__()
        assert (out / ".lock-owner").read_text() == note


def test_a_directory_that_vanishes_while_it_is_written_to_is_not_called_safe(tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = Store.check_in_place
    with Store(out) as store:
        store.append(run_record(seed=0))
        seen = []

        def check_once(checked):
            real(checked)
            if not seen:  # it vanishes between the look and the write
                shutil.rmtree(out)
            seen.append(1)

        monkeypatch.setattr(Store, "check_in_place", check_once)
        with pytest.raises(StoreError, match="is gone while the sweep ran"):
            store.begin(run_spec(seed=1))


def test_records_that_another_wrote_before_the_first_are_not_added_to(tmp_path):
    out = tmp_path / "out"
    with Store(out) as store:
        write_runs(out, [run_record("other", seed=9)])
        with pytest.raises(StoreError, match=r"runs\.jsonl was replaced while the sweep ran"):
            store.append(run_record(seed=0))
    assert len(read_records(out)) == 1


def test_a_spec_that_no_sweep_wrote_is_kept(tmp_path, caplog):
    write_runs(tmp_path, [run_record()])
    (tmp_path / "spec.toml").write_text("seeds = [5]  # mine\n")
    with Store(tmp_path) as store:
        store.write_spec("seeds = [0]\n")
        store.write_spec("seeds = [1]\n")
    assert (tmp_path / "spec.toml.old").read_text() == "seeds = [5]  # mine\n"
    assert (tmp_path / "spec.toml").read_text() == f"{SPEC_HEADER}\nseeds = [1]\n"
    assert "spec.toml was not written by a sweep; it is now spec.toml.old" in caplog.text


# Whose directory it is.


@pytest.mark.parametrize(
    "spec",
    [
        None,
        b"",
        b"edited by hand\n",
        b"# What the last sweep into this directory was asked for.\r\nseeds = [0]\r\n",
        b"\xef\xbb\xbf# What the last sweep into this directory was asked for.\r\n",
        b"\xff\xfe",
    ],
)
def test_the_records_say_whose_a_directory_is_whatever_became_of_the_spec(tmp_path, spec):
    write_runs(tmp_path, [run_record()])
    if spec is not None:
        (tmp_path / "spec.toml").write_bytes(spec)
    with Store(tmp_path) as store:
        assert len(store.records()) == 1


def test_records_with_other_line_ends_are_records(tmp_path):
    write_runs(tmp_path, [run_record(seed=0), run_record(seed=1)])
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    with Store(tmp_path) as store:
        store.append(run_record(seed=2))
        assert len(store.records()) == 3
    assert len(read_records(tmp_path)) == 3


def test_a_sweep_that_left_no_record_is_known_by_its_spec(tmp_path):
    (tmp_path / "spec.toml").write_bytes(SPEC_HEADER.encode() + b"\r\nseeds = [0]\r\n")
    with Store(tmp_path) as store:
        assert store.records() == []


# How often the file is read.


def test_the_records_are_read_once_however_often_they_are_asked_for(tmp_path, monkeypatch):
    write_runs(tmp_path, [run_record(seed=seed) for seed in range(3)])
    read = []
    real = store_module.read_records
    monkeypatch.setattr(store_module, "read_records", lambda d: (read.append(d), real(d))[1])
    with Store(tmp_path) as store:
        store.append(run_record(seed=3))
        assert [r.identity["seed"] for r in store.records()] == [0, 1, 2, 3]
    assert read == [tmp_path]


def test_what_another_wrote_before_the_lock_was_taken_is_read(tmp_path, monkeypatch):
    write_runs(tmp_path, [run_record(seed=0)])
    real = Store._acquire

    def acquire(store):
        write_runs(tmp_path, [run_record(seed=0), run_record(seed=1)])
        real(store)

    monkeypatch.setattr(Store, "_acquire", acquire)
    with Store(tmp_path) as store:
        assert len(store.records()) == 2
