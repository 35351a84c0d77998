import csv
import io

import numpy as np
import pandas as pd
import pytest

from ftbench.report.formats.comparisons import comparisons
from ftbench.report.formats.csv import comma_separated
from ftbench.report.formats.markdown import markdown
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize
from tests.support import grid, run_record

HIGH, NEAR, LOW = [0.90, 0.91, 0.92], [0.91, 0.90, 0.91], [0.50, 0.51, 0.53]

# Every oddity that a table may meet: failures, one seed, two recipes, a lone size, bars in names.
ODD = {
    "one run": [run_record()],
    "nothing ended well": [run_record("a", status="failed"), run_record("b", status="crashed")],
    "one seed": grid({"a": HIGH[:1], "b": LOW[:1]}),
    "two seeds": grid({"a": HIGH[:2], "b": LOW[:2]}),
    "equal scores": grid({"a": HIGH, "b": HIGH}),
    "some failed": [*grid({"a": HIGH, "b": LOW}), run_record("b", status="diverged", seed=7)],
    "a strategy failed": [*grid({"a": HIGH}), run_record("b", status="diverged")],
    "ragged sizes": grid({"a": HIGH, "b": LOW}) + grid({"a": HIGH}, size=50),
    "no shared seeds": [*grid({"a": HIGH}), run_record("b", 0.5, seed=9)],
    "two recipes": grid({"a": HIGH}) + grid({"a": HIGH}, patience=3, steps=None, epochs=2.0),
    "a bar in a name": [run_record("a", label="a(x='|')")],
    "no costs": [run_record(costs={"train_seconds": None, "trainable_parameters": None})],
    "a missing score": [*grid({"a": HIGH}), run_record("a", seed=9, scores={"nll": 1.0})],
    "no source, some with": [
        run_record("a", scores={"accuracy": 0.5, "source_accuracy_after": 0.4}),
        run_record("b", scores={"accuracy": 0.5}),
    ],
}
odd = pytest.mark.parametrize("records", ODD.values(), ids=ODD.keys())


def summary(records, metric=None):
    """Return the summary of some records."""
    return summarize(to_frame(records), metric)


def table_lines(text):
    """Return the lines of Markdown tables."""
    return [line for line in text.splitlines() if line.startswith("|")]


def columns(line):
    """Return how many columns a Markdown line has; an escaped bar separates nothing."""
    return line.replace("\\|", "").count("|") - 1


@odd
@pytest.mark.parametrize("render", [markdown, comma_separated, comparisons])
def test_no_text_ever_says_nan(records, render):
    text = render(summary(records)).lower()
    assert "nan" not in text
    assert "none" not in text.replace("= none", "")


@odd
def test_markdown_has_as_many_cells_in_every_line_of_a_table(records):
    for table in markdown(summary(records)).split("\n\n**"):
        lines = table_lines(table)
        assert len(lines) >= 3
        assert len({columns(line) for line in lines}) == 1


@odd
def test_csv_round_trips_through_pandas(records):
    found = pd.read_csv(io.StringIO(comma_separated(summary(records))))
    rows = [
        (table.title, row.strategy, size, cell.interval)
        for table in summary(records).tables
        for row in table.rows
        for size, cell in row.cells.items()
    ]
    assert len(found) == len(rows)
    for (title, strategy, size, interval), (_, line) in zip(rows, found.iterrows(), strict=True):
        assert (line["table"], line["strategy"], line["size"]) == (title, strategy, size)
        assert line["seeds"] == (interval.count if interval else 0)
        if interval:
            assert line["mean"] == pytest.approx(interval.mean, rel=1e-12)


