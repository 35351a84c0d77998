import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ftbench import ops
from ftbench.cli.app import app
from ftbench.ops import build, first_use, serving
from tests.support import ROOT


@pytest.fixture
def doctor(monkeypatch):
    def run(*arguments, active=None):
        if active is not None:
            monkeypatch.setattr(ops, "implementation", lambda: active)
            monkeypatch.setattr(serving, "implementation", lambda: active)
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


def lines(result):
    return dict(re.split(r" +", line, maxsplit=1) for line in result.stdout.splitlines())


@pytest.mark.skipif(ops.implementation().name != "compiled", reason="nothing is compiled")
def test_it_names_what_serves_why_and_for_which_torch_and_instruction_set(doctor):
    result = doctor()
    assert result.exit_code == 0
    found = lines(result)
    active = ops.implementation()
    assert found["operators"] == f"compiled: {active.reason}"
    assert found["binary"] == str(active.path)
    assert found["torch"].startswith(torch.__version__)
    assert f"{active.instruction_set} in use, of baseline" in found["CPU"]
    assert found["check"] == "mixing and penalties agree with plain torch"


def test_the_reference_comes_with_its_reason_and_how_to_get_more(doctor):
    active = serving.Implementation(
        "reference", "no C++ compiler was found", advice="install g++, then run ftbench again"
    )
    found = lines(doctor(active=active))
    assert found["operators"] == "reference: no C++ compiler was found"
    assert found["CPU"].endswith("plain torch")
    assert found["check"] == "nothing to compare: plain torch itself serves"
    assert found["faster"] == "install g++, then run ftbench again"


class Wrong:
    """The compiled operators, but for one that is off by one."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, name):
        right = getattr(torch.ops.ftbench, name)
        return (lambda *given: right(*given) + 1) if name == self.name else right


class Module:
    def instruction_set(self):
        return "avx2"

    def instruction_sets(self):
        return ["baseline", "avx2", "avx512"]


@pytest.mark.skipif(ops.implementation().name != "compiled", reason="nothing is compiled")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mix", "mixing on cpu differs"),
        ("label_weight", "the labels' weights on cpu differ"),
        ("quadratic_value", "penalties on cpu differ"),
    ],
)
def test_operators_that_disagree_with_plain_torch_are_found(doctor, name, said):
    active = serving.Implementation("compiled", "a test", operators=Wrong(name), module=Module())
    result = doctor(active=active)
    assert result.exit_code == 1
    assert lines(result)["check"] == f"{said} from plain torch: please report it"


def test_a_slower_instruction_set_is_told(doctor):
    active = serving.Implementation("compiled", "a test", module=Module())
    assert lines(doctor(active=active))["faster"] == "unset FTBENCH_ISA to use avx512"


def test_a_gpu_without_kernels_is_told(doctor, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    module = Module()
    module.instruction_set = lambda: "avx512"
    active = serving.Implementation("compiled", "a test", module=module)
    found = lines(doctor(active=active))
    assert found["GPU"] == "A GPU: plain torch"
    assert "install the CUDA toolkit (nvcc)" in found["faster"]
    found = lines(doctor(active=replace(active, operators=None, cuda="9.0")))
    assert "nvcc" not in found["faster"]


def test_a_build_can_be_tried_again(doctor, monkeypatch):
    forgotten = []
    monkeypatch.setattr(first_use, "forget_failures", lambda: forgotten.append(True))
    active = serving.Implementation("reference", "a test")
    doctor("--build", active=active)
    assert forgotten == [True]


def test_a_wrong_cuda_choice_is_shown(doctor, monkeypatch):
    monkeypatch.setenv("FTBENCH_CUDA", "maybe")
    active = serving.Implementation("reference", "a test")
    assert "FTBENCH_CUDA is 'maybe'" in lines(doctor(active=active))["CUDA"]
    assert build.compiler() is None or lines(doctor(active=active))["compiler"]


# What is printed in any environment.
ALWAYS = {"operators", "torch", "CPU", "GPU", "compiler", "CUDA", "cache", "check"}


@pytest.fixture
def odd(monkeypatch, tmp_path):
    """A function that changes the environment of a machine where nothing is compiled yet."""
    monkeypatch.setattr(serving, "ahead_of_time", lambda: None)
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CXX", "no-such-compiler")  # so that nothing is compiled by a test

    def change(**environ):
        for name, value in environ.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        serving.choose_again()

    change(FTBENCH_OPS=None)
    yield change
    monkeypatch.undo()
    serving.choose_again()


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("environ", "line", "said"),
    [
        ({}, "operators", "reference: no C++ compiler was found; install g++"),
        ({"FTBENCH_CUDA": "7"}, "operators", "reference: FTBENCH_CUDA is '7', expected 0 or 1"),
        ({"CUDA_HOME": "/none"}, "CUDA", "no: CUDA_HOME is /none, which has no bin/nvcc"),
        ({"FTBENCH_CACHE": "/proc/1/x", "CXX": None}, "operators", "the cache /proc/1/x cannot"),
        ({"CXX": "{crashing}"}, "operators", "the C++ compiler {crashing} fails with exit status"),
        ({"CXX": "{empty}"}, "operators", "reference: {empty} cannot be run"),
        ({"CUDA_HOME": None, "PATH": "{path}"}, "CUDA", "no: {path}/nvcc fails with exit status 2"),
        ({"XDG_CACHE_HOME": "relative", "FTBENCH_CACHE": None}, "cache", "/.cache/ftbench"),
    ],
)
def test_an_odd_environment_is_described(odd, doctor, tmp_path, environ, line, said):
    places = {
        "crashing": program(tmp_path / "crashing", "#!/bin/sh\nkill -SEGV $$\n"),
        "empty": program(tmp_path / "empty", "\0"),
        "path": str(tmp_path),
    }
    program(tmp_path / "nvcc", "#!/bin/sh\nexit 2\n")
    if "FTBENCH_CUDA" not in environ:
        environ = {"FTBENCH_CUDA": None, **environ}
    odd(**{name: value and value.format(**places) for name, value in environ.items()})
    result = doctor()
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert set(found) >= ALWAYS
    assert said.format(**places) in found[line]
    assert found["check"] == "nothing to compare: plain torch itself serves"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"FTBENCH_OPS": "nonsense"}, "FTBENCH_OPS is 'nonsense'; expected reference or compiled"),
        ({"FTBENCH_OPS": "compiled"}, "FTBENCH_OPS=compiled, but no C++ compiler was found"),
        ({"FTBENCH_OPS": "compiled", "FTBENCH_CUDA": "7"}, "but FTBENCH_CUDA is '7'"),
    ],
)
def test_a_setting_that_cannot_be_is_named_among_all_that_can_be_said(odd, doctor, environ, said):
    odd(**environ)
    result = doctor("--build")
    assert result.exit_code == 1
    found = lines(result)
    assert set(found) >= ALWAYS
    assert found["operators"].startswith("nothing: ")
    assert said in found["operators"]
    assert found["check"] == "nothing to compare: nothing serves until that setting is changed"


def test_operators_that_fail_are_reported(doctor):
    class Failing:
        def __getattr__(self, name):
            raise RuntimeError("CUDA error: no kernel image is available\nand more")

    active = serving.Implementation("compiled", "a test", operators=Failing(), module=Module())
    result = doctor(active=active)
    assert result.exit_code == 1
    assert "no kernel image is available; FTBENCH_OPS=reference" in lines(result)["check"]


# As `ftbench doctor`, by another user: what it needs is imported while all of it can be read.
AS_ANOTHER = """
import json, os, sys
import torch
from typer.testing import CliRunner
from ftbench.cli.app import app
from ftbench.ops import serving
environ, user, without_ahead, alone = json.loads(sys.argv[1])
os.environ["FTBENCH_OPS"] = "reference"
assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
serving.choose_again()
if without_ahead:
    serving.ahead_of_time = lambda: None
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
os.environ.clear()
os.environ.update(environ)
if alone:  # checking it would import more, which another user may not read
    active = serving.implementation()
    sys.exit(print(f"operators {active.name}: {active.reason}\\nbinary {active.path}"))
