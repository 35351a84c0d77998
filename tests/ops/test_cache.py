"""The cache of operators compiled on first use: what is found, who waits, what is remembered."""

import logging
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
from filelock import FileLock

from ftbench.ops import backend, build, cache, isolated

DAY = 24 * 3600
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A cache, and a compiler that only has to say its version."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho g++ 1.0\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wanted():
    return build.Stamp("2.15.0", "0123456789abcdef", "")


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Builds:
    """Stands in for the process that compiles; ``came`` is what comes of each."""

    def __init__(self):
        self.came, self.wanted = [], []

    def __call__(self, wanted, folder):
        self.wanted.append(wanted)
        came = self.came.pop(0) if self.came else wanted
        if isinstance(came, isolated.Outcome):
            return came
        return isolated.Outcome(write_binary(folder / "_C", came))


@pytest.fixture
def builds(monkeypatch):
    builds = Builds()
    monkeypatch.setattr(isolated, "compile_apart", builds)
    return builds


def write_binary(folder, stamp):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"_C{cache.importlib.machinery.EXTENSION_SUFFIXES[0]}"
    path.write_bytes(b"\x7fELF ftbench-stamp:" + str(stamp).encode() + b":\0")
    return path


REFUSED = isolated.Outcome(None, "x.cpp:3: error: no", verdict=True)
CUT_SHORT = isolated.Outcome(None, "no space", summary="No space left on device")


def test_what_was_compiled_once_is_found_again(folder, wanted, builds):
    made = cache.binary_for(wanted)
    assert cache.binary_for(wanted) == made
    assert build.read_stamp(made) == wanted
    assert len(builds.wanted) == 1
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == [
        f"ops-{cache.key_of(wanted)}"
    ]


@pytest.mark.parametrize(
    "other", [{"torch": "2.14.0"}, {"sources": "f" * 16}, {"sanitize": "address"}, None]
)
def test_a_binary_that_is_not_what_it_should_be_is_compiled_anew(folder, wanted, builds, other):
    place = folder / f"ops-{cache.key_of(wanted)}"
    binary = write_binary(place, "no stamp" if other is None else replace(wanted, **other))
    found = cache.binary_for(wanted)
    assert (found, build.read_stamp(found)) == (binary, wanted)
    assert builds.wanted == [wanted]


def test_a_binary_that_does_more_serves_as_well(folder, wanted, builds):
    more = replace(wanted, cuda="9.0")
    made = cache.binary_for(more)
    assert cache.binary_for(wanted) == made
    assert builds.wanted == [more]
    assert cache.binary_for(replace(wanted, cuda="8.0")) != made


def test_another_compilers_binary_serves_only_where_there_is_no_compiler(
    monkeypatch, folder, wanted, builds, tmp_path
):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "compiler_version", lambda: "an older one")
        older = cache.binary_for(wanted)
    newer = cache.binary_for(wanted)
    assert newer != older
    shutil.rmtree(newer.parent)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nkill -SEGV $$\n")
    broken.chmod(0o755)
    for compiler in ("no-such-compiler", str(broken)):
        monkeypatch.setenv("CXX", compiler)
        assert cache.binary_for(wanted) == older
    with pytest.raises(build.BuildError, match=r"the C\+\+ compiler .*broken fails with exit"):
        cache.binary_for(replace(wanted, torch="2.16.0"))


def test_another_pythons_binary_is_not_taken(folder, wanted, builds):
    place = folder / "ops-of-another"
    write_binary(place, wanted).rename(place / "_C.cpython-39-x86_64-linux-gnu.so")
    cache.binary_for(wanted)
    assert builds.wanted == [wanted]


def test_a_binary_that_is_there_needs_no_lock(monkeypatch, folder, wanted, builds):
    made = cache.binary_for(wanted)

    def lock(path):
        raise AssertionError(f"{path} was locked")

    monkeypatch.setattr(cache, "FileLock", lock)
    assert cache.binary_for(wanted) == made


@pytest.mark.parametrize("error", [PermissionError(13, "not yours"), NotImplementedError("none")])
def test_where_nothing_can_be_locked_binaries_are_made_beside_each_other(
    monkeypatch, folder, wanted, builds, error
):
    class NoLock:
        is_locked = False

        def __init__(self, path):
            pass

        def acquire(self, timeout):
            raise error

    monkeypatch.setattr(cache, "FileLock", NoLock)
    first = []

    def compile_apart(wanted, partial):
        if not first:  # another is done meanwhile
            first.append(partial)
            first.append(cache.binary_for(wanted))
        return Builds()(wanted, partial)

    monkeypatch.setattr(isolated, "compile_apart", compile_apart)
    assert cache.binary_for(wanted) == first[1]
    assert [path.name for path in folder.iterdir()] == [f"ops-{cache.key_of(wanted)}"]


