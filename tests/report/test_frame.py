import dataclasses
import math

import pandas as pd

import ftbench
from ftbench.records import HARNESS
from ftbench.report.frame import condition_of, to_frame
from tests.support import run_record, run_spec


def test_a_frame_has_one_row_a_record_sorted_by_the_grid():
    records = [
        run_record(strategy, size=size, seed=seed)
        for seed in (1, 0)
        for size in (100, 20)
        for strategy in ("full", "ewc")
    ]
    frame = to_frame(records)
    found = list(zip(frame["strategy"], frame["size"], frame["seed"], strict=True))
    assert found == [(s, n, k) for s in ("ewc", "full") for n in (20, 100) for k in (0, 1)]


def test_the_first_columns_say_which_run_it_was_and_how_it_ended():
    frame = to_frame([run_record()])
    first = ["task", "backbone", "strategy", "size", "seed", "status", "message"]
    assert list(frame.columns[:7]) == first


def test_columns_stand_in_the_same_order_whichever_run_comes_first():
    ok, failed = run_record(seed=0), run_record(seed=1, status="failed")
    assert set(to_frame([ok, failed])) == set(to_frame([failed, ok]))
    assert list(to_frame([ok, failed])) == list(to_frame([failed, ok]))


def test_scores_of_a_failed_run_are_missing_not_zero():
    frame = to_frame([run_record(seed=0), run_record(seed=1, status="failed", message="why")])
    failed = frame[frame["status"] == "failed"].iloc[0]
    assert math.isnan(failed["accuracy"])
    assert failed["message"] == "why"
    assert frame["accuracy"].dtype == "float64"


def test_a_run_that_crashed_before_anything_was_known_is_a_row():
    frame = to_frame([run_record(status="crashed")])
    assert frame["status"].tolist() == ["crashed"]
    assert frame["env_torch"].tolist() == [""]


def test_how_scores_read_goes_with_the_frame_by_task():
    metric = ftbench.Metric("rmse", "RMSE (m)", higher_is_better=False)
    records = [run_record(metrics=()), run_record(task="depth", metrics=[metric])]
    records.append(run_record(task="depth", seed=1, status="failed"))
    frame = to_frame(records)
    assert frame.attrs["metrics"] == {"depth": [dataclasses.asdict(metric)]}
    assert frame[frame["seed"] == 0].attrs == frame.attrs


def test_owners_are_distributions_and_the_environment_has_their_versions():
    environment = {"strategy_owner": "other 2.0", "scikit-learn": "1.9", "cuda": "12, cuDNN 9"}
    frame = to_frame([run_record(owner="other", environment=environment)])
    names = ["strategy_owner", "env_strategy_owner", "env_scikit_learn", "env_cuda", "harness"]
    assert frame[names].iloc[0].tolist() == ["other", "other 2.0", "1.9", "12, cuDNN 9", HARNESS]


def test_no_records_give_an_empty_frame_with_the_first_columns():
    frame = to_frame([])
    assert frame.empty
    assert {"task", "strategy", "size", "seed", "status"} <= set(frame)


def test_options_are_json_with_sorted_keys():
    frame = to_frame([run_record(options={"b": 1, "a": [2.0, None]})])
    assert frame["strategy_options"][0] == '{"a": [2.0, null], "b": 1}'


def test_runs_of_one_condition_differ_in_strategy_size_and_seed_alone():
    base = condition_of(run_spec().identity())
    same = [run_spec("ewc"), run_spec(size=50), run_spec(seed=9), run_spec(version="2")]
    assert {condition_of(spec.identity()) for spec in same} == {base}
    others = [run_spec(task="letters"), run_spec(learning_rate=0.1)]
    assert base not in {condition_of(spec.identity()) for spec in others}


def test_a_recipe_setting_is_a_column():
    frame = to_frame([run_record(learning_rate=0.1), run_record(learning_rate=0.2)])
    assert sorted(frame["recipe_learning_rate"]) == [0.1, 0.2]
    assert isinstance(frame, pd.DataFrame)