result = CliRunner().invoke(app, ["doctor"])
assert isinstance(result.exception, SystemExit | None), repr(result.exception)
print(result.stdout, end="")
sys.exit(result.exit_code)
"""
UNKNOWN_USER = 54321
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)


def as_another(environ, *, user=UNKNOWN_USER, without_ahead=True, alone=False):
    # /bin and /usr/bin have the compiler, whose version is asked for.
    environ = {"PATH": os.environ["PATH"], "FTBENCH_CUDA": "0", **environ}
    given = json.dumps([environ, user, without_ahead, alone])
    command = [sys.executable, "-c", AS_ANOTHER, given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, lines(done)


@pytest.fixture
def shared():
    """A folder that others can read; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_root
def test_a_user_without_a_name_or_a_home_is_told_what_to_set():
    done, found = as_another({})
    assert done.returncode == 0, done.stderr
    assert set(found) >= ALWAYS
    assert "there is no home folder" in found["operators"]
    assert "set FTBENCH_CACHE to a folder that you can write to" in found["cache"]


@needs_root
@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
def test_a_home_that_cannot_be_written_is_named(shared):
    (shared / "file").write_text("")
    for home in ("/", str(shared / "file")):
        done, found = as_another({"HOME": home})
        assert done.returncode == 0, done.stderr
        expected = os.path.join(home, ".cache/ftbench")
        assert f"the cache {expected} cannot be used: " in found["operators"]
        assert found["faster"] == "set FTBENCH_CACHE to a folder that you can write to"


@needs_root
@pytest.mark.skipif(ops.implementation().name != "compiled", reason="nothing is compiled")
def test_a_finished_binary_serves_though_the_cache_and_its_lock_are_anothers(shared):
    active = ops.implementation()
    stamp = build.read_stamp(active.path)
    place = shared / f"ops-{first_use.cache.key_of(stamp)}"
    place.mkdir()
    place.chmod(0o755)
    shutil.copy(active.path, place)
    lock = shared / f"{place.name}.lock"
    lock.touch()
    lock.chmod(0o600)
    done, found = as_another({"FTBENCH_CACHE": str(shared)}, alone=True)
    assert done.returncode == 0, done.stderr
    assert found["operators"] == "compiled: compiled on first use"
    assert found["binary"] == str(place / active.path.name)


@pytest.mark.skipif(ops.implementation().name != "compiled", reason="nothing is compiled")
def test_an_instruction_set_that_cannot_be_is_named():
    home = os.environ.get("HOME", "/")
    done, found = as_another(
        {"FTBENCH_ISA": "nonsense", "HOME": home}, user=None, without_ahead=False
    )
    if "operators" in found and found["operators"].startswith("reference"):
        pytest.skip("nothing was built ahead of time")
    assert done.returncode == 1, done.stderr
    assert set(found) >= ALWAYS
    assert "nothing: FTBENCH_ISA: instruction set 'nonsense'" in found["operators"]