def test_a_small_table_reads_exactly_so():
    records = [
        run_record(
            strategy,
            accuracy,
            size=size,
            seed=seed,
            scores={
                "accuracy": accuracy,
                "source_accuracy_before": 0.931,
                "source_accuracy_after": kept,
            },
            costs={"train_seconds": 1.234, "trainable_parameters": 293_802},
            protocol={"test_rows": 500, "source_rows": 2000},
        )
        for strategy, size, accuracies, kept in (
            ("full", 20, [0.70, 0.72, 0.74], 0.5),
            ("full", 100, [0.90, 0.91, 0.92], 0.47),
            ("head-only", 20, [0.71, 0.71, 0.73], 0.93),
            ("head-only", 100, [0.50, 0.51, 0.53], 0.93),
        )
        for seed, accuracy in enumerate(accuracies)
    ]
    records.append(run_record("full", status="diverged", size=20, seed=3))
    lines = [
        "**digits from glyphnet: accuracy (%) by number of labels**",
        "",
        "| strategy | 20 | 100 | source kept at 100 | train s at 100 | trainable |",
        "|---|---:|---:|---:|---:|---:|",
        "| full | 72.0 ± 5.0 ≈ (1 diverged) | **91.0 ± 2.5** | 47.0 ± 0.0 | 1.23 | 293,802 |",
        "| head-only | 71.7 ± 2.9 ≈ (1 not run) | 51.3 ± 3.8 | 93.0 ± 0.0 | 1.23 | 293,802 |",
        "",
        "Mean ± half the 95 % t-interval over 3 seeds (subset, head, batches), for these 500 test "
        "rows; other test rows would vary more.  ",
        "Source kept is over seeds too, for these 2,000 source rows.  ",
        "Costs on the right are means over runs and are not tested.  ",
        "Paired t-tests on shared seeds, Holm-corrected over the table's 2 comparisons: bold is "
        "distinguishable from every other in its column at 5 %, ≈ is not distinguishably "
        "worse than the leader.  ",
        "Missing runs: 1 diverged; means are over the others.  ",
        "Source accuracy before fine-tuning: 93.1 %.",
        "",
    ]
    assert markdown(summary(records)).split("\n") == lines


def test_bold_marks_the_best_and_only_where_it_is_distinguishable():
    assert "**91.0 ±" in markdown(summary(grid({"a": HIGH, "b": LOW})))
    tied = table_lines(markdown(summary(grid({"a": HIGH, "b": NEAR}))))
    assert not any("**" in line for line in tied)
    assert all("≈" in line for line in tied[2:])


def test_too_few_seeds_are_said_and_nothing_is_marked():
    text = markdown(summary(grid({"a": HIGH[:2], "b": LOW[:2]})))
    note = "Too few seeds to compare any pairs: a pair needs 3 shared seeds (--num-seeds 5)."
    assert text.splitlines()[-1] == note
    assert not any("≈" in line or "**" in line for line in table_lines(text))


def test_csv_holds_the_unrounded_numbers_and_what_is_missing():
    records = [*grid({"a": HIGH, "b": LOW}), run_record("b", status="timeout", seed=7)]
    lines = list(csv.DictReader(io.StringIO(comma_separated(summary(records)))))
    assert [line["standing"] for line in lines] == ["best", "behind"]
    assert float(lines[0]["mean"]) == np.mean(HIGH)
    assert [line["missing"] for line in lines] == ["1 not run", "1 timeout"]


def test_the_csvs_have_the_columns_that_the_documents_name():
    found = summary(grid({"a": HIGH, "b": LOW}))
    assert comma_separated(found).splitlines()[0] == (
        "table,strategy,size,metric,mean,low,high,seeds,standing,missing"
    )
    assert comparisons(found).splitlines()[0] == (
        "table,size,metric,first,second,difference,seeds,holm_p"
    )


def test_comparisons_list_every_pair_with_its_corrected_p():
    records = grid({"a": HIGH, "b": NEAR, "c": LOW})
    lines = pd.read_csv(io.StringIO(comparisons(summary(records))))
    assert len(lines) == 3
    [table] = summary(records).tables
    expected = {frozenset((c.first, c.second)): c.p_value for c in table.comparisons[20]}
    for _, line in lines.iterrows():
        assert line["holm_p"] == pytest.approx(expected[frozenset((line["first"], line["second"]))])


def test_other_metrics_are_shown_in_their_own_unit():
    records = grid({"a": HIGH})
    assert "| a | 0.090 ± 0.025 |" in markdown(summary(records, "nll"))
    assert "NLL (nats) by number of labels" in markdown(summary(records, "nll"))


def test_counts_are_shown_whole_where_nothing_says_how_they_read():
    text = markdown(summary(grid({"a": HIGH}), "trainable_parameters"))
    assert "**digits from glyphnet: trainable_parameters by number of labels**" in text
    assert "| a | 1,000 |" in text
