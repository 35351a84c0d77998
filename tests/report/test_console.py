import io
import re

import pytest
from rich.console import Console

from ftbench.report.console import renderables
from ftbench.report.frame import to_frame
from ftbench.report.summary import summarize
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


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_table_is_whole_at_any_usual_width(width):
    text = shown(default_grid(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for strategy in ("scratch", "progressive", "head-only"):
        assert re.search(rf"^ *{strategy}\b", text, re.MULTILINE), strategy
    assert "293,802" in text
    assert "12.34" in text
    for record in summarize(to_frame(default_grid())).tables[0].rows:
        for cell in record.cells.values():
            assert f"{100 * cell.interval.mean:.1f}" in text


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
