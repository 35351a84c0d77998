"""Whether a machine is asked for what its runs would need, before they start."""

from dataclasses import replace

import pytest

from ftbench.run import RunWork, lacks, versions


@pytest.fixture
def work(catalogue):
    return RunWork(None, shares_device=False, shares_process=False, catalogue=catalogue)


def test_this_machine_lacks_nothing(work, catalogue, tiny_spec):
    assert lacks(work, "cpu", runs=[tiny_spec(catalogue)], wanted=versions()) == ""


@pytest.mark.parametrize("name", ["torch", "ftbench", "ftbench's source"])
def test_other_code_is_named_with_both_versions(work, name):
    said = lacks(work, "cpu", runs=[], wanted={**versions(), name: "0.0.1"})
    assert said.startswith(f"{name} is {versions()[name][:12]}")
    assert said.endswith("there and 0.0.1 here")


def test_other_data_are_named_with_their_task(work, catalogue, tiny_spec):
    run = tiny_spec(catalogue)
    other = replace(run, task=replace(run.task, fingerprint="0" * 64))
    said = lacks(work, "cpu", runs=[run, other], wanted=versions())
    assert said.startswith("tiny with tiny-net: the data or weights of task 'tiny' changed")


def test_a_gpu_that_torch_does_not_find_is_named(work):
    assert lacks(work, "cuda:0", runs=[], wanted=versions()) == "torch finds no GPU there"
