"""What the notes under a table claim: seeds, rows, pools, costs."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from ftbench import columns
from ftbench.report import cells
from ftbench.report.formats.comparisons import comparisons
from ftbench.report.formats.csv import comma_separated
from ftbench.report.formats.markdown import markdown
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize
from ftbench.task import Metric
from tests.support import grid, run_record

HIGH, LOW = [0.90, 0.91, 0.92, 0.90, 0.91], [0.50, 0.52, 0.50, 0.51, 0.53]


def notes(records, metric=None):
    """Return the notes of the one table of some records, joined."""
    [table] = summarize(to_frame(records), metric).tables
    return " ".join(cells.notes(table))


# How many seeds.


def over(records, metric=None):
    """Return over how many seeds the note says that the means are."""
    return notes(records, metric).partition(" over ")[2].partition(" seeds")[0]


def test_a_failed_runs_seed_is_not_counted():
    records = [*grid({"a": HIGH, "b": LOW}), run_record("a", status="failed", seed=9)]
    assert over(records) == "5"


def test_rows_on_different_seeds_are_not_said_to_have_them_all():
    records = grid({"a": HIGH[:3]}) + [
        run_record("b", x, seed=5 + i) for i, x in enumerate(LOW[:3])
    ]
    assert over(records) == "3"


def test_cells_with_different_numbers_of_seeds_are_a_range():
    assert over(grid({"a": HIGH, "b": LOW[:3]})) == "3 to 5"
    assert over(grid({"a": HIGH}) + grid({"a": HIGH[:2]}, size=50)) == "2 to 5"


def test_a_run_that_lacks_the_number_is_not_counted_and_shown_as_lacking_it():
    records = [*grid({"a": HIGH}), run_record("a", seed=9, scores={"nll": 1.0})]
    assert over(records) == "5"
    assert over(records, "nll") == "6"
    assert "(1 without value)" in markdown(summarize(to_frame(records)))


def test_a_cell_without_any_seed_is_not_counted():
    records = [*grid({"a": HIGH}), *(run_record("b", status="timeout", seed=s) for s in range(5))]
    assert over(records) == "5"


def test_one_seed_beside_several_is_said_to_have_no_interval():
    found = notes(grid({"a": HIGH, "b": LOW[:1]}))
    assert "over 1 to 5 seeds (subset, head, batches); one seed has no interval, for" in found


def test_different_single_seeds_are_one_seed_a_cell():
    records = [run_record("a", seed=0), run_record("b", seed=1)]
    assert "One seed in each cell, so there are no intervals" in notes(records)
    assert " seeds" not in notes(records).partition("Too few")[0]


def test_where_no_run_has_the_number_no_seed_is_claimed():
    found = notes([run_record("a", status="failed"), run_record("b", status="crashed")])
    assert "No run that ended well has this number (accuracy)." in found
    assert "seed" not in found


@pytest.mark.parametrize("metric", [None, "train_seconds"])
def test_the_csv_counts_the_seeds_that_the_note_counts(metric):
    records = [*grid({"a": HIGH, "b": LOW[:3]}), run_record("b", status="diverged", seed=3)]
    lines = csv.DictReader(io.StringIO(comma_separated(summarize(to_frame(records), metric))))
    counts = sorted(int(line["seeds"]) for line in lines)
    assert counts == [3, 5]
    assert over(records, metric) == "3 to 5"


# Which rows.


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_the_interval_is_said_to_cover_seeds_for_these_test_rows(metric):
    found = notes(grid({"a": HIGH}, protocol={"test_rows": 1500}), metric)
    assert (
        "over 5 seeds (subset, head, batches), for these 1,500 test rows; other test rows would "
        "vary more." in found
    )


def test_records_that_do_not_count_their_test_rows_name_them_still():
    assert "for these test rows; other test rows would vary more." in notes(grid({"a": HIGH}))


def test_source_accuracy_is_for_the_source_rows():
    scores = {"accuracy": 0.9, "source_accuracy_before": 0.9, "source_accuracy_after": 0.4}
    protocol = {"test_rows": 500, "source_rows": 2000}
    records = [run_record(seed=seed, scores=scores, protocol=protocol) for seed in range(3)]
    for metric in ("source_accuracy_after", "source_accuracy_before"):
        found = notes(records, metric)
        assert "for these 2,000 source rows; other source rows would vary more" in found
        assert "test rows" not in found
    assert "Source kept is over seeds too, for these 2,000 source rows." in notes(records)
    assert "Source kept" not in notes(records, "source_accuracy_after")


@pytest.mark.parametrize("metric", ["validation_loss", "final_loss"])
def test_losses_are_on_rows_of_the_seeds_own(metric):
    records = grid({"a": HIGH}, protocol={metric: 0.5, "test_rows": 500})
    assert "on rows that change with the seed" in notes(records, metric)
    assert "test rows" not in notes(records, metric)


# Seeds that share rows.


def test_where_subsets_share_much_of_the_pool_the_share_is_said():
    records = [
        record
        for size in (100, 400)
        for record in grid({"a": HIGH}, size=size, protocol={"pool_rows": 1297})
    ]
    found = notes(records)
    assert "share rows of the pool of 1,297: 31 % at 400 labels on average." in found
    assert "at 100" not in found
    whole = grid({"a": HIGH}, size=1297, protocol={"pool_rows": 1297})
    assert "31 % at 400, 100 % at 1297 labels" in notes(records + whole)


def test_the_records_own_expectation_goes_before_the_ratio():
    protocol = {"pool_rows": 1000, "subset_overlap": 0.45}
    assert "45 % at 100 labels" in notes(grid({"a": HIGH}, size=100, protocol=protocol))


@pytest.mark.parametrize(
    ("records", "metric"),
    [
        (grid({"a": HIGH}, size=400), None),
        (grid({"a": HIGH}, size=400, protocol={"pool_rows": 100_000}), None),
        (grid({"a": HIGH[:1]}, size=400, protocol={"pool_rows": 1297}), None),
        (grid({"a": HIGH}, size=400, protocol={"pool_rows": 1297}), "train_seconds"),
    ],
    ids=["a record of old", "a large pool", "one seed", "a cost"],
)
def test_else_nothing_is_said_of_shared_rows(records, metric):
    assert "share rows" not in notes(records, metric)


# Costs.

SECONDS = {"a": [1.0, 1.1, 1.0, 1.2, 1.1], "b": [9.0, 9.1, 9.2, 9.0, 9.1]}
COSTS = [c.name for c in columns.COLUMNS if c.section == "costs" or c.device_bound]


def costly(name, protocol=None):
    """Return five seeds of two strategies whose cost of that name is very different."""
    records = [
        run_record(strategy, 0.9, seed=seed, costs={name: value}, protocol=protocol)
        for strategy, values in SECONDS.items()
        for seed, value in enumerate(values)
    ]
    if name != "run_seconds":
        return records
    return [
        type(r)(**{**r.__dict__, "run_seconds": SECONDS[r.labels["strategy"]][r.identity["seed"]]})
        for r in records
    ]


def test_the_costs_are_those_that_records_have():
    assert {"train_seconds", "train_cpu_seconds", "peak_memory_bytes", "run_seconds"} <= set(COSTS)


@pytest.mark.parametrize("name", COSTS)
def test_no_format_gives_a_verdict_on_a_cost(name):
    summary = summarize(to_frame(costly(name)), name)
    [table] = summary.tables
    shown = markdown(summary)
    body = [line for line in shown.splitlines() if line.startswith("| ")]
    assert not any("**" in line or "≈" in line or "±" in line for line in body)
    assert "Holm" not in shown
    assert "not tested" in shown
    assert {row.cells[20].standing for row in table.rows} == {"undecided"}
    lines = list(csv.DictReader(io.StringIO(comma_separated(summary))))
    assert {(line["standing"], line["low"], line["high"]) for line in lines} == {
        ("undecided", "", "")
    }
    assert [float(line["mean"]) for line in lines] == [
        pytest.approx(np.mean(SECONDS[line["strategy"]])) for line in lines
    ]
    assert comparisons(summary).count("\n") == 1  # the header


@pytest.mark.parametrize("name", ["steps", "pool_rows", "tuning_trials"])
def test_a_count_that_no_metric_describes_is_not_tested(name):
    summary = summarize(to_frame(costly("train_seconds", {name: 7})), name)
    assert "Counts are not tested." in markdown(summary)
    assert comparisons(summary).count("\n") == 1


def test_a_tasks_own_cost_is_not_tested():
    latency = Metric("latency", "latency (ms)", higher_is_better=False, cost="measured")
    records = [
        run_record(strategy, seed=seed, scores={"latency": value}, metrics=[latency])
        for strategy, values in SECONDS.items()
        for seed, value in enumerate(values)
    ]
    found = markdown(summarize(to_frame(records)))
    assert "latency (ms) by number of labels" in found
    assert "| a | 1.080 [1.000, 1.200] |" in found
    assert "not tested" in found


def test_a_score_that_nothing_describes_is_compared_still():
    records = [
        run_record(strategy, seed=seed, scores={"odd": value}, metrics=())
        for strategy, values in SECONDS.items()
        for seed, value in enumerate(values)
    ]
    assert comparisons(summarize(to_frame(records), "odd")).count("\n") == 2


def test_a_cost_shows_its_smallest_and_largest_so_that_a_doubled_time_is_seen():
    records = [run_record("a", seed=s, costs={"train_seconds": t}) for s, t in enumerate([1, 1, 4])]
    found = markdown(summarize(to_frame(records), "train_seconds"))
    assert "| a | 2.000 [1.000, 4.000] |" in found
    assert "Mean [smallest, largest] over 3 seeds. Costs are not tested" in found


def test_the_costs_beside_scores_are_said_to_be_means_that_are_not_tested():
    assert "Costs on the right are means over runs and are not tested." in notes(grid({"a": HIGH}))
    bare = [run_record(costs={"train_seconds": None, "trainable_parameters": None})]
    assert "Costs" not in notes(bare)


# Wall and CPU seconds.


def timed(pairs, **spec):
    """Return records with (wall, CPU) seconds, one a seed."""
    return [
        run_record("a", seed=seed, costs={"train_seconds": wall, "train_cpu_seconds": cpu}, **spec)
        for seed, (wall, cpu) in enumerate(pairs)
    ]


def test_cpu_seconds_stand_beside_wall_seconds():
    summary = summarize(to_frame(timed([(2.0, 1.9), (2.2, 2.1)])))
    [table] = summary.tables
    assert cells.headings(table)[-3:] == ["train s at 20", "CPU s at 20", "trainable"]
    assert cells.cost_cells(table, 0)[-3:] == ["2.10", "2.00", "1,000"]
    asked = markdown(summarize(to_frame(timed([(2.0, 1.9), (2.2, 2.1)])), "train_seconds"))
    assert "| a | 2.100 [2.000, 2.200], CPU 2.000 |" in asked


def test_records_of_old_have_no_column_for_cpu_seconds():
    summary = summarize(to_frame(grid({"a": HIGH})))
    assert "CPU" not in markdown(summary)


def test_a_row_of_old_records_beside_new_ones_has_a_dash():
    records = [*timed([(2.0, 1.9)]), run_record("b")]
    [table] = summarize(to_frame(records)).tables
    costs = {row.strategy: cells.cost_cells(table, i) for i, row in enumerate(table.rows)}
    assert costs["a"][-2] == "1.90"
    assert costs["b"][-2] == "–"


@pytest.mark.parametrize("metric", [None, "train_seconds"])
def test_runs_that_waited_are_counted(metric):
    found = notes(timed([(2.0, 1.9), (4.0, 2.0), (2.6, 2.0)]), metric)
    assert (
        "In 2 of 3 runs wall seconds are more than 1.25 times CPU seconds: the process waited"
        in found
    )
    assert "not what the runs would have cost alone." in found


@pytest.mark.parametrize(
    "records",
    [
        timed([(2.0, 1.9), (2.0, 3.8)]),
        timed([(2.0, 0.5)], environment={"device_type": "cuda", "device": "a GPU"}),
        grid({"a": HIGH}),
    ],
    ids=["no load", "a GPU", "records of old"],
)
def test_else_nothing_is_said_of_waiting(records):
    assert "waited" not in notes(records)


def test_the_frame_of_a_csv_without_descriptions_is_read_with_the_same_caution():
    frame = pd.read_csv(io.StringIO(to_frame(costly("train_seconds")).to_csv(index=False)))
    assert comparisons(summarize(frame, "trainable_parameters")).count("\n") == 1
    assert comparisons(summarize(frame)).count("\n") == 2
