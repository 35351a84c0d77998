import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ftbench.errors import SpecError
from ftbench.report.frame import to_frame
from ftbench.report.summary import summarize
from tests.support import grid, run_record


def table(records, metric=None):
    """Return the one table of some records."""
    [found] = summarize(to_frame(records), metric).tables
    return found


def row(records, strategy, metric=None):
    """Return a strategy's row."""
    return next(r for r in table(records, metric).rows if r.strategy == strategy)


def standings(records, metric=None):
    """Return the standing of each strategy at size 20."""
    return {r.strategy: r.cells[20].standing for r in table(records, metric).rows}


# The numbers.


def random_grid(strategies=("full", "ewc", "l2sp"), sizes=(20, 50), seeds=5):
    """Return records with drawn scores, and the scores by (strategy, size)."""
    draws = np.random.default_rng(0)
    scores = {
        (strategy, size): 0.5 + 0.1 * index + 0.02 * draws.normal(size=seeds)
        for index, strategy in enumerate(strategies)
        for size in sizes
    }
    records = [
        run_record(strategy, float(value), size=size, seed=seed, costs={"train_seconds": value})
        for (strategy, size), values in scores.items()
        for seed, value in enumerate(values)
    ]
    return records, scores


def test_means_and_intervals_are_those_of_scipy_over_seeds():
    records, scores = random_grid()
    for (strategy, size), values in scores.items():
        found = row(records, strategy).cells[size].interval
        low, high = scipy_stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
        )
        assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
        assert found.count == 5


def test_comparisons_are_paired_t_tests_holm_corrected_over_the_whole_table():
    records, scores = random_grid()
    pairs = [
        (size, a, b)
        for size in (20, 50)
        for a, b in itertools.combinations(("full", "ewc", "l2sp"), 2)
    ]
    raw = [scipy_stats.ttest_rel(scores[a, n], scores[b, n]).pvalue for n, a, b in pairs]
    order = np.argsort(raw)
    corrected = np.empty(6)
    corrected[order] = np.maximum.accumulate(np.asarray(raw)[order] * np.arange(6, 0, -1))
    found = {
        (size, frozenset((c.first, c.second))): c.p_value
        for size, column in table(records).comparisons.items()
        for c in column
    }
    assert len(found) == 6
    for (size, a, b), expected in zip(pairs, np.minimum(corrected, 1), strict=True):
        assert found[size, frozenset((a, b))] == pytest.approx(expected)


def test_rows_stand_by_their_mean_score_and_costs_are_those_at_the_largest_size():
    records, scores = random_grid()
    assert [r.strategy for r in table(records).rows] == ["l2sp", "ewc", "full"]
    lowest_first = [r.strategy for r in table(records, "nll").rows]
    assert lowest_first == ["l2sp", "ewc", "full"]
    for r in table(records).rows:
        assert r.train_seconds == pytest.approx(np.mean(scores[r.strategy, 50]))
        assert r.trainable_parameters == 1000


def test_retention_is_the_mean_at_the_largest_size():
    records = [
        run_record(size=size, seed=seed, scores={"accuracy": 0.9, "source_accuracy_after": kept})
        for size, values in ((20, (0.1, 0.2)), (50, (0.6, 0.8)))
        for seed, kept in enumerate(values)
    ]
    assert row(records, "full").source_kept.mean == pytest.approx(0.7)


def test_one_seed_has_a_mean_and_no_interval():
    found = row([run_record(accuracy=0.8)], "full").cells[20].interval
    assert (found.mean, found.low, found.high, found.count) == (0.8, None, None, 1)


# Standings.

HIGH, LOW = [0.90, 0.91, 0.92, 0.90, 0.91], [0.50, 0.52, 0.50, 0.51, 0.53]
NEAR = [0.91, 0.90, 0.91, 0.92, 0.90]


def test_best_is_distinguishable_from_every_other():
    assert standings(grid({"a": HIGH, "b": LOW})) == {"a": "best", "b": "behind"}