def test_a_failed_build_leaves_nothing_but_what_was_said(folder, wanted, builds):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        cache.binary_for(wanted)
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".txt"]


def test_the_compilers_verdict_is_believed_for_a_day(folder, wanted, builds, clock):
    builds.came = [REFUSED, REFUSED]
    with pytest.raises(build.CompilationError, match="compiling failed; ") as failed:
        cache.binary_for(wanted, clock=clock)
    [log] = folder.glob("*.failed.txt")
    assert log.read_text() == "x.cpp:3: error: no"
    assert str(log) in str(failed.value)
    clock.now += DAY - 1
    with pytest.raises(build.CompilationError, match="compiling failed before; ") as remembered:
        cache.binary_for(wanted, clock=clock)
    assert len(builds.wanted) == 1
    again = r"tried again from \d{4}-\d\d-\d\d \d\d:\d\d on, at once by `ftbench doctor --build`"
    assert re.search(again, str(failed.value)).group() == (
        re.search(again, str(remembered.value)).group()
    )
    clock.now += 1
    with pytest.raises(build.CompilationError, match="compiling failed; "):
        cache.binary_for(wanted, clock=clock)
    clock.now += DAY
    assert cache.binary_for(wanted, clock=clock).exists()
    assert len(builds.wanted) == 3


def test_a_verdict_from_the_future_is_not_believed(wanted, builds, clock):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        cache.binary_for(wanted, clock=clock)
    clock.now -= 3600  # the clock was wrong, and was set
    assert cache.binary_for(wanted, clock=clock).exists()


@pytest.mark.parametrize("change", ["flags", "compiler", "torch", "sources", "asked"])
def test_a_verdict_is_on_one_torch_compiler_and_environment(
    monkeypatch, wanted, builds, clock, change
):
    builds.came = [REFUSED]
    with pytest.raises(build.CompilationError):
        cache.binary_for(wanted, clock=clock)
    if change == "flags":
        monkeypatch.setenv("CPATH", "/opt/include")
    elif change == "compiler":  # mended, and as new as it says it was
        path = build.compiler()
        with open(path, "a") as file:
            file.write("# mended\n")
    elif change == "asked":
        cache.forget_failures()
    else:
        wanted = replace(wanted, **{change: "other"})
    assert cache.binary_for(wanted, clock=clock).exists()


def test_what_cut_a_build_short_is_forgotten_at_once(folder, wanted, builds, clock):
    builds.came = [CUT_SHORT]
    said = "compiling was cut short: No space left on device .*; the next use tries again"
    with pytest.raises(build.CompilationError, match=said):
        cache.binary_for(wanted, clock=clock)
    [log] = folder.glob("*.interrupted.txt")
    assert log.read_text() == "no space"
    clock.now += 1
    assert cache.binary_for(wanted, clock=clock).exists()


@contextmanager
def held_until(messages, folder, wanted, caplog, then=lambda: None):
    """Hold the lock as another process would, until so many lines were said."""
    folder.mkdir(exist_ok=True)
    name = folder / f"ops-{cache.key_of(wanted)}"
    lock = FileLock(f"{name}.lock")
    name.with_suffix(".builder.txt").write_text("process 12 on host (since 2026-11-26 01:02:03)")

    class Release(logging.Handler):
        def emit(self, record):
            if len(caplog.messages) >= messages:
                then()
                lock.release()

    handler = Release()
    logger = logging.getLogger("ftbench")
    lock.acquire()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, logger="ftbench"):
            yield
    finally:
        logger.removeHandler(handler)
        lock.release()


def test_who_waits_says_for_whom_and_says_it_again(folder, wanted, builds, caplog):
    def finish():
        write_binary(folder / f"ops-{cache.key_of(wanted)}", wanted)

    with held_until(3, folder, wanted, caplog, finish):
        assert cache.binary_for(wanted, repeat_seconds=0).exists()
    who = "for process 12 on host (since 2026-11-26 01:02:03) to compile ftbench's operators"
    assert caplog.messages[:3] == [f"waiting {who}", *[f"still waiting {who}"] * 2]
    assert not builds.wanted


