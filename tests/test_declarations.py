"""What depends on a component's options is checked once there is an instance."""

import functools

import pytest

import ftbench
from ftbench.plugins.declarations import component_problem, require_complete

METRIC = ftbench.Metric("fine", "fine")


def task_with(tiny, kind=property, **members):
    """Return a task whose members are computed."""
    computed = {}
    for name, value in members.items():
        computed[name] = kind(lambda self, value=value: value)
    found = type("Odd", (tiny.Task,), computed)
    for name, value in computed.items():
        if isinstance(value, functools.cached_property):
            value.__set_name__(found, name)
    return found


@pytest.mark.parametrize("kind", [property, functools.cached_property])
def test_classes_and_metrics_may_depend_on_the_options(tiny, kind):
    task = task_with(tiny, kind, classes=4, metrics=(METRIC,))
    assert component_problem(task, ftbench.Task) == ""
    require_complete(task())


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"classes": "4"}, r"Odd.classes is '4' \(str\); expected the number of classes"),
        ({"classes": True}, r"Odd.classes is True \(bool\); expected the number of classes"),
        ({"classes": 0}, "Odd.classes is 0; expected at least 1"),
        ({"metrics": ()}, r"Odd.metrics is \(\); expected a tuple of ftbench.Metric"),
        ({"metrics": ("a",)}, "Odd.metrics holds 'a'; expected an ftbench.Metric"),
        ({"metrics": (METRIC, METRIC)}, "Odd has several metrics 'fine'"),
        (
            {"metrics": (ftbench.Metric("seed", "s"),)},
            "Odd has a metric 'seed', the name of another column",
        ),
    ],
)
def test_what_they_come_to_is_refused_of_the_instance(tiny, members, problem):
    task = task_with(tiny, **members)
    assert component_problem(task, ftbench.Task) == ""
    with pytest.raises(ftbench.FtbenchError, match=f"^task 'tiny': {problem}"):
        require_complete(task())


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (True, "Odd.classes is True (bool); expected the number of classes"),
        (-1, "Odd.classes is -1; expected at least 1"),
    ],
)
def test_a_number_of_classes_that_cannot_be_is_refused_of_the_class(tiny, classes, problem):
    assert component_problem(type("Odd", (tiny.Task,), {"classes": classes}), ftbench.Task) == (
        problem
    )
