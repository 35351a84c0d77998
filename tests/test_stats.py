import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from ftbench import stats

SCORES = st.floats(0, 1)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def quantised(scores):
    """Round to what accuracy on 500 test rows can be."""
    return np.round(np.clip(scores, 0, 1) * 500) / 500


def columns_of(scores):
    """Name an array (column, strategy, seed) as compare_all wants it."""
    return {
        f"size {c}": {
            f"strategy {s}": {seed: float(v) for seed, v in enumerate(row)}
            for s, row in enumerate(table)
        }
        for c, table in enumerate(scores)
    }


@given(st.lists(SCORES, min_size=2, max_size=12), st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_scipys_student_interval(values, confidence):
    sample = np.asarray(values)
    error = sample.std(ddof=1) / math.sqrt(len(sample))
    interval = stats.mean_interval(values, confidence=confidence)
    assert interval.mean == pytest.approx(sample.mean(), abs=1e-12)
    assert interval.count == len(values)
    if error > 1e-9:
        low, high = scipy.stats.t.interval(
            confidence, len(sample) - 1, loc=sample.mean(), scale=error
        )
        from_test = scipy.stats.ttest_1samp(sample, 0).confidence_interval(confidence)
        assert (low, high) == pytest.approx((from_test.low, from_test.high), abs=1e-9)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
        assert interval.half_width == pytest.approx((high - low) / 2, abs=1e-9)


def test_interval_is_95_percent_unless_asked_otherwise():
    low, high = scipy.stats.t.interval(0.95, 2, loc=2, scale=1 / math.sqrt(3))
    assert stats.mean_interval([1, 2, 3]).low == pytest.approx(low)
    assert stats.mean_interval([1, 2, 3]).high == pytest.approx(high)


def test_one_seed_has_a_mean_and_no_interval():
    assert stats.mean_interval([0.5]) == stats.Interval(0.5, None, None, 1)
    assert stats.mean_interval([0.5]).half_width is None


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        stats.mean_interval([])


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("rounded", [False, True])
def test_intervals_cover_the_true_mean_about_95_times_in_a_hundred(seeds, rounded):
    draws = np.random.default_rng(seeds).normal(0.8, 0.012, size=(4000, seeds))
    intervals = [stats.mean_interval(row) for row in (quantised(draws) if rounded else draws)]
    covered = np.mean([i.low <= 0.8 <= i.high for i in intervals])
    # Monte Carlo standard deviation: 0.0034.
    assert covered == pytest.approx(0.95, abs=0.015)


def test_intervals_of_binomial_accuracies_near_the_ceiling_still_cover():
    draws = np.random.default_rng(1).binomial(500, 0.97, size=(4000, 5)) / 500
    covered = np.mean([i.low <= 0.97 <= i.high for i in map(stats.mean_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=3, max_size=12))
def test_paired_p_is_scipys(pairs):
    first, second = np.array(pairs).T
    if np.ptp(first - second) > 1e-6:
        expected = scipy.stats.ttest_rel(first, second).pvalue
        assert stats.paired_p_value(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-300)
        assert stats.paired_p_value(second, first) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0.9, 0.8, 0.7], [0.9, 0.8, 0.7]),
        ([0.9, 0.8, 0.7], [0.7, 0.6, 0.5]),  # 0.2 but for the last bits of float64
        ([0.502, 0.602, 0.902, 0.112], [0.5, 0.6, 0.9, 0.11]),
        ([1e6 + 1, 1e6 + 2, 1e6 + 3], [1, 2, 3]),
    ],
)
def test_differences_without_spread_count_as_undecided(first, second):
    assert stats.paired_p_value(first, second) == 1


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_pairs_are_too_few_to_tell(seeds):
    assert stats.paired_p_value([0.9, 0.1][:seeds], [0.5, 0.2][:seeds]) is None


@settings(max_examples=25)  # statsmodels takes 20 ms a call
@given(P_VALUES)
def test_holm_is_statsmodels_holm(p_values):
    expected = multipletests(p_values, method="holm")[1]
    assert stats.holm(p_values) == pytest.approx(list(expected), abs=1e-15)


def test_holm_of_nothing_is_nothing():
    assert stats.holm([]) == []


def test_comparisons_are_corrected_over_all_columns_together():
    scores = np.random.default_rng(0).normal(size=(3, 3, 6)) * [[[1], [1], [1]]]
    compared = stats.compare_all(columns_of(scores))
    raw = [
        scipy.stats.ttest_rel(table[i], table[j]).pvalue
        for table in scores
        for i, j in [(0, 1), (0, 2), (1, 2)]
    ]
    expected = multipletests(raw, method="holm")[1]
    assert list(compared) == ["size 0", "size 1", "size 2"]
    flat = [c for column in compared.values() for c in column]
    assert [c.p_value for c in flat] == pytest.approx(list(expected))
    assert [(c.first, c.second) for c in flat[:3]] == [
        ("strategy 0", "strategy 1"),
        ("strategy 0", "strategy 2"),
        ("strategy 1", "strategy 2"),
    ]
    assert flat[1].difference == pytest.approx((scores[0, 0] - scores[0, 2]).mean())


