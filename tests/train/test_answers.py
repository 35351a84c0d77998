"""A method that forgets its `return` is an error, not another strategy."""

import re

import numpy as np
import pytest

import ftbench
from tests.conftest import TinyTask


@pytest.mark.parametrize("method", ["trains", "decays"])
@pytest.mark.parametrize("answer", [None, "yes", 1, []])
def test_an_answer_that_is_no_flag_is_an_error_that_names_the_method(tiny_run, method, answer):
    strategy = type("Mine", (ftbench.Strategy,), {"name": "mine", method: lambda *_: answer})
    record = tiny_run(strategy)
    assert record.status == "failed"
    assert f"strategy 'mine': {method}() for stem" in record.message
    assert record.message.endswith(f"returned {answer!r}; expected True or False")


def test_numpys_flags_are_flags(tiny_run):
    strategy = type("Mine", (ftbench.Strategy,), {"name": "mine", "trains": lambda *_: np.True_})
    assert tiny_run(strategy).scores == tiny_run("full").scores


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (None, r"score\(\) returned None, which lacks accuracy; expected a number for each of"),
        ({}, r"score\(\) returned nothing, which lacks accuracy"),
        ({"accuracy": 1.0}, r"score\(\) returned accuracy, which lacks macro_f1"),
        (
            {"accuracy": 1.0, "macro_f1": 1.0, "nll": 0.0, "ece": 0.0, "seed": 3.0},
            "names the column seed",
        ),
    ],
)
def test_scores_that_are_not_those_of_the_metrics_are_named(tiny_run, scored, message):
    task = type("Odd", (TinyTask,), {"score": lambda self, outputs, targets: scored})
    record = tiny_run("head-only", task=task)
    assert record.status == "failed"
    assert re.search(message, record.message), record.message