def test_those_not_told_from_the_best_mean_are_tied():
    found = standings(grid({"a": HIGH, "b": NEAR, "c": LOW}))
    assert found == {"a": "tied", "b": "tied", "c": "behind"}


def test_where_low_is_good_the_lowest_is_best():
    assert standings(grid({"a": HIGH, "b": LOW}), "nll") == {"a": "best", "b": "behind"}


def test_equal_scores_are_tied_and_never_significant():
    assert set(standings(grid({"a": HIGH, "b": HIGH})).values()) == {"tied"}


def test_two_seeds_decide_nothing():
    records = grid({"a": HIGH[:2], "b": LOW[:2]})
    assert set(standings(records).values()) == {"undecided"}
    assert any("Too few seeds to compare" in note for note in table(records).notes)


def test_seeds_that_are_not_shared_decide_nothing():
    records = grid({"a": HIGH[:3]})
    records += [run_record("b", accuracy, seed=5 + i) for i, accuracy in enumerate(LOW[:3])]
    assert set(standings(records).values()) == {"undecided"}


def test_a_strategy_alone_is_not_best():
    assert standings(grid({"a": HIGH})) == {"a": "undecided"}


def test_no_significant_difference_asks_for_more_seeds():
    assert any("more seeds tell more" in note for note in table(grid({"a": HIGH, "b": NEAR})).notes)


# Missing runs.


def test_a_missing_run_is_shown_with_its_status_and_never_averaged():
    records = grid({"a": HIGH, "b": LOW})
    records += [run_record("a", status=s, seed=9 + i) for i, s in enumerate(["diverged", "failed"])]
    cell = row(records, "a").cells[20]
    assert cell.missing == {"diverged": 1, "failed": 1}
    assert cell.interval.count == 5
    assert cell.interval.mean == pytest.approx(np.mean(HIGH))
    assert cell.standing == "best"
    assert any("Missing runs: " in note and "1 diverged" in note for note in table(records).notes)


def test_a_strategy_without_a_run_that_ended_well_is_a_row_of_missing_runs_at_the_end():
    records = grid({"b": LOW}) + [run_record("a", status="timeout", seed=s) for s in range(5)]
    found = table(records)
    assert [r.strategy for r in found.rows] == ["b", "a"]
    assert found.rows[1].cells[20].interval is None
    assert found.rows[1].cells[20].missing == {"timeout": 5}
    assert found.rows[1].train_seconds is None


def test_a_size_that_a_strategy_was_not_run_at_is_an_empty_cell():
    records = grid({"a": HIGH, "b": LOW}) + grid({"a": HIGH}, size=50)
    cell = row(records, "b").cells[50]
    assert (cell.interval, dict(cell.missing)) == (None, {})


def test_all_runs_failed_is_a_table_still():
    found = table([run_record("a", status="failed"), run_record("b", status="crashed")])
    assert {r.cells[20].interval for r in found.rows} == {None}


def test_one_missing_score_does_not_poison_the_mean():
    records = grid({"a": HIGH, "b": LOW})
    records.append(run_record("a", seed=7, scores={"nll": 1.0}))
    assert row(records, "a").cells[20].interval.mean == pytest.approx(np.mean(HIGH))


# Which metric.


def test_an_unknown_metric_gets_the_nearest():
    with pytest.raises(SpecError, match=r"unknown metric 'acuracy'; did you mean 'accuracy'\?"):
        table([run_record()], "acuracy")


def test_a_metric_that_no_run_has_is_refused():
    with pytest.raises(SpecError, match="source_accuracy_after"):
        table([run_record()], "source_accuracy_after")


def test_a_metric_that_is_asked_for_is_what_the_table_shows():
    found = table(grid({"a": HIGH}), "train_seconds")
    assert found.metric.name == "train_seconds"
    assert found.rows[0].cells[20].interval.mean == 2.0


def test_by_default_a_table_shows_the_first_score_there_is():
    records = [
        run_record(seed=seed, scores={"rmse": 0.5, "source_accuracy_after": 0.3})
        for seed in range(3)
    ]
    assert table(records).metric.name == "rmse"
