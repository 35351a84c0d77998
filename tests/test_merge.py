"""Shards of a sweep, and the one directory that they are joined to."""

import dataclasses
import json
import re

import pytest
from typer.testing import CliRunner

import ftbench
from ftbench import store
from ftbench.cli.app import app
from ftbench.errors import SpecError, StoreError
from ftbench.merge import merge
from ftbench.sweep import Shard, parse_shard, plan_for
from tests.support import run_record


@pytest.fixture
def spec():
    return ftbench.SweepSpec(
        tasks=("tiny",),
        backbones=("tiny-net",),
        strategies=("full", "head-only", "partial"),
        sizes=(12,),
        seeds=(0, 1),
        device="cpu",
        recipe={"steps": 3, "batch_size": 5},
    )


def scores(directory):
    records = store.latest(store.read_records(directory)).values()
    return {record.key: record.scores for record in records}


def test_shards_share_the_runs_out_and_merge_to_the_whole(tmp_path, spec, catalogue):
    ftbench.run_sweep(spec, tmp_path / "whole", catalogue=catalogue)
    for number in range(1, 5):
        shard = Shard(number, 4)
        plan = ftbench.run_sweep(spec, tmp_path / "parts", catalogue=catalogue, shard=shard)
        assert len(plan.runs) == len(plan.done) == (2 if number < 3 else 1)
    parts = sorted((tmp_path / "parts").iterdir())
    assert [part.name for part in parts] == [f"shard-{i}-of-4" for i in range(1, 5)]
    merged = merge(parts, tmp_path / "joined")
    assert merged.runs == 6
    assert list(merged.brought.values()) == [2, 2, 1, 1]
    assert scores(tmp_path / "joined") == scores(tmp_path / "whole")
    assert len(ftbench.load_results(tmp_path / "joined")) == 6
    columns = ["key", "row", "nll"]
    outcomes = [ftbench.load_outcomes(tmp_path / name)[columns] for name in ("whole", "joined")]
    first, second = (frame.sort_values(["key", "row"], ignore_index=True) for frame in outcomes)
    assert first.equals(second)
    # The plan is the whole grid's, which is done.
    resumed = plan_for(spec, tmp_path / "joined", catalogue)
    assert not resumed.pending
    lines = (tmp_path / "joined" / "merged.jsonl").read_text().splitlines()
    assert {json.loads(line)["from"] for line in lines} == set(map(str, parts))


def written(directory, *records):
    with store.Store(directory) as opened:
        for record in records:
            opened.append(record)
    return directory


def test_merging_twice_brings_nothing_new(tmp_path):
    one = written(tmp_path / "one", run_record(seed=1))
    two = written(tmp_path / "two", run_record(seed=1), run_record(seed=2))
    assert merge([one, two], tmp_path / "out").brought == {str(one): 1, str(two): 1}
    assert merge([one, two], tmp_path / "out").brought == {str(one): 0, str(two): 0}
    assert len(store.read_records(tmp_path / "out")) == 2


def test_what_ended_well_is_taken(tmp_path):
    failed = written(tmp_path / "failed", run_record(seed=1, status="crashed", message="gone"))
    ok = written(tmp_path / "ok", run_record(seed=1))
    for order in ([failed, ok], [ok, failed]):
        merged = merge(order, tmp_path / f"out-{order[0].name}")
        assert merged.runs == 1
    for name in ("failed", "ok"):
        [record] = store.latest(store.read_records(tmp_path / f"out-{name}")).values()
        assert record.status == "ok"


def test_two_different_records_of_one_run_are_refused(tmp_path):
    one = written(tmp_path / "one", run_record(seed=1, accuracy=0.9))
    two = written(tmp_path / "two", run_record(seed=1, accuracy=0.8))
    said = r"one and .*two hold two different records of one run \(full at size \d+, seed 1; .*0\.9"
    with pytest.raises(StoreError, match=said):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_records_say_where_they_were_made(tmp_path):
    record = run_record(seed=1, environment={"device": "a GPU of old"})
    merge([written(tmp_path / "one", record)], tmp_path / "out")
    [found] = store.read_records(tmp_path / "out")
    assert found == dataclasses.replace(record, outcomes=b"")


def test_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(StoreError, match="there is no results directory"):
        merge([tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "1/2/3", "-1/3", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(SpecError, match=re.escape(f"got '{text}'")):
        parse_shard(text)
    assert parse_shard("3/8") == Shard(3, 8)


def test_the_command_says_what_it_joined(tmp_path):
    one, two = (written(tmp_path / str(s), run_record(seed=s)) for s in (1, 2))
    found = CliRunner().invoke(app, ["merge", str(one), str(two), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert f"1 runs from {one}" in found.output
    assert "holds 2 runs" in found.output
