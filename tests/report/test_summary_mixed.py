"""Records that one table must not mix, or must say that it mixes."""

import dataclasses

import pytest

from ftbench import columns
from ftbench.errors import SpecError
from ftbench.report import cells
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize
from tests.support import grid, run_record

SCORES = [0.9, 0.91, 0.92]


def notes(records):
    """Return the notes of the one table of some records, joined."""
    [table] = summarize(to_frame(records)).tables
    return " ".join(cells.notes(table))


def test_two_recipes_are_two_tables_whose_titles_tell_them_apart():
    records = grid({"full": SCORES}) + grid({"full": SCORES}, learning_rate=0.1)
    tables = summarize(to_frame(records)).tables
    assert {t.title.partition(", ")[2] for t in tables} == {
        "learning_rate = 0.001",
        "learning_rate = 0.1",
    }
    assert all(t.rows[0].cells[20].interval.count == 3 for t in tables)


def test_settings_that_one_recipe_lacks_are_spelt_none_and_counts_as_counts():
    records = grid({"full": SCORES}) + grid({"full": SCORES}, steps=None, epochs=2.0)
    records += grid({"full": SCORES}, patience=5)
    titles = " / ".join(t.title for t in summarize(to_frame(records)).tables)
    assert "nan" not in titles
    assert "steps = 150," in titles
    assert "patience = 5" in titles
    assert "patience = 5.0" not in titles


def test_two_tasks_are_two_tables():
    records = grid({"full": SCORES}) + grid({"full": SCORES}, task="letters")
    titles = [t.title for t in summarize(to_frame(records)).tables]
    assert [title.partition(" ")[0] for title in titles] == ["digits", "letters"]


def of_task(records, **changes):
    """Return records whose task's identity is changed."""
    return [
        dataclasses.replace(r, identity={**r.identity, "task": {**r.identity["task"], **changes}})
        for r in records
    ]


def test_what_two_tasks_differ_in_besides_their_names_is_in_no_title():
    letters = of_task(grid({"full": SCORES}, task="letters"), fingerprint="another", owner="other")
    tables = summarize(to_frame(grid({"full": SCORES}) + letters)).tables
    assert {t.title for t in tables} == {"digits from glyphnet", "letters from glyphnet"}


def test_what_differs_behind_one_tasks_name_is_in_the_titles():
    other = of_task(grid({"full": SCORES}), fingerprint="another")
    titles = [t.title for t in summarize(to_frame(grid({"full": SCORES}) + other)).tables]
    assert sorted(title.partition("task_fingerprint = ")[2] for title in titles) == [
        "another",
        "task-fingerp",
    ]


def test_two_versions_of_a_strategy_are_two_rows():
    records = grid({"full": SCORES}) + grid({"full": [0.5, 0.5, 0.6]}, version="2")
    [table] = summarize(to_frame(records)).tables
    assert [r.strategy for r in table.rows] == ["full v1", "full v2"]
    assert table.rows[1].cells[20].interval.mean == pytest.approx(1.6 / 3)


def test_options_that_a_label_hides_are_two_rows_still():
    # A default that changed between two releases leaves equal labels on different options.
    records = grid({"full": SCORES}, options={"decay": 1.0})
    records += grid({"full": [0.5, 0.5, 0.6]}, options={"decay": 0.5})
    [table] = summarize(to_frame(records)).tables
    assert len(table.rows) == 2
    assert {r.cells[20].interval.count for r in table.rows} == {3}


def test_two_owners_of_one_name_are_two_rows():
    records = grid({"full": SCORES}) + grid({"full": [0.5, 0.5, 0.6]}, owner="other")
    [table] = summarize(to_frame(records)).tables
    assert [r.strategy for r in table.rows] == ["full of ftbench", "full of other"]
    assert {r.cells[20].interval.count for r in table.rows} == {3}


def test_timings_of_several_devices_are_withheld_with_a_note():
    records = grid({"full": SCORES})
    records += grid({"ewc": SCORES}, environment={"device": "another processor"})
    [table] = summarize(to_frame(records)).tables
    assert {r.train_seconds for r in table.rows} == {None}
    assert "Timings come from several devices and are not compared." in table.notes
    assert "Runs differ in device: a processor, another processor." in table.notes


@pytest.mark.parametrize("metric", [c.name for c in columns.COLUMNS if c.device_bound])
def test_a_table_of_timings_or_memory_from_several_devices_is_refused(metric):
    costs = {c.name: 0.1 for c in columns.of("costs")}
    records = [run_record(s, costs=costs, environment={"device": s}) for s in ("a", "b")]
    [alone] = summarize(to_frame(records[:1]), metric).tables
    assert alone.metric.name == metric
    with pytest.raises(SpecError, match=f"{metric} comes from several devices and cannot be"):
        summarize(to_frame(records), metric)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("ftbench", "Runs differ in ftbench: 0.1.0, other."),
        ("torch", "Runs differ in torch: 2.11.0, other."),
        ("commit", "Runs differ in commit: abc, other."),
        ("numpy", "Runs differ in numpy: other, unknown."),
        ("scikit-learn", "Runs differ in scikit-learn: other, unknown."),
        ("python", "Runs differ in python: other, unknown."),
        ("cuda", "Runs differ in cuda: other, unknown."),
        ("platform", "Runs differ in platform: other, unknown."),
    ],
)
def test_a_table_that_mixes_environments_says_so(name, note):
    records = grid({"full": SCORES}) + grid({"ewc": SCORES}, environment={name: "other"})
    assert note in notes(records)


def test_two_releases_of_a_strategys_owner_in_one_table_are_named():
    records = grid({"full": SCORES})
    records += [run_record("full", seed=9, environment={"strategy_owner": "ftbench 0.2.0"})]
    assert "Runs of full come from ftbench 0.1.0 and ftbench 0.2.0." in notes(records)


def test_one_environment_needs_no_note():
    found = notes(grid({"full": SCORES, "ewc": SCORES}))
    assert "Runs " not in found


def test_a_run_that_crashed_has_no_environment_and_mixes_none():
    records = [*grid({"full": SCORES, "ewc": SCORES}), run_record(seed=9, status="crashed")]
    found = notes(records)
    assert "unknown" not in found
    assert "Runs " not in found


def test_a_row_with_one_seed_decides_nothing_for_the_others():
    scores = {
        "a": [0.90, 0.91, 0.92, 0.90, 0.91, 0.93],
        "b": [0.95, 0.80, 0.81, 0.80, 0.82, 0.81],
        "c": [0.99],
    }
    records = [
        run_record(name, accuracy, seed=seed)
        for name, row in scores.items()
        for seed, accuracy in enumerate(row)
    ]
    [table] = summarize(to_frame(records)).tables
    standings = {row.strategy: row.cells[table.sizes[0]].standing for row in table.rows}
    assert standings["c"] == "undecided"
    assert standings["a"] in ("best", "tied")
    order = [row.strategy for row in table.rows]
    assert order.index("a") < order.index("b")
