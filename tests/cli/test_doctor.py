import re
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from ftbench import ops
from ftbench.cli.app import app
from ftbench.ops import backend, build


@pytest.fixture
def doctor(monkeypatch):
    def run(*arguments, serving=None):
        if serving is not None:
            monkeypatch.setattr(ops, "implementation", lambda: serving)
            monkeypatch.setattr(backend, "implementation", lambda: serving)
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


def lines(result):
    return dict(re.split(r" +", line, maxsplit=1) for line in result.stdout.splitlines())


@pytest.mark.skipif(ops.implementation().name != "compiled", reason="nothing is compiled")
def test_it_names_what_serves_why_and_for_which_torch_and_instruction_set(doctor):
    result = doctor()
    assert result.exit_code == 0
    found = lines(result)
    serving = ops.implementation()
    assert found["operators"] == f"compiled: {serving.reason}"
    assert found["binary"] == str(serving.path)
    assert found["torch"].startswith(torch.__version__)
    assert f"{serving.instruction_set} in use, of baseline" in found["CPU"]
    assert found["check"] == "mixing and penalties agree with plain torch"


def test_the_reference_comes_with_its_reason_and_how_to_get_more(doctor):
    serving = backend.Implementation(
        "reference", "no C++ compiler was found", advice="install g++, then run ftbench again"
    )
    found = lines(doctor(serving=serving))
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
    serving = backend.Implementation("compiled", "a test", operators=Wrong(name), module=Module())
    result = doctor(serving=serving)
    assert result.exit_code == 1
    assert lines(result)["check"] == f"{said} from plain torch: please report it"


def test_a_slower_instruction_set_is_told(doctor):
    serving = backend.Implementation("compiled", "a test", module=Module())
    assert lines(doctor(serving=serving))["faster"] == "unset FTBENCH_ISA to use avx512"


def test_a_gpu_without_kernels_is_told(doctor, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    module = Module()
    module.instruction_set = lambda: "avx512"
    serving = backend.Implementation("compiled", "a test", module=module)
    found = lines(doctor(serving=serving))
    assert found["GPU"] == "A GPU: plain torch"
    assert "install the CUDA toolkit (nvcc)" in found["faster"]
    found = lines(doctor(serving=replace(serving, operators=None, cuda="9.0")))
    assert "nvcc" not in found["faster"]


def test_a_build_can_be_tried_again(doctor, monkeypatch):
    forgotten = []
    monkeypatch.setattr(backend, "forget_failures", lambda: forgotten.append(True))
    serving = backend.Implementation("reference", "a test")
    doctor("--build", serving=serving)
    assert forgotten == [True]


def test_a_wrong_cuda_choice_is_shown(doctor, monkeypatch):
    monkeypatch.setenv("FTBENCH_CUDA", "maybe")
    serving = backend.Implementation("reference", "a test")
    assert "FTBENCH_CUDA is 'maybe'" in lines(doctor(serving=serving))["CUDA"]
    assert build.compiler() is None or lines(doctor(serving=serving))["compiler"]
