import errno
import json
import logging
import os
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ftbench.errors import StoreError
from ftbench.store import Store, latest, read_records, require_results
from tests.support import ROOT, environment_with, run_record, write_runs


def test_appended_records_are_read_back_in_order(tmp_path):
    records = [run_record(seed=seed, accuracy=1 / (seed + 3)) for seed in range(3)]
    with Store(tmp_path / "out") as store:
        for record in records:
            store.append(record)
    assert read_records(tmp_path / "out") == records


def test_every_record_is_synced_to_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def spy(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # a new file's directory is synced too
            synced.append((tmp_path / "runs.jsonl").read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with Store(tmp_path) as store:
        store.append(run_record(seed=0))
        store.append(run_record(seed=1))
    assert [data.count(b"\n") for data in synced] == [1, 2]


def test_a_directory_without_records_is_told_how_to_get_some(tmp_path):
    assert read_records(tmp_path / "absent") == []
    with pytest.raises(StoreError, match=r"no results directory .*absent; 'ftbench sweep' makes"):
        require_results(tmp_path / "absent")
    with pytest.raises(StoreError, match="holds no results yet; 'ftbench sweep --out"):
        require_results(tmp_path)


# Damage.


@pytest.mark.parametrize("cut", [1, 40, -2])
def test_a_torn_last_line_is_set_aside_and_nothing_else_lost(tmp_path, caplog, cut):
    kept = [run_record(seed=0), run_record(seed=1)]
    write_runs(tmp_path, kept)
    torn = run_record(seed=2).to_json().encode()[:cut]
    with open(tmp_path / "runs.jsonl", "ab") as file:
        file.write(torn)
    with Store(tmp_path) as store:
        assert store.records() == kept
        store.append(run_record(seed=3))
    assert "a torn last line was set aside in runs.torn" in caplog.text
    assert (tmp_path / "runs.torn").read_bytes() == torn + b"\n"
    assert read_records(tmp_path) == [*kept, run_record(seed=3)]


def test_a_torn_line_that_cannot_be_set_aside_is_a_message_and_stays(tmp_path):
    write_runs(tmp_path, [run_record()])
    with open(tmp_path / "runs.jsonl", "ab") as file:
        file.write(b'{"schema": 1, "key"')
    before = (tmp_path / "runs.jsonl").read_bytes()
    (tmp_path / "runs.torn").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*runs\.torn"), Store(tmp_path):
        pass
    assert (tmp_path / "runs.jsonl").read_bytes() == before


GARBAGE = {
    "text": b"garbage",
    "zeros after a power cut": bytes(64),
    "no UTF-8": b"\xff\xfe\x00\xd8",
    "a list": b"[1, 2]",
    "no schema": b'{"key": "abc"}',
    "fields missing": b'{"schema": 1, "key": "abc"}',
    "deep nesting": b"[" * 100_000,
    "fields of another type": b'{"schema": 1, "key": "k", "status": "ok", "message": "", '
    b'"identity": {}, "labels": {}}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_garbage_line_in_the_middle_is_skipped_with_its_number(tmp_path, caplog, garbage):
    first, last = run_record(seed=0), run_record(seed=1)
    lines = [first.to_json().encode(), garbage, last.to_json().encode(), b""]
    (tmp_path / "runs.jsonl").write_bytes(b"\n".join(lines))
    assert read_records(tmp_path) == [first, last]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{tmp_path / 'runs.jsonl'}, line 2" in warning
    assert "was skipped" in warning


# Other people's directories.


def test_another_projects_directory_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \(thesis\.tex\).*another --out"):
        Store(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ['{"loss": 1}\n{"loss": 2}\n', "step,loss\n1,2\n"])
def test_another_projects_runs_file_is_refused_and_left_as_it_was(tmp_path, text):
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(StoreError, match=r"runs\.jsonl holds no ftbench record; is this another"):
        Store(tmp_path).__enter__()
    with pytest.raises(StoreError, match="holds no ftbench record"):
        require_results(tmp_path)
    assert (tmp_path / "runs.jsonl").read_text() == text


def test_a_newer_schema_is_refused_and_left_as_it_was(tmp_path):
    newer = json.dumps({**json.loads(run_record().to_json()), "schema": 2}) + "\n"
    (tmp_path / "runs.jsonl").write_text(newer)
    with pytest.raises(StoreError, match=r"line 1 was written by a newer ftbench \(format 2, this"):
        Store(tmp_path).__enter__()
    assert (tmp_path / "runs.jsonl").read_text() == newer


def test_unknown_fields_of_a_record_do_no_harm(tmp_path):
    values = {**json.loads(run_record().to_json()), "added_in_a_patch": 1}
    (tmp_path / "runs.jsonl").write_text(json.dumps(values) + "\n")
    assert read_records(tmp_path) == [run_record()]


# Places that cannot be written to.


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*out: File exists; choose another"):
        Store(tmp_path / "out").__enter__()


@pytest.fixture
def unwritable():
    """A folder that this process may not write to, not even where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.rmdir()


def test_an_unwritable_directory_is_refused(unwritable):
    for directory in (unwritable, unwritable / "out"):
        with pytest.raises(StoreError, match=r"cannot write to .*: Permission denied; choose"):
            Store(directory).__enter__()


FILL = """
import resource, sys
from pathlib import Path
from ftbench.errors import StoreError
from ftbench.store import Store
from tests.support import run_record
resource.setrlimit(resource.RLIMIT_FSIZE, (5_300, 5_300))
with Store(Path(sys.argv[1])) as store:
    for seed in range(100):
        try:
            store.append(run_record(seed=seed))
        except StoreError as error:
            print(seed, error)
            break
"""


def test_a_full_disk_takes_back_the_half_line_and_keeps_the_finished_ones(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path],
        env=environment_with(ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    written, _, message = done.stdout.partition(" ")
    assert message.startswith(f"cannot write to {tmp_path / 'runs.jsonl'}: File too large")
    assert "the finished runs are safe, make room and run the same command again" in message
    assert (tmp_path / "runs.jsonl").read_bytes().endswith(b"}\n")
    assert [r.identity["seed"] for r in read_records(tmp_path)] == list(range(int(written)))
    assert int(written) > 1


def test_a_line_that_did_not_reach_the_disk_is_taken_back(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store(tmp_path) as store:
        store.append(run_record(seed=0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            with pytest.raises(StoreError, match="No space left on device; the finished runs are"):
                store.append(run_record(seed=1))
        assert store.records() == [run_record(seed=0)]
        store.append(run_record(seed=2))
    assert read_records(tmp_path) == [run_record(seed=0), run_record(seed=2)]


def test_a_full_disk_does_not_damage_a_file_that_is_replaced(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(tmp_path) as store:
        store.write_text("spec.toml", "old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        try:
            with pytest.raises(StoreError, match=r"cannot write .*spec\.toml: File too large"):
                store.write_text("spec.toml", "new" * 1_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "spec.toml").read_text() == "old"
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_latest_record_is_the_last_ok_one_or_else_the_last():
    failed, ok, late = (run_record(status=s) for s in ("failed", "ok", "timeout"))
    assert latest([failed, ok, late]) == {ok.key: ok}
    assert latest([failed, late]) == {late.key: late}
    assert len(latest([ok, run_record(seed=1)])) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("spec.toml", "task = 'mine'\n"), ("runs.jsonl", "half a line of something else")],
)
def test_files_of_another_project_by_our_names_are_refused_and_left_as_they_were(
    tmp_path, name, text
):
    (tmp_path / "main.c").write_text("int main;")
    (tmp_path / name).write_text(text)
    with pytest.raises(StoreError, match="choose another --out"), Store(tmp_path):
        pass
    assert (tmp_path / name).read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["main.c", name])
