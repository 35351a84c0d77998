"""Keys as users meet them: edited plugins, sets among options, versions of the wrong type."""

import json
import math
import re

import pytest

import ftbench
from ftbench import columns
from ftbench.report.formats.markdown import markdown
from ftbench.report.frame import NUMBERS, to_frame
from ftbench.report.tables import summarize
from ftbench.results import write_derived
from ftbench.store import read_records
from tests.support import (
    STUCK_SECONDS,
    TINY_FLAGS,
    distribution,
    environment_with,
    ftbench_process,
    run_record,
    tiny_distribution,
    write_runs,
)

PLUGIN = """
import ftbench

class Mine(ftbench.Strategy):
    name = "mine"

    class Options(ftbench.StrategyOptions):
        parts: frozenset[str] = frozenset()

    def trains(self, stage, progress):
        return stage.is_head

@ftbench.hookimpl
def ftbench_strategies():
    return [Mine]
"""


@pytest.fixture
def command(tmp_path):
    """A function that runs ``ftbench`` with the tiny task and the plugin ``mine`` installed."""
    site = tiny_distribution(tmp_path / "tiny")
    mine = distribution(
        tmp_path / "mine", "mine", entry_points={"x": "mine"}, modules={"mine": PLUGIN}
    )

    def call(*arguments, code=0, **options):
        process = ftbench_process(arguments, site, mine, **options)
        out, err = process.communicate(timeout=STUCK_SECONDS)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out, err

    return call


def sweep(*more):
    return ("sweep", *TINY_FLAGS, "--sizes", "12", *more)


@pytest.mark.slow
def test_an_edited_strategy_runs_again_and_the_reason_is_named(command, tmp_path):
    out = tmp_path / "out"
    arguments = sweep("--strategies", "mine,full", "--seeds", "0", "--out", out)
    command(*arguments)
    path = tmp_path / "mine" / "mine.py"
    path.write_text(PLUGIN.replace("stage.is_head\n", "True  # everything\n"))
    status, _ = command("status", out, "--why-rerun")
    assert re.search(r"1 × strategy\.source: '\w{12}…' → '\w{12}…'\n", status)
    table, err = command(*arguments)
    assert "2 runs, 1 already done, 1 to run" in err
    records = read_records(out)
    trained = [r.costs["trainable_parameters"] for r in records if r.labels["strategy"] == "mine"]
    assert trained[0] < trained[1]
    assert len(re.findall(r"^\| mine", table, re.MULTILINE)) == 1  # of the code as it is
    both, _ = command("table", out)
    assert len(re.findall(r"^\| mine with code \w{8} ", both, re.MULTILINE)) == 2

    path.write_text(PLUGIN.replace("return stage", "# only the head\n        return stage"))
    _, err = command(*arguments)
    assert "2 runs, 2 already done, 0 to run" in err


@pytest.mark.slow
def test_a_set_among_the_options_is_one_point_in_every_process(command, tmp_path):
    out = tmp_path / "out"
    reference = "mine(parts=('delta','alpha','echo','bravo'))"
    for seed in "01":
        flags = sweep("--strategies", reference, "--seeds", seed, "--out", out)
        folders = (tmp_path / "tiny", tmp_path / "mine")
        command(*flags, env={**environment_with(*folders), "PYTHONHASHSEED": seed})
    labels = {record.labels["strategy"] for record in read_records(out)}
    assert labels == {"mine(parts=('alpha', 'bravo', 'delta', 'echo'))"}
    _, err = command(*sweep("--strategies", reference, "--seeds", "0,1", "--out", out))
    assert "2 runs, 2 already done, 0 to run" in err
    table = markdown(summarize(to_frame(read_records(out)), "accuracy"))
    assert len(re.findall(r"^\| mine\(", table, re.MULTILINE)) == 1


def put(values, path, value):
    """Set one member of a record's JSON, by its dotted name."""
    *names, last = path.split(".")
    for name in names:
        values = values[int(name) if isinstance(values, list) else name]
    values[last] = value


