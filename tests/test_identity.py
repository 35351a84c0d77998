"""Keys as users meet them: edited plugins, sets among options, versions of the wrong type."""

import json
import re

import pytest

import ftbench
from ftbench.report.formats import markdown
from ftbench.report.summary import summarize
from ftbench.results import write_derived
from ftbench.store import read_records
from tests.support import (
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
        out, err = process.communicate(timeout=300)
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
    for seed in "0123":
        flags = sweep("--strategies", reference, "--seeds", seed, "--out", out)
        folders = (tmp_path / "tiny", tmp_path / "mine")
        command(*flags, env={**environment_with(*folders), "PYTHONHASHSEED": seed})
    labels = {record.labels["strategy"] for record in read_records(out)}
    assert labels == {"mine(parts=('alpha', 'bravo', 'delta', 'echo'))"}
    _, err = command(*sweep("--strategies", reference, "--seeds", "0,1,2,3", "--out", out))
    assert "4 runs, 4 already done, 0 to run" in err
    table, _ = command("table", out)
    assert len(re.findall(r"^\| mine\(", table, re.MULTILINE)) == 1


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
    ],
)
def test_whatever_a_record_holds_the_directory_is_read_and_written(tmp_path, path, value):
    values = json.loads(run_record("odd", seed=1).to_json())
    inner = values
    *names, last = path.split(".")
    for name in names:
        inner = inner[name]
    inner[last] = value
    records = [run_record("full", seed=seed) for seed in range(3)]
    write_runs(tmp_path, records)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write(json.dumps(values) + "\n")
    frame = ftbench.load_results(tmp_path)
    assert list(frame["seed"]) in ([0, 1, 2, 1], [1, 0, 1, 2])
    write_derived(tmp_path)
    assert "| full |" in markdown(summarize(frame))
    assert "| odd" in markdown(summarize(frame))
