"""Building and loading: which binary serves, what happens without one, and what is recognised."""

import importlib.machinery
import logging
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftbench.errors import FtbenchError
from ftbench.ops import backend, build, cache, isolated

ROOT = Path(build.__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Choose anew in each test, with a cache of its own."""
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FTBENCH_OPS", raising=False)
    backend.choose_again()
    yield
    monkeypatch.undo()
    backend.choose_again()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(backend, "ahead_of_time", lambda: None)
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_without_a_compiler_the_reference_serves_and_one_line_says_how_to_get_more(
    no_compiler, caplog
):
    with caplog.at_level(logging.WARNING, logger="ftbench"):
        serving = backend.implementation()
        assert backend.implementation() is serving
    assert (serving.name, serving.operators, serving.instruction_set) == ("reference", None, "")
    assert len(caplog.messages) == 1
    assert "no C++ compiler was found; install g++" in caplog.text
    assert "ftbench doctor" in caplog.text
    assert serving.serving(torch.device("cpu")) == "reference"


def test_the_compiled_one_can_be_insisted_on(no_compiler, monkeypatch):
    monkeypatch.setenv("FTBENCH_OPS", "compiled")
    with pytest.raises(FtbenchError, match=r"FTBENCH_OPS=compiled, but no C\+\+ compiler"):
        backend.implementation()


def test_the_reference_can_be_asked_for(monkeypatch, caplog):
    monkeypatch.setenv("FTBENCH_OPS", "reference")
    assert backend.implementation().name == "reference"
    assert not caplog.messages


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("FTBENCH_OPS", "fast")
    with pytest.raises(FtbenchError, match="FTBENCH_OPS is 'fast'; expected reference or compiled"):
        backend.implementation()


@needs_compiler
def test_a_binary_for_another_torch_is_not_loaded_but_compiled_anew(monkeypatch, tmp_path):
    wanted = build.wanted_stamp()
    old = tmp_path / "_C.old.so"
    stamp = replace(wanted, torch="1.0.0+cu1")
    old.write_bytes(b"\x7fELF not to be loaded ftbench-stamp:" + str(stamp).encode() + b":\0")
    compiled = []

    def first_use(stamp):
        compiled.append(stamp)
        raise build.BuildError("enough seen")

    monkeypatch.setattr(backend, "ahead_of_time", lambda: old)
    monkeypatch.setattr(cache, "binary_for", first_use)
    assert backend.implementation().reason == "enough seen"
    assert compiled == [replace(wanted, cuda=compiled[0].cuda)]
    assert backend._difference(stamp, wanted) == f"torch 1.0.0+cu1, not {wanted.torch}"


def test_a_binary_says_what_it_was_built_from_before_it_is_loaded(tmp_path):
    binary = tmp_path / "_C.so"
    for cuda in ("", "8.0/9.0+PTX"):
        for sanitize in ("", "address.undefined"):
            stamp = build.Stamp("2.15.0+cu132", "0123456789abcdef", cuda, sanitize)
            binary.write_bytes(b"\0\xff" + b"ftbench-stamp:" + str(stamp).encode() + b":\0")
            assert build.read_stamp(binary) == stamp
    for text in (b"something else", b"ftbench-stamp:1~a:", b"ftbench-stamp:\xff~a~cpu~plain~x:"):
        binary.write_bytes(text)
        assert build.read_stamp(binary) is None


def test_a_binary_serves_what_it_was_built_for():
    wanted = build.Stamp("2.15.0", "a", "9.0")
    assert wanted.serves(wanted)
    assert wanted.serves(replace(wanted, cuda=""))  # more than is wanted
    assert not replace(wanted, cuda="").serves(wanted)
    for other in ({"torch": "2.11.0"}, {"sources": "b"}, {"sanitize": "address"}):
        assert not replace(wanted, **other).serves(wanted)


def test_the_sources_hash_tells_every_source_and_its_name(tmp_path):
    folder = tmp_path / "csrc"
    shutil.copytree(build.source_folder(), folder)
    first = build.sources_hash(folder)
    assert first == build.sources_hash(build.source_folder())
    header = folder / "mix" / "mix.h"
    header.write_text(header.read_text() + "\n// changed\n")
    second = build.sources_hash(folder)
    header.rename(folder / "mix" / "renamed.h")
    assert len({first, second, build.sources_hash(folder)}) == 3


@needs_compiler
def test_the_cache_keeps_binaries_apart_by_source_torch_and_compiler(monkeypatch):
    stamp = build.Stamp("2.15.0", "a", "")
    keys = {cache.key_of(stamp), cache.key_of(replace(stamp, torch="2.16.0"))}
    keys.add(cache.key_of(replace(stamp, sources="b")))
    monkeypatch.setattr(cache, "compiler_version", lambda: "another compiler")
    keys.add(cache.key_of(stamp))
    assert len(keys) == 4


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
    monkeypatch.setattr(backend, "ahead_of_time", lambda: None)
    monkeypatch.setattr(isolated, "compile_apart", builds)
    return builds


@needs_compiler
def test_a_failed_compilation_is_told_once_and_tried_again_when_asked(monkeypatch, builds):
    monkeypatch.setenv("FTBENCH_CUDA", "0")
    builds.refused = {"CPU"}
    serving = backend.implementation()
    assert "compiling failed; " in serving.reason
    assert "`ftbench doctor --build`" in serving.advice
    log = next(cache.cache_folder().glob("*.failed.txt"))
    assert log.read_text() == "error: x.cpp:3"
    backend.choose_again()
    assert "compiling failed before" in backend.implementation().reason
    assert len(builds.wanted) == 1
    cache.forget_failures()
    backend.choose_again()
    assert "compiling failed; " in backend.implementation().reason
    assert len(builds.wanted) == 2


@needs_compiler
def test_where_cuda_does_not_compile_the_cpu_alone_does(monkeypatch, caplog, builds):
    monkeypatch.setattr(backend, "cuda_here", lambda: (True, "nvcc"))
    builds.refused = {"CUDA"}
    for _ in range(2):
        backend.choose_again()
        # Not a real binary: it is found, and then refused in words.
        assert "cannot be loaded" in backend.implementation().reason
    assert caplog.text.count("the CPU alone, then, since for CUDA compiling failed") == 2
    assert [bool(wanted.cuda) for wanted in builds.wanted] == [True, False]
    monkeypatch.setenv("FTBENCH_CUDA", "1")
    backend.choose_again()
    assert "compiling failed before" in backend.implementation().reason


@needs_compiler
def test_a_gpu_that_comes_later_has_its_kernels_compiled_then(monkeypatch, builds):
    monkeypatch.setenv("FTBENCH_CUDA", "")
    monkeypatch.setattr(build, "cuda_decision", lambda: (True, "nvcc in /toolkit"))
    for seen in (False, True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        backend.choose_again()
        backend.implementation()
    # What was made for the GPU serves the CPU as well, and so does what was made before it.
    assert [bool(wanted.cuda) for wanted in builds.wanted] == [False, True]


def test_a_source_distribution_has_every_source(tmp_path):
    command = ["-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run([sys.executable, "setup.py", *command], cwd=ROOT, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert len(sources) > 20
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names


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
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_cuda_compiles_and_links_for_every_default_architecture():
    """The binary in use has sm_80, sm_90 and PTX: it was built where nvcc is."""
    path = backend.ahead_of_time()
    if path is None or torch.version.cuda is None:
        pytest.skip("nothing was built ahead of time, or this torch has no CUDA")
    stamp = build.read_stamp(path)
    assert stamp is not None
    assert stamp.cuda == "8.0/9.0+PTX"
    assert embedded_architectures(path.read_bytes()) == {
        ("machine", 80),
        ("machine", 90),
        ("PTX", 90),
    }


def embedded_architectures(binary):
    """Return (kind, architecture) of each entry of the fat binaries in an object file."""
    found, start = set(), 0
    while (start := binary.find(b"\x50\xed\x55\xba", start)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", binary, start)
        at, start = start + header, start + header + size
        while at < start:
            kind, _, header, size = struct.unpack_from("<HHIQ", binary, at)
            (architecture,) = struct.unpack_from("<I", binary, at + 28)
            found.add(({1: "PTX", 2: "machine"}.get(kind, kind), architecture))
            at += header + size
    return found


@needs_compiler
def test_where_there_is_a_compiler_the_compiled_operators_serve(monkeypatch):
    monkeypatch.delenv("FTBENCH_CACHE")  # what was compiled before may serve
    assert backend.implementation().name == "compiled", backend.implementation().reason