ROWS = ("test_rows", "pool_rows", "source_rows")
COUNTS = (math.inf, math.nan, 0.3, 0, -3, 10**310)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("identity.strategy.version", 2),
        ("identity.strategy.version", None),
        ("identity.strategy.version", [1, {"a": 2}]),
        ("identity.task.fingerprint", None),
        ("identity.strategy.owner", 5),
        ("identity.harness", 3),
        ("identity.recipe.steps", "many"),
        ("identity.recipe.steps", [1]),
        ("identity.recipe.steps", 10**30),
        ("environment.torch", {"a": 1}),
        ("environment.device", 7),
        ("protocol.test_rows", "some"),
        ("protocol.steps", {"a": [1]}),
        ("scores.seed", 0.5),
        ("scores.key", 1),
        ("costs.size", 3),
        ("metrics", []),
        ("metrics.0.rows", "message"),
        ("metrics.0.rows", "deterministic"),
        ("metrics.0.scored_on", "key"),
        ("metrics.0.name", "odd_score"),
        ("metrics.0.later", {"a": 1}),
        ("metrics.0.later", json.loads("[" * 900 + "]" * 900)),
        *((f"protocol.{rows}", count) for rows in ROWS for count in COUNTS),
        *(("protocol", dict.fromkeys(NUMBERS, value)) for value in ("x", [1], True, math.inf)),
        ("protocol.steps", math.inf),
        ("protocol.steps", 10**400),
        ("labels.task", "half \ud800"),
        ("labels.strategy", "odd \udfff"),
        ("message", "\ud800"),
        ("environment.device", "\ud800"),
        ("protocol.\ud800", "\ud800"),
    ],
)
def test_whatever_a_record_holds_the_directory_is_read_and_written(tmp_path, path, value):
    scores = {"accuracy": 0.9, "source_accuracy_after": 0.8}
    values = json.loads(run_record("odd", seed=1, scores=scores).to_json())
    put(values, path, value)
    records = [run_record("full", seed=seed, scores=scores) for seed in range(3)]
    write_runs(tmp_path, records)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write(json.dumps(values) + "\n")
    frame = ftbench.load_results(tmp_path)
    assert list(frame["seed"]) in ([0, 1, 2, 1], [1, 0, 1, 2])
    write_derived(tmp_path, read_records(tmp_path))
    assert "| full |" in markdown(summarize(frame))
    assert "| odd" in markdown(summarize(frame))
    if path == "protocol":
        for name in NUMBERS & set(frame.select_dtypes("number")):
            assert "| full |" in markdown(summarize(frame, name))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("metrics.0.name", ["x"], "metrics[0].name is ['x'], not a string"),
        ("metrics.0.name", "status", "metrics[0].name is 'status', the name of another column"),
        ("metrics.0.name", "message", "metrics[0].name is 'message', the name of another column"),
        ("metrics.1.title", None, "metrics[1].title is missing, not a string"),
        ("metrics.0.rows", ["a"], "metrics[0].rows is ['a'], not the name of a column"),
        ("metrics.0.scored_on", 5, "metrics[0].scored_on is 5, not the name of a column"),
        ("metrics.0.cost", 7, "metrics[0].cost is 7, not one of '', 'measured', 'counted'"),
        ("metrics.0.cost", "time", "metrics[0].cost is 'time', not one of"),
        ("metrics.0.percent", 1, "metrics[0].percent is 1, not True or False"),
        ("metrics.0.higher_is_better", "yes", "metrics[0].higher_is_better is 'yes', not True, F"),
        ("costs.trainable_parameters", math.inf, "costs.trainable_parameters is inf, not a finite"),
        ("costs.step_seconds", "x", "costs.step_seconds is 'x', not a number"),
        ("scores.accuracy", math.nan, "scores.accuracy is nan, not a finite number"),
        ("run_seconds", -math.inf, "run_seconds is -inf, not a finite number"),
        ("identity.recipe.rate", math.nan, "identity.recipe.rate is nan, not a finite number"),
        ("identity.task.options", {"a": [math.inf]}, "identity.task.options.a.0 is inf, not a fin"),
    ],
)
def test_a_record_that_no_table_can_read_is_skipped_and_its_field_named(
    tmp_path, caplog, path, value, problem
):
    values = json.loads(run_record("odd").to_json())
    put(values, path, value)
    write_runs(tmp_path, [run_record("full", seed=seed) for seed in range(3)])
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write(json.dumps(values) + "\n")
    frame = ftbench.load_results(tmp_path)
    assert list(frame["seed"]) == [0, 1, 2]
    [message] = caplog.messages
    assert f", line 4 is not a record and was skipped: {problem}" in message


def test_an_identity_of_too_many_levels_is_skipped(tmp_path, caplog):
    line = run_record("odd").to_json().replace('"options": {', '"options": {"a": @, ', 1)
    write_runs(tmp_path, [run_record("full")])
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.writelines(line.replace("@", "[" * n + "]" * n) + "\n" for n in (2000, 100_000))
    assert len(ftbench.load_results(tmp_path)) == 1
    assert len(caplog.messages) == 2


def test_every_metric_that_tables_know_is_a_number_in_every_frame():
    known = (*columns.metrics(), *(m.name for m in ftbench.ClassificationTask.metrics))
    assert set(known) <= NUMBERS


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("metric", [None, "trainable_parameters", "steps"])
def test_numbers_too_large_to_add_up_are_no_obstacle(metric):
    costs, protocol = {"trainable_parameters": 1e308}, {"steps": 1e308}
    records = [run_record(seed=seed, costs=costs, protocol=protocol) for seed in range(3)]
    assert "| full |" in markdown(summarize(to_frame(records), metric))