def test_who_waits_is_told_who_compiles(monkeypatch, folder, wanted, builds):
    def compile_apart(wanted, partial):
        [note] = folder.glob("*.builder.txt")
        assert note.read_text().startswith(f"process {os.getpid()} on ")
        return Builds()(wanted, partial)

    monkeypatch.setattr(isolated, "compile_apart", compile_apart)
    cache.binary_for(wanted)
    assert not list(folder.glob("*.builder.txt"))


def test_a_build_that_was_awaited_is_not_tried_again_by_each_who_waited(
    folder, wanted, builds, caplog, clock
):
    def fail():
        clock.now += 30
        failures = cache._Failures(
            folder, f"ops-{cache.key_of(wanted)}-{cache._circumstances()}", clock
        )
        failures.keep(CUT_SHORT)

    with (
        held_until(1, folder, wanted, caplog, fail),
        pytest.raises(build.CompilationError, match="in the process that was waited for"),
    ):
        cache.binary_for(wanted, repeat_seconds=0, clock=clock)
    assert not builds.wanted
    clock.now += 1
    assert cache.binary_for(wanted, clock=clock).exists()


def test_a_holder_of_the_lock_that_dies_leaves_the_work_to_who_waits(
    folder, wanted, builds, caplog
):
    with held_until(1, folder, wanted, caplog):
        assert cache.binary_for(wanted, repeat_seconds=0).exists()
    assert builds.wanted == [wanted]


def test_what_a_killed_build_left_is_taken_away_a_day_later(folder, wanted, builds, clock):
    old, new = folder / "partial-ops-1-x", folder / "partial-ops-2-y"
    for path, age in ((old, DAY + 1), (new, DAY - 1)):
        (path / "csrc").mkdir(parents=True)
        os.utime(path, (clock.now - age, clock.now - age))
    cache.binary_for(wanted, clock=clock)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize(
    ("cuda", "cores", "said"),
    [
        ("", 2, "for the CPU, about 60 s on 2 cores"),
        ("", 64, "for the CPU, about 30 s on 64 cores"),
        ("9.0", 2, "for the CPU and CUDA, about 80 s on 2 cores"),
    ],
)
def test_it_says_what_it_compiles_and_what_that_costs(
    monkeypatch, wanted, builds, caplog, cuda, cores, said
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
    with caplog.at_level(logging.WARNING, logger="ftbench"):
        cache.binary_for(replace(wanted, cuda=cuda))
    [message] = caplog.messages
    assert message.startswith("compiling ftbench's operators for torch 2.15.0, once: ")
    assert said in message


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    for named, expected in (
        ("/shared/cache", "/shared/cache"),
        ("here", f"{tmp_path}/here"),
        ("~/kept", "/home/me/kept"),
        ("", "/xdg/ftbench"),
    ):
        monkeypatch.setenv("FTBENCH_CACHE", named)
        assert str(cache.cache_folder()) == expected
    for base in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert str(cache.cache_folder()) == "/home/me/.cache/ftbench"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, wanted):
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("FTBENCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(build.BuildError, match="there is no home folder to keep") as error:
        cache.binary_for(wanted)
    assert error.value.advice == "set FTBENCH_CACHE to a folder that you can write to"
    cache.forget_failures()


@pytest.mark.parametrize("kind", ["a file", "a file above it", "too long"])
def test_a_cache_that_cannot_be_one_is_named(monkeypatch, tmp_path, wanted, builds, kind):
    (tmp_path / "file").write_text("")
    named = {
        "a file": tmp_path / "file",
        "a file above it": tmp_path / "file" / "cache",
        "too long": tmp_path / ("x" * 300),
    }[kind]
    monkeypatch.setenv("FTBENCH_CACHE", str(named))
    with pytest.raises(build.BuildError, match=f"the cache {named} cannot be used: ") as error:
        cache.binary_for(wanted)
    assert "FTBENCH_CACHE" in error.value.advice
    assert not builds.wanted
    cache.forget_failures()


def test_a_second_binary_is_not_loaded_into_one_process(tmp_path, monkeypatch):
    loaded = tmp_path / "loaded.so"
    monkeypatch.setattr(backend, "_loaded", {loaded: None})
    other = tmp_path / "other.so"
    with pytest.raises(build.BuildError, match=r"other\.so cannot be loaded: .*loaded\.so is, in"):
        backend._load(other, build.Stamp("2", "abc", ""), "why")
