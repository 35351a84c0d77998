"""Compiling apart: what the process sees, and which failures are the compiler's word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftbench.ops import build
from ftbench.ops.first_use import isolated
from tests.ops.first_use.fake_compiler import FakeCompiler


@pytest.fixture
def wanted():
    return build.wanted_stamp(cuda=False)


@pytest.fixture
def compiler(monkeypatch, tmp_path, wanted):
    made = FakeCompiler(tmp_path, str(wanted))
    monkeypatch.setenv("CXX", str(made.path))
    return made


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "a folder of its own"
    made.mkdir()
    return made


def set_traps(folder):
    """Fill a folder with what a build would stumble over, were it read."""
    folder.mkdir()
    for name in ("random", "tempfile", "setuptools", "filelock", "ninja", "sitecustomize", "json"):
        (folder / f"{name}.py").write_text("raise SystemExit('the trap was imported')\n")
    for name in ("setup.cfg", ".pydistutils.cfg", "pydistutils.cfg"):
        (folder / name).write_text("[build_ext]\ninclude_dirs = /trap\n[build]\ncompiler = trap\n")
    (folder / "pyproject.toml").write_text("[tool.setuptools]\next-modules = 'trap'\n")
    return folder


def test_a_build_sees_nothing_of_the_users_folder(monkeypatch, tmp_path, compiler, wanted, folder):
    traps = set_traps(tmp_path / "traps")
    monkeypatch.chdir(traps)
    for name in ("HOME", "PYTHONPATH", "PYTHONUSERBASE", "TMPDIR"):
        monkeypatch.setenv(name, str(traps))
    monkeypatch.setenv("PYTHONSTARTUP", str(traps / "random.py"))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("DIST_EXTRA_CONFIG", str(traps / "setup.cfg"))
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "trap")
    for name in ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "LDCXXSHARED"):
        monkeypatch.setenv(name, "--snare")
    outcome = isolated.compile_apart(wanted, folder)
    assert outcome.binary is not None, outcome.said
    assert build.read_stamp(outcome.binary) == wanted
    calls = compiler.calls()
    assert len(calls) > 5
    for call in calls:
        assert Path(call["folder"]).is_relative_to(folder)
        assert "snare" not in " ".join(call["arguments"])
        assert call["environment"]["TMPDIR"] == str(folder / "tmp")
    # Nothing is left beside it, as in the user's folder or the package's.
    objects = [a for call in calls for a in call["arguments"] if a.endswith(".o")]
    assert all((folder / each).resolve().is_relative_to(folder) for each in objects)


@pytest.mark.deep
def test_a_build_of_another_torch_is_refused_before_it_compiles(compiler, wanted, folder):
    other = build.Stamp("1.0.0+cu1", wanted.sources, wanted.cuda)
    outcome = isolated.compile_apart(other, folder)
    assert (outcome.binary, outcome.verdict) == (None, False)
    assert f"what would be built here is {wanted}, not {other}" in outcome.summary
    assert not compiler.calls()


def test_a_binary_with_another_stamp_is_not_handed_over(monkeypatch, wanted, folder):
    def run(command, folder, environ, log):
        log.touch()
        made = folder / "ftbench" / "ops" / "_C.so"
        made.parent.mkdir(parents=True)
        made.write_bytes(b"ftbench-stamp:1~a~cpu~plain:")
        return 0

    monkeypatch.setattr(isolated, "_run", run)
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.binary, outcome.verdict) == (None, False)
    assert outcome.summary == "a binary for 1~a~cpu~plain came of it"


@pytest.mark.deep
def test_what_the_compiler_refuses_is_its_verdict(compiler, wanted, folder):
    compiler.refuse("mix.cpp:3:5: error: 'at' has not been declared")
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.binary, outcome.verdict) == (None, True)
    assert "mix.cpp:3:5: error" in outcome.said


@pytest.mark.deep
def test_a_full_disk_is_not_the_compilers_verdict(compiler, wanted, folder):
    compiler.refuse("mix.cpp:3:5: fatal error: error writing to /tmp/x.s: No space left on device")
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.binary, outcome.verdict) == (None, False)
    assert "No space left on device" in outcome.summary


@pytest.mark.parametrize(
    "said",
    [
        "csrc/ops.cpp:3:10: fatal error: Python.h: No such file or directory",
        'csrc/mix/cuda.cu(12): error: identifier "x" is undefined',
        "g++: error: unrecognized command-line option '-fno'",
        "nvcc fatal   : Unsupported gpu architecture 'compute_80'",
        "/usr/bin/ld: ops.o: undefined reference to `f'\ncollect2: error: ld returned 1",
        "clang++: error: linker command failed with exit code 1",
    ],
)
def test_what_compilers_say_of_what_they_are_given_is_a_verdict(said):
    assert isolated.is_verdict(f"FAILED: ops.o\n{said}\nRuntimeError: Error compiling objects\n")


@pytest.mark.parametrize(
    "said",
    [
        "",
        "ModuleNotFoundError: No module named 'setuptools'",
        "ninja: error: mkdir(csrc): Permission denied",
        "ninja: error: loading 'build.ninja': No such file or directory",
        "distutils.errors.CompileError: command '/usr/bin/g++' failed with exit code 1",
        "g++: fatal error: Killed signal terminated program cc1plus",
        "g++: internal compiler error: Segmentation fault signal terminated program cc1plus",
        "x.cpp:1:1: internal compiler error: in f, at y.c:3",
        "x.cpp: fatal error: error writing to x.s: Disk quota exceeded",
        "cc1plus: error: out of memory allocating 65536 bytes",
        "virtual memory exhausted: Cannot allocate memory\nx: error: 1",
        "g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory",
        "collect2: fatal error: ld terminated with signal 9 [Killed]",
        "/usr/bin/ld: final link failed: No space left on device\ncollect2: error: ld returned 1",
        "x.cpp:1:1: fatal error: torch/all.h: Permission denied",
        "nvcc error   : 'ptxas' died due to signal 9 (Kill signal)",
    ],
)
def test_what_stood_in_the_way_of_the_compiler_is_none(said):
    assert not isolated.is_verdict(said)


def test_a_killed_build_is_no_verdict(monkeypatch, wanted, folder):
    monkeypatch.setattr(build, "__file__", _script(folder, "import os; os.kill(os.getpid(), 9)"))
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.verdict, outcome.summary) == (False, "it was ended by signal 9")


def test_a_build_without_end_is_ended_with_all_that_it_started(monkeypatch, wanted, folder):
    pipe = folder.with_name("pipe")
    os.mkfifo(pipe)
    # It speaks once it runs, and would again if nobody ended it.
    held = "import sys, time; print('started', flush=True); time.sleep(600); print('survived')"
    code = (
        "import subprocess, sys, threading\n"
        f"pipe = open({str(pipe)!r}, 'w')\n"
        f"subprocess.Popen([sys.executable, '-c', {held!r}], stdout=pipe)\n"
        "threading.Event().wait()\n"
    )
    monkeypatch.setattr(build, "__file__", _script(folder, code))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    wait = subprocess.Popen.wait

    def waiting(process, timeout=None):
        if timeout is None:
            return wait(process)
        while not _read(reader) and process.poll() is None:
            pass  # until what it started runs
        raise subprocess.TimeoutExpired("build", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", waiting)
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.binary, outcome.verdict) == (None, False)
    assert "not done after 3600 s" in outcome.said
    # A pipe ends when the last process that writes to it has.
    os.set_blocking(reader, True)
    assert _read(reader) == b""
    os.close(reader)


def _read(pipe):
    """Return what a pipe holds, nothing where it is empty."""
    try:
        return os.read(pipe, 100)
    except BlockingIOError:
        return b""


def test_a_python_that_cannot_be_started_is_no_verdict(monkeypatch, wanted, folder):
    monkeypatch.setattr(sys, "executable", str(folder / "missing"))
    outcome = isolated.compile_apart(wanted, folder)
    assert (outcome.binary, outcome.verdict) == (None, False)
    assert "cannot be run: " in outcome.said


def _script(folder, code):
    script = folder.with_name("script.py")
    script.write_text(code)
    return str(script)


def test_torch_is_that_of_the_asking_process_wherever_it_comes_from(monkeypatch, tmp_path):
    overlay = str(tmp_path / "overlay")
    found = isolated.library_folders()
    assert str(Path(torch.__file__).parent.parent) in found
    monkeypatch.setattr(torch, "__file__", f"{overlay}/torch/__init__.py")
    monkeypatch.syspath_prepend(overlay)
    monkeypatch.syspath_prepend(tmp_path / "of the user")
    assert isolated.library_folders() == [overlay, *found]


def test_a_folder_with_libraries_replaces_no_module_of_pythons_own(monkeypatch, tmp_path):
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    build.import_from([str(tmp_path)])
    at = sys.path.index(str(tmp_path))
    assert sys.path[:at] + sys.path[at + 1 :] == before
    assert any(path.endswith("lib-dynload") for path in sys.path[:at])
    assert not any(path.endswith("-packages") for path in sys.path[:at])
