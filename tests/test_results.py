import builtins
import resource

import numpy as np
import pandas as pd
import pytest

import ftbench
from ftbench.errors import StoreError
from ftbench.results import load_results, write_derived
from ftbench.store import read_records
from ftbench.sweep import run_sweep
from tests.support import grid, run_record, tiny_sweep, write_runs


def same_values(found, expected):
    """Assert equal columns and values, whether a missing one reads None, NaN or ''."""
    assert list(found.columns) == list(expected.columns)
    for name in expected.columns:
        for a, b in zip(found[name], expected[name], strict=True):
            missing = [v is None or v == "" or v != v for v in (a, b)]
            same = not any(missing) and a == (pytest.approx(b) if isinstance(b, float) else b)
            assert all(missing) or same, f"{name}: {a!r} is not {b!r}"


def test_parquet_and_csv_hold_what_load_results_returns(tmp_path, catalogue):
    spec = tiny_sweep(strategies=("full", "ewc", "scratch"), seeds=(0, 1))
    run_sweep(spec, tmp_path, catalogue=catalogue)
    loaded = load_results(tmp_path)
    assert len(loaded) == 6
    same_values(pd.read_parquet(tmp_path / "results.parquet"), loaded)
    texts = {name: str for name in loaded if isinstance(loaded[name].dropna().iloc[:1].max(), str)}
    same_values(pd.read_csv(tmp_path / "results.csv", dtype=texts), loaded)


def test_csv_spells_floats_to_the_last_digit(tmp_path):
    write_runs(tmp_path, [run_record(accuracy=0.1 + 0.2)])
    write_derived(tmp_path, read_records(tmp_path))
    assert pd.read_csv(tmp_path / "results.csv", dtype=str)["accuracy"][0] == repr(0.1 + 0.2)


def test_a_row_holds_the_numbers_of_its_record(tmp_path, catalogue):
    run_sweep(tiny_sweep(strategies=("full",)), tmp_path, catalogue=catalogue)
    [record] = read_records(tmp_path)
    row = load_results(tmp_path).iloc[0]
    for name, value in {**record.scores, **record.costs}.items():
        assert row[name] == value, name
    assert (row["key"], row["size"], row["seed"]) == (record.key, 12, 0)


def test_a_run_is_one_row_its_ok_attempt_or_else_its_last(tmp_path):
    attempts = [
        run_record("full", status="crashed"),
        run_record("full", accuracy=0.5),
        run_record("full", status="failed", message="later"),
        run_record("ewc", status="crashed"),
        run_record("ewc", status="timeout"),
    ]
    frame = load_results(write_runs(tmp_path, attempts))
    assert dict(zip(frame["strategy"], frame["status"], strict=True)) == {
        "full": "ok",
        "ewc": "timeout",
    }
    assert frame.set_index("strategy")["accuracy"]["full"] == 0.5
    assert np.isnan(frame.set_index("strategy")["accuracy"]["ewc"])


def test_load_results_takes_a_string_and_is_public(tmp_path):
    write_runs(tmp_path, [run_record()])
    assert len(ftbench.load_results(str(tmp_path))) == 1


def test_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(StoreError, match="there is no results directory"):
        load_results(tmp_path / "absent")
    with pytest.raises(StoreError, match="holds no results yet"):
        load_results(tmp_path)


def test_all_failed_runs_still_load_and_are_written(tmp_path):
    write_runs(tmp_path, [run_record(status="failed", message="no", seed=s) for s in range(2)])
    write_derived(tmp_path, read_records(tmp_path))
    assert list(pd.read_parquet(tmp_path / "results.parquet")["status"]) == ["failed"] * 2


def test_nothing_is_written_where_nothing_ran(tmp_path):
    write_derived(tmp_path, read_records(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_files_and_a_message(tmp_path):
    write_runs(tmp_path, grid({"full": [0.9] * 10}))
    write_derived(tmp_path, read_records(tmp_path))
    old = {name: (tmp_path / name).read_bytes() for name in ("results.csv", "results.parquet")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*results\.csv: .*runs\.jsonl holds"):
            write_derived(tmp_path, read_records(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert old == {name: (tmp_path / name).read_bytes() for name in old}
    assert not list(tmp_path.glob(".*tmp"))


def test_derived_files_are_never_seen_half_written(tmp_path, monkeypatch):
    write_runs(tmp_path, [run_record()])
    opened = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda path, *a, **k: (opened.append(str(path)), real(path, *a, **k))[1]
    )
    write_derived(tmp_path, read_records(tmp_path))
    assert not [name for name in opened if name.endswith(("/results.csv", "/results.parquet"))]
