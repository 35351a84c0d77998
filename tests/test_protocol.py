"""Points 2, 3 and 5 to 10 of the protocol; test_protocol_isolation.py has 1 and 4."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ftbench
from ftbench import subsets
from ftbench.recipe import LATER
from ftbench.report.formats.markdown import markdown
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize

ALL = ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")


def test_2_training_and_validation_rows_add_up_to_the_size(tiny_run):
    plain = tiny_run(size=30).protocol
    stopped = tiny_run(size=30, steps=4, patience=2, validate_every=2).protocol
    assert (plain["training_rows"], plain["validation_rows"]) == (30, 0)
    assert (stopped["training_rows"], stopped["validation_rows"]) == (24, 6)
    assert plain["subset_fingerprint"] == stopped["subset_fingerprint"]


@pytest.mark.parametrize("patience", [None, 3])
def test_2_no_label_outside_the_budget_is_read(tiny, tiny_run, patience):
    """Labels outside the subset are moved; nothing but the fingerprint may notice."""
    rows = subsets.draw(tiny.Task().pool().strata, 30, 0)

    class Elsewhere(tiny.Task):
        def pool(self):
            pool = super().pool()
            outside = np.setdiff1d(np.arange(60), rows)
            pool.inputs[outside] = float("nan")
            return pool

    options = {"size": 30, "steps": 8, "patience": patience, "validate_every": 2}
    assert tiny_run(task=Elsewhere, **options).scores == tiny_run(**options).scores


def test_3_subsets_are_nested_and_their_fingerprint_is_of_sorted_row_ids(tiny, tiny_run):
    labels = tiny.Task().pool().strata
    small, large = (subsets.draw(labels, size, 5) for size in (12, 30))
    assert set(small.tolist()) < set(large.tolist())
    for rows in (small, large):
        expected = hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()
        found = tiny_run(size=len(rows), seed=5).protocol["subset_fingerprint"]
        assert found == expected
    assert np.bincount(labels[large]).tolist() == [15, 9, 6]  # as 30 : 18 : 12 in the pool


def test_3_a_size_below_the_number_of_classes_is_refused(tiny_run):
    with pytest.raises(ftbench.FtbenchError, match=r"size 2 cannot hold .*smallest .* is 3"):
        tiny_run(size=2)


def test_5_strategies_take_equal_steps_and_batches(tiny_run):
    used = [tiny_run(name).protocol for name in ALL]
    for name in ("steps", "planned_steps", "batch_size", "training_rows"):
        assert len({protocol[name] for protocol in used}) == 1, name
    assert (used[0]["steps"], used[0]["batch_size"]) == (4, 5)


@pytest.mark.parametrize("strategy", ALL)
def test_6_the_same_spec_gives_the_same_scores_bit_for_bit(tiny_run, strategy):
    options = {"steps": 6, "mixing": "mixup(alpha=0.4)", "head": "plain(dropout=0.2)"}
    first = tiny_run(strategy, **options)
    tiny_run("full", seed=9)
    again = tiny_run(strategy, **options)
    assert first.status == again.status == "ok"
    assert (first.scores, first.protocol) == (again.scores, again.protocol)


FRESH = """
import json, sys, torch, ftbench
from ftbench.run import run_one
from ftbench.sweep import expand
catalogue = ftbench.load_catalogue()
spec = ftbench.SweepSpec.model_validate_json(sys.argv[1])
records = [run_one(run, catalogue, device="cpu") for run in expand(spec, catalogue)]
print(json.dumps([[r.key, r.status, r.scores, r.protocol] for r in records]))
"""


@pytest.mark.slow
def test_6_a_fresh_process_gives_the_same_records(tmp_path):
    spec = ftbench.SweepSpec(
        strategies=("scratch", "ewc"), sizes=(20,), seeds=(1,), device="cpu",
        recipe={"steps": 3, "mixing": "mixup(alpha=0.5)"},
    )  # fmt: skip
    ftbench.run_sweep(spec, tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "scores" in record]
    here = [[r["key"], r["status"], r["scores"], r["protocol"]] for r in records]
    there = subprocess.run(
        [sys.executable, "-c", FRESH, spec.model_dump_json()],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"},
        cwd=Path(ftbench.__file__).parents[1],
    )  # fmt: skip
    assert [record[1] for record in here] == ["ok", "ok"]
    assert json.loads(there.stdout) == here


def test_6_threads_are_part_of_the_key(catalogue, tiny_spec):
    assert tiny_spec(catalogue).threads == ftbench.SweepSpec().threads == 1
    assert tiny_spec(catalogue, threads=1).key != tiny_spec(catalogue, threads=2).key


@pytest.fixture
def records(tiny_run):
    """One good record of each of two strategies."""
    return [tiny_run("full"), tiny_run("head-only")]


def elsewhere(record):
    return dataclasses.replace(
        record, key=record.key[::-1], environment={**record.environment, "device": "another"}
    )


def test_7_costs_say_where_they_were_measured(records):
    for record in records:
        assert record.protocol["shared_device"] is False
        assert record.environment["device"]


def test_7_timings_of_several_devices_are_not_compared(records):
    here, there = to_frame(records), to_frame([records[0], elsewhere(records[1])])
    assert summarize(here, "train_seconds").tables[0].rows[0].train_seconds is not None
    with pytest.raises(ftbench.FtbenchError, match="train_seconds comes from several devices"):
        summarize(there, "train_seconds")
    assert {row.train_seconds for row in summarize(there).tables[0].rows} == {None}


def test_8_a_failed_run_is_a_record_and_shown_as_missing(tiny_run, records):
    class Broken(ftbench.Strategy):
        name = "broken"

        def finish(self, model, data):
            raise RuntimeError("out of order")

    failed = tiny_run(Broken)
    table = summarize(to_frame([*records, failed])).tables[0]
    row = next(row for row in table.rows if row.strategy == "broken")
    assert row.cells[12].interval is None
    assert dict(row.cells[12].missing) == {"failed": 1}
    assert any("Missing runs: 1 failed" in note for note in table.notes)
    assert json.loads(failed.to_json())["message"].startswith("RuntimeError: out of order")


def test_9_every_part_that_can_change_a_score_changes_the_key(catalogue, tiny_spec):
    spec = tiny_spec(catalogue)
    replace = dataclasses.replace
    others = [
        *(
            replace(spec, **{part: replace(getattr(spec, part), **{field: value})})
            for part in ("task", "backbone", "strategy")
            for field, value in (
                ("name", "x"), ("version", "9"), ("options", {"a": 1}), ("fingerprint", "f"),
            )
        ),
        *(replace(spec, recipe={**spec.recipe, name: "changed"}) for name in spec.recipe),
        *(
            replace(spec, parts={**spec.parts, kind: replace(part, options={"a": 1})})
            for kind, part in spec.parts.items()
        ),
        replace(spec, size=13),
        replace(spec, seed=1),
        replace(spec, threads=2),
        replace(spec, deterministic=True),
    ]  # fmt: skip
    keys = {other.key for other in others}
    assert (
        len(keys)
        == len(others)
        == 12 + len(ftbench.Recipe.model_fields.keys() - {*LATER, "preset"}) + 4
    )
    assert spec.key not in keys
    assert tiny_spec(catalogue).key == spec.key


def test_9_the_environment_is_recorded_beside_the_key_and_mixing_is_said(records):
    assert {"python", "torch", "numpy", "commit", "device"} <= set(records[0].environment)
    mixed = summarize(to_frame([records[0], elsewhere(records[1])])).tables[0]
    assert any("several devices" in note for note in mixed.notes)
    assert not any(
        "several devices" in note for note in summarize(to_frame(records)).tables[0].notes
    )


def test_10_too_few_seeds_are_said_to_be_too_few(records):
    frame = to_frame(records)
    table = summarize(frame).tables[0]
    assert {cell.standing for row in table.rows for cell in row.cells.values()} == {"undecided"}
    text = markdown(summarize(frame))
    assert "Too few seeds" in text
    assert "nan" not in text.lower()


def test_10_best_is_marked_only_where_it_is_distinguishable(tiny_run):
    base = {name: tiny_run(name) for name in ("full", "head-only")}

    def table(gap):
        noise = [0.00, 0.02, -0.01, 0.01, -0.02, 0.015]
        runs = []
        for seed, extra in enumerate(noise):
            for name, score in (("full", 0.8 + gap + extra), ("head-only", 0.8 - extra)):
                identity = {**base[name].identity, "seed": seed}
                scores = {"accuracy": score}
                runs.append(dataclasses.replace(
                    base[name], key=f"{name}{seed}", identity=identity, scores=scores
                ))  # fmt: skip
        return {
            row.strategy: row.cells[12].standing for row in summarize(to_frame(runs)).tables[0].rows
        }

    assert table(0.15) == {"full": "best", "head-only": "behind"}
    assert table(0.002) == {"full": "tied", "head-only": "tied"}