def test_pairs_are_matched_by_seed_and_not_by_order():
    a = {0: 0.1, 1: 0.5, 2: 0.9, 7: 0.0}
    b = {9: 1.0, 2: 0.8, 1: 0.45, 0: 0.07}
    [comparison] = stats.compare_all({"c": {"a": a, "b": b}})["c"]
    assert comparison.seeds == 3
    assert comparison.difference == pytest.approx(np.mean([0.03, 0.05, 0.1]))
    expected = scipy.stats.ttest_rel([0.1, 0.5, 0.9], [0.07, 0.45, 0.8]).pvalue
    assert comparison.p_value == pytest.approx(expected)


def test_pairs_with_too_few_shared_seeds_take_no_part_in_the_correction():
    rows = np.random.default_rng(2).normal(size=(2, 5))
    full = {name: dict(enumerate(row)) for name, row in zip("ab", rows, strict=True)}
    compared = stats.compare_all({"c": {**full, "short": {0: 0.5, 1: 0.7}, "none": {99: 0.5}}})
    by_pair = {(c.first, c.second): c for c in compared["c"]}
    expected = scipy.stats.ttest_rel(*rows).pvalue
    assert by_pair["a", "b"].p_value == pytest.approx(expected)
    assert by_pair["a", "short"].p_value is None
    assert by_pair["a", "short"].seeds == 2
    assert not by_pair["a", "short"].distinguishable
    assert by_pair["a", "none"].p_value is None
    assert by_pair["a", "none"].seeds == 0


def test_significance_is_below_five_percent_after_correction():
    assert stats.Comparison("a", "b", 0.1, 5, 0.0499).distinguishable
    assert not stats.Comparison("a", "b", 0.1, 5, 0.05).distinguishable
    assert not stats.Comparison("a", "b", 0.1, 2, None).distinguishable


@pytest.mark.parametrize(
    ("seeds", "spread", "rounded"),  # a test row weighs 0.002 of a score
    [(3, 0.02, False), (3, 0.02, True), (3, 0.002, True), (5, 0.02, True), (5, 0.002, True)],
)
def test_equal_strategies_are_told_apart_in_at_most_five_tables_of_a_hundred(
    seeds, spread, rounded
):
    generator = np.random.default_rng(seeds)
    tables, false_alarms = 250, 0
    for _ in range(tables):
        # A seed moves all strategies together; that is what pairing takes out.
        shared = generator.normal(0.8, 0.03, size=(3, 1, seeds))
        scores = shared + generator.normal(0, spread, size=(3, 4, seeds))
        compared = stats.compare_all(columns_of(quantised(scores) if rounded else scores))
        false_alarms += any(c.distinguishable for column in compared.values() for c in column)
    # The largest count that 5 % gives with probability 99.9 %.
    assert false_alarms <= scipy.stats.binom.ppf(0.999, tables, 0.05)


def test_real_differences_are_found_through_the_noise_that_seeds_share():
    generator = np.random.default_rng(0)
    found, false_alarms = 0, 0
    for _ in range(100):
        shared = generator.normal(0.8, 0.03, size=(3, 1, 5))
        scores = shared + generator.normal(0, 0.005, size=(3, 3, 5))
        scores[:, 2] += 0.06
        for column in stats.compare_all(columns_of(quantised(scores))).values():
            equal, *real = column
            false_alarms += equal.distinguishable
            found += sum(c.distinguishable and c.difference < 0 for c in real)
    assert found > 0.95 * 600
    assert false_alarms <= 0.1 * 300


@pytest.mark.parametrize("quanta", [0.5, 0.75, 1.0, 2.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_where_the_spread_is_no_wider_than_the_steps_of_the_score(quanta, seeds):
    # Accuracies near 97 % on 500 rows: without the resolution, coverage falls to 71 %.
    random = np.random.default_rng(5)
    means = random.uniform(0.96, 0.98, size=4000)
    draws = quantised(random.normal(means[:, None], quanta / 500, size=(4000, seeds)))
    intervals = [stats.mean_interval(row, resolution=1 / 500) for row in draws]
    covered = [i.low <= mean <= i.high for i, mean in zip(intervals, means, strict=True)]
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize("quanta", [0.5, 1.0, 2.0])
def test_equal_strategies_are_seldom_told_apart_where_scores_are_coarse(quanta):
    random = np.random.default_rng(6)
    base = random.uniform(0.96, 0.98, size=(4000, 1))
    first, second = (quantised(random.normal(base, quanta / 500, size=(4000, 3))) for _ in range(2))
    p = [stats.paired_p_value(a, b, resolution=1 / 500) for a, b in zip(first, second, strict=True)]
    assert np.mean(np.asarray(p) < 0.05) <= 0.06
