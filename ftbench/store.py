"""The results directory: records appended durably by one writer, read back whatever happened."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftbench.errors import StoreError
from ftbench.lines import FOREIGN, LineReader, parse
from ftbench.memory import making_many
from ftbench.records import SCHEMA, RunRecord, RunSpec, labels_of, utc_now

RUNS = "runs.jsonl"
SPEC = "spec.toml"
TORN = "runs.torn"
OUTCOMES = "outcomes"  # the folder of a run's results row by row, a file each
SPEC_HEADER = "# What the last sweep into this directory was asked for."
RECORD_START = b'{"schema":'
_LOCK = ".lock"
_OWNER = ".lock-owner"
_RUNNING = ".running"
_log = logging.getLogger("ftbench")


def read_records(directory: Path) -> list[RunRecord]:
    """Return every readable record in the order written; [] where none was.

    A line that is no record is skipped with a warning. StoreError where the file is another
    program's or a newer ftbench's.
    """
    path = directory / RUNS
    records, problems, reader = [], [], LineReader(path)
    try:
        with open(path, "rb") as file, making_many():
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                found = reader.read(line, number)
                if isinstance(found, RunRecord):
                    records.append(found)
                # What follows the last newline is being written, or torn; the writer's start says
                # so.
                elif line.endswith(b"\n"):
                    problems.append((number, found))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if problems and not records:
        ours = [problem for problem in problems if problem[1] not in FOREIGN]
        if not ours:
            raise StoreError(
                f"{path} holds no ftbench record; is this another project's directory?"
            )
        raise StoreError(f"{path} holds no record that can be read; line %d: %s" % ours[0])
    for number, problem in problems:
        _log.warning("%s, line %d is not a record and was skipped: %s", path, number, problem)
    return records


@dataclass(frozen=True)
class Snapshot:
    """The records of a directory, and what its file was like when they were read."""

    records: Sequence[RunRecord] = ()
    state: tuple[int, int, int] | None = None


NOTHING = Snapshot()


def require_results(directory: Path) -> Snapshot:
    """Return the records of a directory; StoreError where it holds none."""
    if not directory.is_dir():
        raise StoreError(f"there is no results directory {directory}; 'ftbench sweep' makes one")
    state = _state(directory / RUNS)
    records = read_records(directory)
    if not records:
        raise StoreError(f"{directory} holds no results yet; 'ftbench sweep --out {directory}'")
    return Snapshot(records, state)


def snapshot(directory: Path) -> Snapshot:
    """Return the records of a directory that a sweep may write to: see read_own_records."""
    state = _state(directory / RUNS)  # before the reading: what is written meanwhile is new
    return Snapshot(read_own_records(directory), state)


def read_own_records(directory: Path) -> list[RunRecord]:
    """Return the records of a directory that a sweep may write to, which need not be there yet.

    The records say whose it is; where there is none, a spec.toml that a sweep wrote. StoreError
    where it holds another project's files or a newer ftbench's records.
    """
    if not directory.is_dir():
        return []
    runs, spec = directory / RUNS, directory / SPEC
    records = read_records(directory)
    if records:
        return records
    if runs.exists():
        torn = runs.read_bytes()
        if not torn.startswith(RECORD_START[: len(torn)]):
            raise StoreError(f"{runs} holds no ftbench record; choose another --out")
        return []
    if spec.exists():
        if not _is_a_sweeps(spec):
            raise StoreError(f"{spec} was not written by a sweep; choose another --out")
        return []
    names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
    if names:
        raise StoreError(
            f"{directory} holds other files ({', '.join(names[:3])}) and no "
            "ftbench results; choose another --out"
        )
    return []


def _is_a_sweeps(spec: Path) -> bool:
    # Whatever line ends an editor gave it.
    return spec.read_bytes().removeprefix(b"\xef\xbb\xbf").startswith(SPEC_HEADER.encode())


def runs_in_progress(directory: Path) -> list[dict[str, Any]]:
    """Return what a sweep that writes to a directory has noted of the runs it is carrying out.

    Of each run ``identity``, ``labels`` and ``started_at``, in the order of their start.
    """
    found = []
    for path in directory.glob(f"{_RUNNING}-*"):
        with contextlib.suppress(OSError, ValueError):  # it ended meanwhile
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and "started_at" in values:
                found.append(values)
    return sorted(found, key=lambda values: str(values["started_at"]))


def is_being_written(directory: Path) -> bool:
    """Return whether a sweep is at work in a directory, as far as can be seen from here.

    One that was killed is not; of one on another machine nobody can tell.
    """
    try:
        words = (directory / _OWNER).read_text(encoding="utf-8").split()
        process, host = int(words[1]), words[3]
    except (OSError, ValueError, IndexError):
        return False
    if host != socket.gethostname() or os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def latest(records: Iterable[RunRecord]) -> dict[str, RunRecord]:
    """Return one record a key: the last that is ok, or else the last attempt."""
    chosen: dict[str, RunRecord] = {}
    for record in records:
        if record.status == "ok" or chosen.get(record.key, record).status != "ok":
            chosen[record.key] = record
    return chosen


class Store:
    """The one writer of a results directory; a context manager that holds its lock.

    Opening sets aside a torn last line, and turns the run that a killed process left in progress
    into a ``crashed`` record.
    """

    def __init__(self, directory: Path, known: Snapshot | None = None) -> None:
        """``known`` are records that were read already; they are read again where they changed."""
        self.directory = directory
        self._known = known
        self._path = directory / RUNS
        self._lock: Any = None
        self._records: list[RunRecord] = []
        self._note = ""  # in the lock's owner file
        self._places: dict[Path, tuple[int, int]] = {}  # device and inode of what was opened
        self._size, self._tail = 0, b""  # of runs.jsonl, as this writer left it

    def __enter__(self) -> Store:
        """Make the directory where needed, take the lock, mend what a dead process left."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Before anything is written there; and again below where another wrote meanwhile.
            known = snapshot(self.directory) if self._known is None else self._known
            self._acquire()
        except OSError as error:
            self._release()
            raise StoreError(
                f"cannot write to {self.directory}: {error.strerror or error}; choose another --out"
            ) from error
        try:
            self._set_torn_line_aside()
            if _state(self._path) != known.state:
                known = snapshot(self.directory)
            self._records = list(known.records)
            self._note_places()
            self._record_crash()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the lock."""
        self._release()

    def records(self) -> list[RunRecord]:
        """Return every record so far; the file is not read again."""
        return list(self._records)

    def check_in_place(self) -> None:
        """Raise StoreError where the directory or its records are no longer those it opened."""
        for path in (self.directory, self._path):
            place, found = self._places.get(path), _stat(path)
            if place is None and found is None:
                continue  # no record is written yet
            if found is None:
                what = "is gone"
            elif path == self._path and found.st_size < self._size:
                what = "was cut"
            # Some file systems number a file anew now and then, and numbers are used again: what
            # is in it says what it is.
            elif not self._is_known(path) and (path == self._path or _place(path) != place):
                what = "was replaced"
            else:
                continue
            raise StoreError(
                f"{path} {what} while the sweep ran, and its {len(self._records)} records may be "
                "lost; move back what was moved away, or run the same command again to repeat "
                "what is lost"
            )

    def _is_known(self, path: Path) -> bool:
        """Return whether a directory has this writer's note, or a file its last record."""
        with contextlib.suppress(OSError):
            if path == self.directory:
                return (path / _OWNER).read_text(encoding="utf-8") == self._note
            return path in self._places and _tail_of(path, self._size) == self._tail
        return False

    def begin(self, spec: RunSpec) -> None:
        """Note the run that starts now, so that a death in it is known."""
        running = {
            "spec_key": spec.key,
            "identity": spec.identity(),
            "labels": labels_of(spec),
            "started_at": utc_now(),
        }
        self.write_text(f"{_RUNNING}-{spec.key[:16]}", json.dumps(running))

    def forget_running(self) -> None:
        """Forget the runs in progress, which were stopped on purpose."""
        for path in self.directory.glob(f"{_RUNNING}-*"):
            if path.is_file():
                path.unlink(missing_ok=True)

    def append(self, record: RunRecord) -> None:
        """Write its outcomes, then one line, and wait until both are on the disk.

        A line that did not fit is taken back, so that what is there stays readable.
        """
        data = record.to_json().encode() + b"\n"
        self.check_in_place()
        if record.outcomes:
            self._write_outcomes(record)
        is_new = not self._path.exists()
        before = 0 if is_new else self._path.stat().st_size
        try:
            with open(self._path, "ab", buffering=0) as file:
                written = file.write(data)
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            if is_new:
                _sync_directory(self.directory)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left is a torn line, mended at next start
                os.truncate(self._path, before)
            self.check_in_place()
            raise StoreError(
                f"cannot write to {self._path}: {error.strerror}; the finished runs are safe, "
                "make room and run the same command again"
            ) from error
        # What is on the disk need not be kept in memory.
        self._records.append(replace(record, outcomes=b""))
        self._note_places()
        (self.directory / f"{_RUNNING}-{record.key[:16]}").unlink(missing_ok=True)

    def note(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a line of JSON to a file of the directory."""
        try:
            with open(self.directory / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise self._cannot_write(self.directory / name, error) from error

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the directory in one step."""
        self._replace(self.directory / name, text.encode())

    def _write_outcomes(self, record: RunRecord) -> None:
        folder = self.directory / OUTCOMES
        try:
            is_new = not folder.is_dir()
            folder.mkdir(exist_ok=True)
            if is_new:
                _sync_directory(self.directory)
        except OSError as error:
            raise self._cannot_write(folder, error) from error
        self._replace(folder / f"{record.key}.npz", record.outcomes)
        _sync_directory(folder)

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        self.check_in_place()
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._cannot_write(path, error) from error

    def _cannot_write(self, path: Path, error: OSError) -> StoreError:
        """Return the error to raise; raises another where the directory itself is gone."""
        self.check_in_place()
        return StoreError(
            f"cannot write {path}: {error.strerror}; the finished runs are safe, "
            "make room and run the same command again"
        )

    def write_spec(self, text: str) -> None:
        """Write what was asked for; what somebody else wrote in its place is kept beside it."""
        path = self.directory / SPEC
        if path.exists() and not _is_a_sweeps(path):
            path.replace(self.directory / f"{SPEC}.old")
            _log.warning("%s was not written by a sweep; it is now %s.old", path, SPEC)
        self.write_text(SPEC, f"{SPEC_HEADER}\n{text}")

    def _note_places(self) -> None:
        """Note which directory and which file are written to, and how far the file goes."""
        for path in (self.directory, self._path):
            place = _place(path)
            if place is not None:
                self._places[path] = place
        if self._path in self._places:
            self._size = self._path.stat().st_size
            self._tail = _tail_of(self._path, self._size)

    def _acquire(self) -> None:
        import filelock

        self._lock = filelock.FileLock(self.directory / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            with contextlib.suppress(OSError):
                note = (self.directory / _OWNER).read_text(encoding="utf-8")
                holder = note.partition("\n")[0]
                raise StoreError(
                    f"{self.directory} is in use by {holder}; wait for it, or choose another --out"
                ) from None
            raise StoreError(f"{self.directory} is in use by another sweep") from None
        since = f"process {os.getpid()} on {socket.gethostname()} since {utc_now()}"
        self._note = f"{since}\n{uuid.uuid4()}\n"  # no other writer's
        (self.directory / _OWNER).write_text(self._note, encoding="utf-8")

    def _release(self) -> None:
        if self._lock is None or not self._lock.is_locked:
            return  # another's
        # In another directory by that name, the note is another's.
        if self._is_known(self.directory):
            with contextlib.suppress(OSError):
                (self.directory / _OWNER).unlink(missing_ok=True)
        self._lock.release()

    def _set_torn_line_aside(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return
        try:
            if isinstance(parse(data[end:], f"{self._path}, last line"), RunRecord):
                with open(self._path, "ab") as file:
                    file.write(b"\n")  # all that was lost
                return
            with open(self.directory / TORN, "ab") as file:
                file.write(data[end:] + b"\n")
            os.truncate(self._path, end)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.directory / TORN}: {error.strerror}; the finished runs are "
                "safe, make room and run the same command again"
            ) from error
        _log.warning("%s: a torn last line was set aside in %s", self._path, TORN)

    def _record_crash(self) -> None:
        for path, record in self._interrupted():
            self.append(record)
            path.unlink(missing_ok=True)

    def _interrupted(self) -> Iterator[tuple[Path, RunRecord]]:
        """Yield each run in progress with its note; what tells of no run is removed."""
        finished = {r.key: r.started_at for r in self._records}
        for path in sorted(self.directory.glob(f"{_RUNNING}-*")):
            if not path.is_file():
                continue  # no sweep's
            record = _crashed(path)
            if record is not None and finished.get(record.key, "") < record.started_at:
                yield path, record
            else:
                path.unlink()  # died while writing it, or between the record and its removal


def _crashed(path: Path) -> RunRecord | None:
    """Return the record of a run that a note says was in progress; None where it says none."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        values = {
            "schema": SCHEMA,
            "key": note["spec_key"],
            "status": "crashed",
            "message": "the process ended during this run",
            **{name: note[name] for name in ("identity", "labels", "started_at")},
        }
        found = parse(json.dumps(values, allow_nan=False).encode(), str(path))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if isinstance(found, RunRecord) and path.name == f"{_RUNNING}-{found.key[:16]}":
        return found
    return None  # its name, by which it is removed, is another run's


def _place(path: Path) -> tuple[int, int] | None:
    """Return device and inode of what a path names; None where there is nothing."""
    found = _stat(path)
    return None if found is None else (found.st_dev, found.st_ino)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever a file is written or replaced; None where there is none."""
    found = _stat(path)
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _tail_of(path: Path, size: int) -> bytes:
    """Return the last bytes, 4096 at most, of what a file held when it was ``size`` bytes long."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 4096))
        return file.read(min(size, 4096))


def _sync_directory(directory: Path) -> None:
    """Wait until a new file's name is on the disk, as its contents are."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
