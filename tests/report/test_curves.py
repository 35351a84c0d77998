"""The figure shows the numbers of the table: lines are means, bands are intervals."""

import xml.etree.ElementTree

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from ftbench.report.formats.curves import curves, draw
from ftbench.report.frame import to_frame
from ftbench.report.summary import Summary
from ftbench.report.tables import summarize
from tests.report.test_formats import HIGH, LOW, odd
from tests.support import grid


def summary(records, metric=None):
    return summarize(to_frame(records), metric)


TWO = grid({"a": HIGH, "b": LOW}) + grid({"a": LOW, "b": HIGH}, size=100)


def test_lines_are_means_and_bands_are_intervals():
    table = summary(TWO)
    (panel,) = draw(table).axes
    bands = [c for c in panel.collections if isinstance(c, PolyCollection)]
    assert len(panel.lines) == len(bands) == 2
    for row, line, band in zip(table.tables[0].rows, panel.lines, bands, strict=True):
        intervals = [row.cells[size].interval for size in (20, 100)]
        assert line.get_label() == row.strategy
        np.testing.assert_allclose(line.get_xdata(), [20, 100])
        np.testing.assert_allclose(line.get_ydata(), [100 * i.mean for i in intervals])
        heights = {y for _, y in band.get_paths()[0].vertices}
        for interval in intervals:
            assert any(np.isclose(y, 100 * interval.low) for y in heights)
            assert any(np.isclose(y, 100 * interval.high) for y in heights)
    assert panel.get_ylabel() == "accuracy (%)"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "b"]


def test_a_table_each_has_a_panel_with_its_caption():
    figure = draw(summary(TWO + grid({"a": HIGH}, learning_rate=0.5)))
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert len(titles) == 2
    assert any("learning_rate = 0.5" in title for title in titles)


@odd
def test_whatever_a_table_meets_it_is_an_svg(records):
    root = xml.etree.ElementTree.fromstring(curves(summary(records)))
    assert root.tag.endswith("svg")


def test_nothing_at_all_is_an_empty_figure():
    assert "<svg" in curves(Summary([]))


def test_the_same_runs_give_the_same_file():
    assert curves(summary(TWO)) == curves(summary(TWO))
    assert "accuracy" in curves(summary(TWO))


def test_more_strategies_than_colours_are_told_apart_by_markers():
    many = grid({f"s{i}": [0.5 + i / 100] * 3 for i in range(9)})
    looks = {(line.get_color(), line.get_marker()) for line in draw(summary(many)).axes[0].lines}
    assert len(looks) == 9


@pytest.mark.parametrize("metric", ["nll", "train_seconds"])
def test_other_numbers_are_drawn_in_their_unit(metric):
    (panel,) = draw(summary(TWO, metric)).axes
    assert panel.get_ylabel()
    assert panel.lines[0].get_ydata()[0] < 3
