import io
import re

import pytest
from rich.console import Console

from ftbench.report.cells import cell, cost_cells
from ftbench.report.formats.terminal import renderables
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize
from tests.support import grid, run_record


def shown(records, width, metric=None):
    """Return what a terminal of that width shows."""
    out = io.StringIO()
    console = Console(file=out, width=width)
    for renderable in renderables(summarize(to_frame(records), metric), console):
        console.print(renderable)
    return out.getvalue()


def default_grid():
    """Return records as the default sweep leaves them, seven strategies at four sizes."""
    strategies = ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")
    return [
        run_record(
            strategy,
            size=size,
            seed=seed,
            scores={
                "accuracy": 0.6 + 0.04 * i + size / 4000 + 0.01 * ((seed * 7 + i * 3) % 5),
                "source_accuracy_before": 0.93,
                "source_accuracy_after": 0.5 + 0.02 * seed,
            },
            costs={"train_seconds": 12.34, "trainable_parameters": 293_802},
        )
        for i, strategy in enumerate(strategies)
        for size in (20, 50, 100, 400)
        for seed in range(3)
    ]


def shown_cells(text):
    """Return the cells that each strategy has in all blocks together, and how many blocks."""
    blocks = re.split(r"^ *… continued *$", text, flags=re.MULTILINE)
    cells = {}
    for block in blocks:
        for line in block.splitlines():
            name, *values = re.split(r" {2,}", line.strip())
            if values and name != "strategy":
                cells.setdefault(name, []).extend(values)
    return cells, len(blocks)


@pytest.mark.parametrize(("width", "blocks"), [(50, 4), (80, 2), (100, 2), (124, 1), (160, 1)])
def test_a_table_is_whole_at_any_width(width, blocks):
    text = shown(default_grid(), width)
    assert max(map(len, text.splitlines())) <= width
    cells, found = shown_cells(text)
    assert found == blocks
    assert text.count("…") == blocks - 1
    [table] = summarize(to_frame(default_grid())).tables
    expected = {
        row.strategy: [
            *(cell(row.cells[size], table.metric) for size in table.sizes),
            *cost_cells(table, index),
        ]
        for index, row in enumerate(table.rows)
    }
    assert cells == expected
    assert all(row[-3:] == ["52.0 ± 5.0", "12.34", "293,802"] for row in cells.values())


@pytest.mark.parametrize("width", [50, 80])
def test_each_block_has_the_names_and_whole_headings(width):
    lines = shown(default_grid(), width).splitlines()
    headings = [line.split()[1:] for line in lines if line.split()[:1] == ["strategy"]]
    assert headings[0][0] == "20"
    names = [re.match(r" *([a-z0-9-]+) ", line) for line in lines]
    found = [match.group(1) for match in names if match]
    for strategy in ("scratch", "progressive", "head-only", "l2sp"):
        assert found.count(strategy) == len(headings), strategy


@pytest.mark.parametrize("width", [50, 80, 124])
def test_a_cell_with_missing_runs_is_cut_nowhere(width):
    records = [
        r for r in default_grid() if (r.labels["strategy"], r.identity["seed"]) != ("ewc", 2)
    ]
    records += [run_record("ewc", status="diverged", size=n, seed=2) for n in (20, 400)]
    cells, _ = shown_cells(shown(records, width))
    assert [c.partition(" (")[2] for c in cells["ewc"][:4]] == [
        "1 diverged)",
        "1 not run)",
        "1 not run)",
        "1 diverged)",
    ]


def test_a_long_name_folds_and_pushes_no_number_out():
    label = "full(decay=0.123456789012345678)"
    text = shown([run_record("full", 0.9, label=label)], 50)
    folded = "".join(line.split("  ")[0].strip() for line in text.splitlines())
    assert label in folded
    assert "90.0" in text
    assert max(map(len, text.splitlines())) <= 50


def test_a_table_stands_on_one_line_a_strategy_where_there_is_room():
    text = shown(default_grid(), 140)
    assert re.search(r"full +6\d\.\d ± \d\.\d.* 52\.0 ± 5\.0 +12\.34 +293,802", text)


def test_notes_and_missing_runs_are_shown():
    records = [*grid({"a": [0.9, 0.91, 0.92]}), run_record("a", status="diverged", seed=7)]
    text = shown(records, 100)
    assert "(1 diverged)" in text
    assert "Missing runs: 1 diverged; means are over the others." in text


def test_nothing_says_nan():
    records = [run_record("a", status="failed"), *grid({"b": [0.5]}, patience=3)]
    assert "nan" not in shown(records, 100).lower()


def test_brackets_in_a_name_are_shown_as_they_are():
    label = "lora(targets='[red]')"
    assert label in shown([run_record("lora", label=label)], 120)


def test_the_best_stands_out_in_bold():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system="standard")
    records = grid({"a": [0.90, 0.91, 0.92], "b": [0.50, 0.51, 0.53]})
    for renderable in renderables(summarize(to_frame(records)), console):
        console.print(renderable)
    assert re.search(r"\x1b\[1;32m *91\.0 ± 2\.5", out.getvalue())
