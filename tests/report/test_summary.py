import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

import ftbench
from ftbench.errors import SpecError
from ftbench.report import cells
from ftbench.report.frame import to_frame
from ftbench.report.tables import summarize
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
    note = "Too few seeds to compare any pairs: a pair needs 3 shared seeds (--num-seeds 5)."
    assert note in table(records).notes


def test_seeds_that_are_not_shared_decide_nothing():
    records = grid({"a": HIGH[:3]})
    records += [run_record("b", accuracy, seed=5 + i) for i, accuracy in enumerate(LOW[:3])]
    assert set(standings(records).values()) == {"undecided"}


def test_a_strategy_alone_is_not_best():
    assert standings(grid({"a": HIGH})) == {"a": "undecided"}


def test_no_significant_difference_asks_for_more_seeds():
    note = "No difference is distinguishable yet; more seeds tell more."
    assert note in table(grid({"a": HIGH, "b": NEAR})).notes


# A diverges on the five hard seeds, B finishes all ten, and is better on the seeds both have.
EASY, HARD = [0.90, 0.91, 0.90, 0.92, 0.91], [0.60, 0.61, 0.62, 0.60, 0.61]


def test_who_fails_on_the_hard_seeds_is_not_best_by_its_mean_over_the_easy_ones():
    ahead = [0.93, 0.942, 0.931, 0.951, 0.939]
    records = grid({"a": EASY, "b": ahead + HARD})
    records += [run_record("a", status="diverged", seed=seed) for seed in range(5, 10)]
    found = table(records)
    assert [r.strategy for r in found.rows] == ["b", "a"]
    b, a = (r.cells[20] for r in found.rows)
    assert a.interval.mean > b.interval.mean
    assert (a.standing, b.standing) == ("behind", "best")
    assert (a.missing, b.missing) == ({"diverged": 5}, {})
    [comparison] = found.comparisons[20]
    assert comparison.seeds == 5


def test_who_fails_on_the_hard_seeds_is_tied_where_the_shared_ones_tell_nothing():
    records = grid({"a": EASY, "b": [0.91, 0.90, 0.91, 0.91, 0.91, *HARD]})
    records += [run_record("a", status="diverged", seed=seed) for seed in range(5, 10)]
    assert standings(records) == {"a": "tied", "b": "tied"}


def test_best_needs_every_difference_to_favour_it():
    # On the seeds that all share (0 to 2) a leads; on the ten of b and a, b is clearly better.
    a = [0.93, 0.93, 0.94, 0.50, 0.51, 0.50, 0.52, 0.50, 0.51, 0.50]
    b = [0.92, 0.92, 0.93, 0.90, 0.91, 0.90, 0.92, 0.90, 0.91, 0.90]
    found = standings(grid({"a": a, "b": b, "c": [0.10, 0.12, 0.11]}))
    assert found == {"a": "tied", "b": "tied", "c": "behind"}


# The step that scores come in.


def test_equal_scores_over_few_rows_are_no_certainty():
    records = grid({"a": [0.9, 0.9, 0.9]}, protocol={"test_rows": 10})
    expected = scipy_stats.t.ppf(0.975, 2) * (0.1**2 / 12 / 3) ** 0.5
    assert row(records, "a").cells[20].interval.half_width == pytest.approx(expected)
    assert row(records, "a", "nll").cells[20].interval.half_width == pytest.approx(0, abs=1e-12)


def test_a_difference_below_the_step_is_not_told_from_none():
    fine, coarse = {"test_rows": 100_000}, {"test_rows": 10}
    scores = {"a": [0.80, 0.80, 0.80], "b": [0.79, 0.79, 0.79]}
    assert standings(grid(scores, protocol=fine)) == {"a": "best", "b": "behind"}
    assert standings(grid(scores, protocol=coarse)) == {"a": "tied", "b": "tied"}
    [found] = table(grid(scores, protocol=coarse)).comparisons[20]
    t = 0.01 / (2 * 0.1**2 / 12 / 3) ** 0.5
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(t, 2))


def test_what_was_kept_of_the_source_goes_by_the_rows_of_the_source():
    records = [
        run_record(
            seed=seed,
            scores={"accuracy": 0.9, "source_accuracy_after": 0.4},
            protocol={"test_rows": 10, "source_rows": 20},
        )
        for seed in range(3)
    ]
    expected = scipy_stats.t.ppf(0.975, 2) * (0.05**2 / 12 / 3) ** 0.5
    assert row(records, "full").source_kept.half_width == pytest.approx(expected)
    kept = row(records, "full", "source_accuracy_after").cells[20].interval
    assert kept.half_width == pytest.approx(expected)


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


