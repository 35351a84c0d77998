"""What there is to build with: C++ compiler, CUDA toolkit, and whether to build for CUDA."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from ftbench.ops import build, serving
from ftbench.ops.first_use import cache


@pytest.mark.parametrize("asked", ["yes", "2"])
def test_a_cuda_choice_that_is_neither_yes_nor_no_is_refused(monkeypatch, asked):
    monkeypatch.setenv("FTBENCH_CUDA", asked)
    with pytest.raises(build.BuildError, match=f"FTBENCH_CUDA is '{asked}', expected 0 or 1"):
        build.cuda_decision()


@pytest.fixture
def toolkit(monkeypatch):
    """A function that says which CUDA toolkit there is, for a torch that is built for CUDA."""

    def there_is(root, why=""):
        monkeypatch.setattr(build, "cuda_toolkit", lambda: (root, why))

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    there_is(Path("/toolkit"))
    return there_is


def test_cuda_is_built_ahead_by_choice_or_where_nvcc_is_and_never_by_the_gpu(monkeypatch, toolkit):
    for seen in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        monkeypatch.setenv("FTBENCH_CUDA", "")
        assert build.cuda_decision() == (True, "nvcc in /toolkit")
        monkeypatch.setenv("FTBENCH_CUDA", "0")
        assert build.cuda_decision() == (False, "FTBENCH_CUDA=0")
    toolkit(None, "no nvcc was found")
    monkeypatch.setenv("FTBENCH_CUDA", "")
    assert build.cuda_decision() == (False, "no nvcc was found")
    monkeypatch.setenv("FTBENCH_CUDA", "1")
    with pytest.raises(build.BuildError, match="FTBENCH_CUDA=1, but no nvcc was found"):
        build.cuda_decision()


def test_a_first_use_builds_for_a_gpu_where_torch_sees_one_or_is_told_to(monkeypatch, toolkit):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("FTBENCH_CUDA", "")
    chosen, why = serving.cuda_here()
    assert not chosen
    assert why == "torch sees no GPU (nvcc in /toolkit; FTBENCH_CUDA=1 compiles for one)"
    monkeypatch.setenv("FTBENCH_CUDA", "1")
    assert serving.cuda_here() == (True, "FTBENCH_CUDA=1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for asked, chosen in (("", True), ("0", False), ("1", True)):
        monkeypatch.setenv("FTBENCH_CUDA", asked)
        assert serving.cuda_here()[0] is chosen


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_the_toolkit_is_found_behind_a_script_that_calls_nvcc(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    real, _ = build.cuda_toolkit()
    nvcc_on_the_path(monkeypatch, tmp_path, f'#!/bin/sh\nexec "{real}/bin/nvcc" "$@"\n')
    assert build.cuda_toolkit() == (real, "")
    assert (real / "bin" / "nvcc").exists()


def nvcc_on_the_path(monkeypatch, folder, text):
    script = folder / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(text)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\necho no licence >&2\nexit 3\n", "fails with exit status 3: no licence"),
        ("#!/bin/sh\nkill -SEGV $$\n", "fails with exit status -11: it says nothing"),
        ("#!/no/such/shell\n", "cannot be run: "),
        ("\0\1\2", "cannot be run: "),
    ],
)
def test_an_nvcc_that_fails_is_none(monkeypatch, tmp_path, text, why):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    script = nvcc_on_the_path(monkeypatch, tmp_path, text)
    root, found = build.cuda_toolkit()
    assert root is None
    assert found.startswith(f"{script} {why}")


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_toolkit_that_is_named_and_is_none_is_said(monkeypatch, tmp_path, name):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    assert build.cuda_toolkit() == (None, f"{name} is {tmp_path}, which has no bin/nvcc")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert build.cuda_toolkit() == (tmp_path, "")


def test_a_compiler_may_be_named_with_what_calls_it(monkeypatch, tmp_path):
    for name in ("ccache", "g++"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} of $1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CXX", "ccache g++ -m64")
    assert build.compiler_command() == [str(tmp_path / "ccache"), "g++", "-m64"]
    assert build.compiler() == str(tmp_path / "ccache")
    assert cache.compiler_version() == "ccache of g++"
    for missing in ("no-such-compiler -m64", "g++ '"):
        monkeypatch.setenv("CXX", missing)
        assert build.compiler() is None


def test_architectures_are_the_users_or_the_default(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build.architectures() == "8.0;9.0+PTX"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.9")
    assert build.architectures() == "8.9"
