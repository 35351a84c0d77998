"""One test a hook: it is asked or told, and what it says counts. test_docs.py holds us to that."""

import pytest

import ftbench
from ftbench.sweep import run_sweep
from tests.support import tiny_sweep
from tests.tiny import TinyPlugin


def catalogue_with(**hooks):
    """Return a catalogue with a plugin ``mine`` whose hooks are the given functions."""
    plugin = type("Mine", (), {name: ftbench.hookimpl(f) for name, f in hooks.items()})()
    return ftbench.load_catalogue(extra={"tiny": TinyPlugin(), "mine": plugin})


def test_ftbench_strategies_offers_a_strategy_by_name():
    class Mine(ftbench.Strategy):
        name = "my-strategy"

    catalogue = catalogue_with(ftbench_strategies=lambda self: [Mine])
    assert catalogue.find("strategy", "my-strategy").value is Mine
    assert str(catalogue.find("strategy", "my-strategy").owner) == "mine"


def test_ftbench_tasks_offers_a_task_by_name():
    class Mine(ftbench.ClassificationTask):
        name = "my-task"

    assert catalogue_with(ftbench_tasks=lambda self: [Mine]).find("task", "my-task").value is Mine


def test_ftbench_backbones_offers_a_backbone_by_name():
    class Mine(ftbench.BackboneFamily):
        name = "my-backbone"

    catalogue = catalogue_with(ftbench_backbones=lambda self: [Mine])
    assert catalogue.find("backbone", "my-backbone").value is Mine


def offered(hook, base):
    """Return whether a class offered by a hook is found under its kind."""
    mine = type("Mine", (base,), {"name": "mine"})
    catalogue = catalogue_with(**{hook: lambda self: [mine]})
    return catalogue.find(base.kind, "mine").value is mine


def test_ftbench_optimizers_offers_an_optimizer_by_name():
    assert offered("ftbench_optimizers", ftbench.Optimizer)


def test_ftbench_schedules_offers_a_schedule_by_name():
    assert offered("ftbench_schedules", ftbench.Schedule)


def test_ftbench_augmentations_offers_an_augmentation_by_name():
    assert offered("ftbench_augmentations", ftbench.Augmentation)


def test_ftbench_mixings_offers_a_way_to_mix_by_name():
    assert offered("ftbench_mixings", ftbench.Mixing)


def test_ftbench_heads_offers_a_head_by_name():
    assert offered("ftbench_heads", ftbench.Head)


def test_ftbench_report_formats_offers_a_format_by_name():
    shout = ftbench.Format(lambda summary: "TABLE", ".txt")
    catalogue = catalogue_with(ftbench_report_formats=lambda self: {"loud": shout})
    assert catalogue.find("format", "loud").value is shout


def test_ftbench_run_started_is_told_of_every_run_that_starts(tmp_path):
    told = []
    catalogue = catalogue_with(ftbench_run_started=lambda self, spec: told.append(spec))
    plan = run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert [spec.key for spec in told] == [run.key for run in plan.runs]
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert len(told) == 2


def test_ftbench_run_finished_is_told_of_every_record_once_it_is_on_disk(tmp_path):
    told = []

    def listen(self, record):
        told.append((record.status, (tmp_path / "runs.jsonl").read_text().count("\n")))

    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue_with(ftbench_run_finished=listen))
    assert told == [("ok", 1), ("ok", 2)]


@pytest.mark.parametrize("hook", ["ftbench_run_started", "ftbench_run_finished"])
def test_a_listener_that_raises_loses_nothing_and_silences_no_other(tmp_path, caplog, hook):
    told = []
    argument = {"ftbench_run_started": "spec", "ftbench_run_finished": "record"}[hook]

    def plugin(action):
        listener = {"action": action}
        exec(f"def listen(self, {argument}): action()", listener)
        return type("Listener", (), {hook: ftbench.hookimpl(listener["listen"])})()

    def fail():
        raise ValueError("not today")

    extra = {"tiny": TinyPlugin(), "good": plugin(lambda: told.append(1)), "bad": plugin(fail)}
    extra["late"] = plugin(lambda: told.append(2))
    run_sweep(tiny_sweep(), tmp_path, catalogue=ftbench.load_catalogue(extra=extra))
    assert list(ftbench.load_results(tmp_path)["status"]) == ["ok", "ok"]
    assert sorted(told) == [1, 1, 2, 2]
    assert f"bad: {hook} raised ValueError: not today" in caplog.text


def test_a_listener_may_take_fewer_arguments(tmp_path):
    told = []
    catalogue = catalogue_with(ftbench_run_finished=lambda self: told.append(1))
    run_sweep(tiny_sweep(), tmp_path, catalogue=catalogue)
    assert told == [1, 1]