def test_a_size_that_a_strategy_was_not_run_at_is_a_cell_that_says_so():
    records = grid({"a": HIGH, "b": LOW}) + grid({"a": HIGH}, size=50)
    cell = row(records, "b").cells[50]
    assert (cell.interval, cell.missing) == (None, {"not run": 5})
    assert cells.cell(cell, table(records).metric) == "5 not run"


def test_seeds_that_others_have_and_a_cell_lacks_are_not_run():
    records = grid({"a": HIGH, "b": LOW[:3]})
    records.append(run_record("b", status="diverged", seed=3))
    assert row(records, "a").cells[20].missing == {}
    cell = row(records, "b").cells[20]
    assert cell.missing == {"diverged": 1, "not run": 1}
    assert cells.cell(cell, table(records).metric) == "50.7 ± 2.9 (1 diverged, 1 not run)"
    # Nobody ran seed 9 at size 50, so nobody lacks it there.
    records += [*grid({"a": HIGH, "b": LOW}, size=50), run_record("a", 0.9, seed=9)]
    assert row(records, "b").cells[50].missing == {}
    assert row(records, "b").cells[20].missing == {"diverged": 1, "not run": 2}


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


def test_a_metric_that_no_run_has_is_told_from_one_that_there_is_not():
    message = "no run here has the metric 'source_accuracy_after'; it has accuracy, nll, "
    with pytest.raises(SpecError, match=message):
        table([run_record()], "source_accuracy_after")
    own = run_record(metrics=[RMSE], scores={"mae": 1.0})
    with pytest.raises(SpecError, match="no run here has the metric 'rmse'; it has mae, "):
        table([own], "rmse")


RMSE = ftbench.Metric("rmse", "RMSE (m)", higher_is_better=False)


def rmse_grid(metric=RMSE):
    """Return records of a task with a metric of its own, where a has the lower score."""
    return [
        run_record(
            strategy,
            seed=seed,
            task="depth",
            metrics=[metric],
            scores={"rmse": value, "source_accuracy_after": 0.3},
        )
        for strategy, values in (("a", LOW), ("b", HIGH))
        for seed, value in enumerate(values)
    ]


def test_by_default_a_table_shows_the_first_metric_of_its_tasks_records():
    found = table(rmse_grid())
    assert found.metric == RMSE
    assert standings(rmse_grid()) == {"a": "best", "b": "behind"}
    frame = to_frame(rmse_grid() + grid({"a": HIGH, "b": LOW}))
    assert [t.metric.name for t in summarize(frame).tables] == ["rmse", "accuracy"]


def test_a_record_that_says_nothing_of_its_scores_is_read_as_a_classification():
    assert table([run_record(metrics=())]).metric.name == "accuracy"


NO_DIRECTION = "No best is marked: whether higher or lower is better is not known."


@pytest.mark.parametrize(
    ("records", "metric"),
    [
        (rmse_grid(dataclasses.replace(RMSE, higher_is_better=None)), None),
        (grid({"a": HIGH, "b": LOW}), "trainable_parameters"),
        (
            [
                run_record(
                    r.labels["strategy"], seed=r.identity["seed"], scores=r.scores, metrics=()
                )
                for r in rmse_grid()
            ],
            "rmse",
        ),
    ],
    ids=["a metric that says so", "a column that is no metric", "a score that nothing describes"],
)
def test_where_the_direction_is_unknown_there_are_no_standings_and_a_note(records, metric):
    found = table(records, metric)
    assert found.metric.higher_is_better is None
    assert set(standings(records, metric).values()) == {"undecided"}
    assert NO_DIRECTION in found.notes
    assert not any("Paired t-tests" in note for note in found.notes)
    assert NO_DIRECTION not in table(grid({"a": HIGH, "b": LOW})).notes


def test_a_row_without_the_score_is_in_no_pair_that_has_too_few_seeds():
    # As scratch, which keeps nothing of the source.
    records = grid({"scratch": LOW})
    for strategy, kept in (("full", LOW), ("head-only", HIGH)):
        records += [
            run_record(
                strategy, seed=seed, scores={"accuracy": 0.5, "source_accuracy_after": value}
            )
            for seed, value in enumerate(kept)
        ]
    found = table(records, "source_accuracy_after")
    assert not any("Too few seeds" in note for note in found.notes)
    assert any("over the table's 1 comparisons: bold" in note for note in found.notes)
    by_name = {r.strategy: r.cells[20] for r in found.rows}
    assert by_name["head-only"].standing == "best"
    assert by_name["full"].standing == "behind"
    assert (by_name["scratch"].interval, by_name["scratch"].missing) == (None, {})
    assert found.rows[-1].strategy == "scratch"


def test_where_some_pairs_alone_have_too_few_seeds_the_note_says_some():
    notes = table(grid({"a": HIGH, "b": LOW, "c": NEAR[:2]})).notes
    note = "Too few seeds to compare some pairs: a pair needs 3 shared seeds (--num-seeds 5)."
    assert note in notes
