"""Which implementation serves: what is loaded, what happens without one, what is tried again."""

import importlib.machinery
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ftbench.errors import FtbenchError
from ftbench.ops import build, first_use, serving
from ftbench.ops.first_use import isolated
from tests.support import ROOT

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Choose anew in each test, with a cache of its own."""
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FTBENCH_OPS", raising=False)
    serving.choose_again()
    yield
    monkeypatch.undo()
    serving.choose_again()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(serving, "ahead_of_time", lambda: None)
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_without_a_compiler_the_reference_serves_and_one_line_says_how_to_get_more(
    no_compiler, caplog
):
    with caplog.at_level(logging.WARNING, logger="ftbench"):
        active = serving.implementation()
        assert serving.implementation() is active
    assert (active.name, active.operators, active.instruction_set) == ("reference", None, "")
    assert len(caplog.messages) == 1
    assert "no C++ compiler was found; install g++" in caplog.text
    assert "ftbench doctor" in caplog.text
    assert active.serving(torch.device("cpu")) == "reference"


def test_the_compiled_one_can_be_insisted_on(no_compiler, monkeypatch):
    monkeypatch.setenv("FTBENCH_OPS", "compiled")
    with pytest.raises(FtbenchError, match=r"FTBENCH_OPS=compiled, but no C\+\+ compiler"):
        serving.implementation()


def test_the_reference_can_be_asked_for(monkeypatch, caplog):
    monkeypatch.setenv("FTBENCH_OPS", "reference")
    assert serving.implementation().name == "reference"
    assert not caplog.messages


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("FTBENCH_OPS", "fast")
    with pytest.raises(FtbenchError, match="FTBENCH_OPS is 'fast'; expected reference or compiled"):
        serving.implementation()


@needs_compiler
def test_a_binary_for_another_torch_is_not_loaded_but_compiled_anew(monkeypatch, tmp_path):
    wanted = build.wanted_stamp()
    old = tmp_path / "_C.old.so"
    stamp = replace(wanted, torch="1.0.0+cu1")
    old.write_bytes(b"\x7fELF not to be loaded ftbench-stamp:" + str(stamp).encode() + b":\0")
    compiled = []

    def compile_now(stamp):
        compiled.append(stamp)
        raise build.BuildError("enough seen")

    monkeypatch.setattr(serving, "ahead_of_time", lambda: old)
    monkeypatch.setattr(first_use, "binary_for", compile_now)
    assert serving.implementation().reason == "enough seen"
    assert compiled == [replace(wanted, cuda=compiled[0].cuda)]
    assert serving._difference(stamp, wanted) == f"torch 1.0.0+cu1, not {wanted.torch}"


@pytest.fixture
def builds(monkeypatch):
    """Stands in for compiling; ``refused`` holds the kinds of binary that do not compile."""

    class Builds:
        def __init__(self):
            self.wanted, self.refused = [], set()

        def __call__(self, wanted, folder):
            self.wanted.append(wanted)
            if ("CUDA" if wanted.cuda else "CPU") in self.refused:
                return isolated.Outcome(None, "error: x.cpp:3", verdict=True)
            binary = folder / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
            binary.write_bytes(b"ftbench-stamp:" + str(wanted).encode() + b":")
            return isolated.Outcome(binary)

    builds = Builds()
    monkeypatch.setattr(serving, "ahead_of_time", lambda: None)
    monkeypatch.setattr(isolated, "compile_apart", builds)
    return builds


@needs_compiler
def test_a_failed_compilation_is_told_once_and_tried_again_when_asked(monkeypatch, builds):
    monkeypatch.setenv("FTBENCH_CUDA", "0")
    builds.refused = {"CPU"}
    active = serving.implementation()
    assert "compiling failed; " in active.reason
    assert "`ftbench doctor --build`" in active.advice
    log = next(first_use.cache_folder().glob("*.failed.txt"))
    assert log.read_text() == "error: x.cpp:3"
    serving.choose_again()
    assert "compiling failed before" in serving.implementation().reason
    assert len(builds.wanted) == 1
    first_use.forget_failures()
    serving.choose_again()
    assert "compiling failed; " in serving.implementation().reason
    assert len(builds.wanted) == 2


@needs_compiler
def test_where_cuda_does_not_compile_the_cpu_alone_does(monkeypatch, caplog, builds):
    monkeypatch.setattr(serving, "cuda_here", lambda: (True, "nvcc"))
    builds.refused = {"CUDA"}
    for _ in range(2):
        serving.choose_again()
        # Not a real binary: it is found, and then refused in words.
        assert "cannot be loaded" in serving.implementation().reason
    assert caplog.text.count("the CPU alone, then, since for CUDA compiling failed") == 2
    assert [bool(wanted.cuda) for wanted in builds.wanted] == [True, False]
    monkeypatch.setenv("FTBENCH_CUDA", "1")
    serving.choose_again()
    assert "compiling failed before" in serving.implementation().reason


@needs_compiler
def test_a_gpu_that_comes_later_has_its_kernels_compiled_then(monkeypatch, builds):
    monkeypatch.setenv("FTBENCH_CUDA", "")
    monkeypatch.setattr(build, "cuda_decision", lambda: (True, "nvcc in /toolkit"))
    for seen in (False, True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        serving.choose_again()
        serving.implementation()
    # What was made for the GPU serves the CPU as well, and so does what was made before it.
    assert [bool(wanted.cuda) for wanted in builds.wanted] == [False, True]


USE = """
import torch
from ftbench import ops
print(ops.implementation().name, ops.implementation().reason)
plan = ops.sample_mix(4, 9, 7, mixup_alpha=1.0, seed=0, step=0)
print(ops.mix(torch.ones(4, 3, 9, 7), plan).sum().item())
"""


@pytest.mark.deep
@pytest.mark.slow
@needs_compiler
def test_an_installed_ftbench_compiles_on_first_use_once_for_two_processes(tmp_path):
    # As `pip install .` leaves it: the sources inside the package, nothing compiled.
    shutil.copytree(
        ROOT / "ftbench", tmp_path / "site" / "ftbench", ignore=shutil.ignore_patterns("*.so")
    )
    shutil.copytree(ROOT / "csrc", tmp_path / "site" / "ftbench" / "csrc")
    environ = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "FTBENCH_CACHE": str(tmp_path / "a cache"),
        "FTBENCH_CUDA": "0",
        "CXXFLAGS": "--no-such-flag",
    }
    # As the ftbench command is run in a folder with files that bear the names of modules.
    work = tmp_path / "work"
    work.mkdir()
    for name in ("random", "setuptools", "torch"):
        (work / f"{name}.py").write_text("raise SystemExit('imported from the user')\n")
    command = [sys.executable, "-P", "-c", USE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=environ, cwd=work, **pipes) for _ in range(2)]
    told = [process.communicate() for process in running]
    for out, err in told:
        assert out.splitlines()[0] == "compiled compiled on first use", err
        assert float(out.splitlines()[1]) == pytest.approx(4 * 3 * 9 * 7)
    assert sum("compiling ftbench's operators" in err for _, err in told) == 1
    assert sum("waiting for " in err for _, err in told) == 1


@needs_compiler
def test_where_there_is_a_compiler_the_compiled_operators_serve(monkeypatch):
    monkeypatch.delenv("FTBENCH_CACHE")  # what was compiled before may serve
    assert serving.implementation().name == "compiled", serving.implementation().reason


def test_a_second_binary_is_not_loaded_into_one_process(tmp_path, monkeypatch):
    loaded = tmp_path / "loaded.so"
    monkeypatch.setattr(serving, "_loaded", {loaded: None})
    other = tmp_path / "other.so"
    with pytest.raises(build.BuildError, match=r"other\.so cannot be loaded: .*loaded\.so is, in"):
        serving._load(other, build.Stamp("2", "abc", ""), "why")
