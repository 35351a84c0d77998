import hashlib
import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftbench import subsets
from ftbench.errors import SpecError

SEEDS = st.integers(0, 2**31)


@st.composite
def pools(draw, max_classes=8, max_rows=40):
    """Labels of an arbitrary pool: any class values, any imbalance, any order."""
    counts = draw(st.lists(st.integers(1, max_rows), min_size=2, max_size=max_classes))
    values = draw(
        st.lists(st.integers(-5, 99), min_size=len(counts), max_size=len(counts), unique=True)
    )
    labels = np.repeat(values, counts)
    return labels[np.random.default_rng(draw(st.integers(0, 999))).permutation(len(labels))]


def class_counts(labels, rows, values):
    return np.array([(labels[rows] == value).sum() for value in values])


@given(pools(), SEEDS, st.data())
def test_smaller_subsets_are_inside_larger_ones(labels, seed, data):
    classes = len(np.unique(labels))
    small = data.draw(st.integers(classes, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    inside, outside = subsets.draw(labels, small, seed), subsets.draw(labels, large, seed)
    assert set(inside.tolist()) <= set(outside.tolist())


@given(pools(), SEEDS, st.data())
def test_a_subset_holds_its_size_in_different_sorted_rows_of_every_class(labels, seed, data):
    size = data.draw(st.integers(len(np.unique(labels)), len(labels)))
    rows = subsets.draw(labels, size, seed)
    assert rows.dtype == np.int64
    assert len(rows) == len(set(rows.tolist())) == size
    assert rows.tolist() == sorted(rows.tolist())
    assert set(labels[rows].tolist()) == set(labels.tolist())


@given(st.integers(2, 9), st.integers(1, 20), SEEDS, st.data())
def test_balanced_pools_give_subsets_within_one_row_of_quota(classes, each, seed, data):
    labels = np.tile(np.arange(classes), each)
    size = data.draw(st.integers(classes, len(labels)))
    counts = class_counts(labels, subsets.draw(labels, size, seed), range(classes))
    assert np.abs(counts - size / classes).max() < 1


@given(pools(), SEEDS, st.data())
def test_imbalanced_pools_keep_their_proportions_beyond_the_row_each_class_is_due(
    labels, seed, data
):
    values, pool = np.unique(labels, return_counts=True)
    size = data.draw(st.integers(len(values), len(labels)))
    counts = class_counts(labels, subsets.draw(labels, size, seed), values)
    quota = size * pool / len(labels)
    # Webster's rounding is within a row per class of proportional; the due rows of the classes
    # whose quota is under one come out of the others.
    slack = 1 + np.maximum(0, 1 - quota).sum() + len(values) / 2
    assert np.abs(counts - quota).max() <= slack
    assert (counts >= 1).all()


def test_a_large_imbalanced_pool_is_sampled_in_proportion():
    labels = np.repeat([0, 1, 2, 3], [6000, 3000, 900, 100])
    for seed in range(3):
        counts = class_counts(labels, subsets.draw(labels, 1000, seed), range(4))
        assert np.abs(counts - [600, 300, 90, 10]).max() <= 1


def test_each_row_of_a_class_is_equally_likely_and_seeds_differ():
    labels = np.tile(np.arange(3), 8)
    hits = np.zeros(len(labels))
    drawn = set()
    for seed in range(1200):
        rows = subsets.draw(labels, 6, seed)
        hits[rows] += 1
        drawn.add(tuple(rows.tolist()))
    # 1200 draws of 2 in 8: mean 300, standard deviation 15 a row.
    assert np.abs(hits - 300).max() < 5 * 15
    assert len(drawn) > 1000


def test_leftover_rows_go_to_every_class_alike():
    labels = np.tile(np.arange(3), 8)
    extra = np.zeros(3)
    for seed in range(900):
        extra += class_counts(labels, subsets.draw(labels, 4, seed), range(3)) - 1
    # 900 leftover rows over three classes: mean 300, standard deviation 14.
    assert np.abs(extra - 300).max() < 5 * 14


def test_subsets_stay_the_rows_that_published_fingerprints_name():
    rows = subsets.draw(np.arange(40) % 4, 8, seed=0)
    assert rows.tolist() == [14, 16, 24, 30, 31, 33, 35, 37]


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_fingerprint_is_sha256_of_the_sorted_little_endian_ids(ids):
    expected = hashlib.sha256(b"".join(struct.pack("<q", i) for i in sorted(ids))).hexdigest()
    assert subsets.fingerprint(np.array(ids, dtype=np.int64)) == expected
    assert subsets.fingerprint(np.array(ids[::-1], dtype=np.int64)) == expected


def test_fingerprint_is_the_same_for_every_integer_width():
    assert (
        subsets.fingerprint(np.array([3, 1], dtype=np.int32))
        == subsets.fingerprint(np.array([1, 3], dtype=">i8"))
        == "8e8f6841378f772c40db2f07e876776d50c481ed7329ebcab75312e3b1fa7807"
    )


@pytest.mark.parametrize("size", [1, 4])
def test_a_size_that_misses_classes_is_refused_with_the_smallest_that_fits(size):
    with pytest.raises(SpecError, match=rf"size {size} cannot .* 5 classes.* smallest .* is 5$"):
        subsets.draw(np.arange(50) % 5, size, seed=0)


def test_the_smallest_size_named_is_accepted():
    assert len(subsets.draw(np.arange(50) % 5, 5, seed=0)) == 5


def test_a_size_beyond_the_pool_is_refused_with_the_pool_size():
    with pytest.raises(SpecError, match="size 51 is larger than the pool of 50"):
        subsets.draw(np.arange(50) % 5, 51, seed=0)


@given(pools() | pools(max_rows=3), SEEDS, st.sampled_from([0.1, 0.2, 0.3]))
def test_validation_splits_are_disjoint_complete_and_leave_every_class_to_train_on(
    labels, seed, share
):
    try:
        training, validation = subsets.split_validation(labels, share, seed)
    except SpecError:
        assume(False)
    assert len(validation) == round(share * len(labels))
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(len(labels)))
    assert set(labels[training].tolist()) == set(labels.tolist())


def test_validation_never_takes_all_rows_of_a_class_of_a_small_subset():
    labels = np.array([*range(10), 7])  # what a pool of ten classes gives at size 11
    try:
        training, _ = subsets.split_validation(labels, 0.2, seed=0)
    except SpecError:
        return  # refusing is as good: one row alone can be spared
    assert set(labels[training].tolist()) == set(range(10))


@given(pools(), SEEDS)
def test_validation_holds_one_row_per_class_where_that_many_rows_can(labels, seed):
    values, counts = np.unique(labels, return_counts=True)
    assume(round(0.2 * len(labels)) >= len(values))
    _, validation = subsets.split_validation(labels, 0.2, seed)
    assert set(labels[validation].tolist()) == set(values[counts > 1].tolist())


@given(st.integers(2, 9), st.integers(5, 30), SEEDS)
def test_validation_takes_a_fifth_of_each_class_of_a_balanced_subset(classes, each, seed):
    labels = np.tile(np.arange(classes), each)
    _, validation = subsets.split_validation(labels, 0.2, seed)
    counts = class_counts(labels, validation, range(classes))
    assert np.abs(counts - each / 5).max() <= 1


def test_validation_follows_an_imbalanced_pool():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    _, validation = subsets.split_validation(labels, 0.2, seed=3)
    assert class_counts(labels, validation, range(3)).tolist() == [120, 60, 20]


def test_validation_is_drawn_by_the_seed():
    labels = np.arange(100) % 4
    first, again, other = (subsets.split_validation(labels, 0.2, s)[1] for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 3, 4, 5], [0, 0]])
def test_too_few_labels_to_validate_on_are_refused_with_the_way_out(labels):
    with pytest.raises(SpecError, match=rf"{len(labels)} labels .*20%.*recipe\.patience"):
        subsets.split_validation(np.array(labels), 0.2, seed=0)


@pytest.mark.parametrize(
    ("size", "rows"),
    [(50, 50), ("50", 50), ("10%", 120), ("12.5%", 150), ("100%", 1200), ("full", 1200), (1, 1)],
)
def test_sizes_are_counts_percentages_or_full(size, rows):
    assert subsets.resolve_size(size, 1200) == rows


@pytest.mark.parametrize("size", ["half", "", "%", "ten%", "1.5", "nan%", "inf%", "5 %%"])
def test_an_unreadable_size_is_quoted_with_what_may_be_written(size):
    with pytest.raises(SpecError, match=rf"size '{size}'; write a count, .* 10%, or full"):
        subsets.resolve_size(size, 100)


@pytest.mark.parametrize(("size", "count"), [(0, 0), (-3, -3), ("-3", -3), ("0%", 0), ("0.1%", 0)])
def test_a_size_without_rows_is_refused(size, count):
    with pytest.raises(SpecError, match=f"size {count} is not positive"):
        subsets.resolve_size(size, 100)


def test_more_than_all_of_the_pool_is_refused_as_it_was_written():
    assert subsets.resolve_size("100%", 1297) == 1297
    with pytest.raises(SpecError, match=r"size 150% is larger than the pool of 1297 labelled"):
        subsets.resolve_size("150%", 1297)


# How much two seeds' subsets have in common.

LONG_TAIL = np.repeat(np.arange(100), [82] * 10 + [2] * 90)
BALANCED = np.repeat(np.arange(10), 130)


def mean_overlap(labels, size, seeds=40):
    """Return the share of rows that the subsets of two seeds share, the mean over all pairs."""
    drawn = [set(subsets.draw(labels, size, seed).tolist()) for seed in range(seeds)]
    return np.mean([len(a & b) / size for i, a in enumerate(drawn) for b in drawn[:i]])


@pytest.mark.parametrize(
    ("labels", "size"),
    [(BALANCED, 100), (BALANCED, 400), (LONG_TAIL, 100), (LONG_TAIL, 145), (LONG_TAIL, 500)],
)
def test_the_expected_overlap_is_that_of_subsets_that_are_drawn(labels, size):
    # A mean over 40 seeds is within 0.02 of it in all of these.
    assert subsets.expected_overlap(labels, size) == pytest.approx(
        mean_overlap(labels, size), abs=0.02
    )


def test_in_equal_classes_the_expected_overlap_is_the_share_of_the_pool():
    assert subsets.expected_overlap(BALANCED, 400) == pytest.approx(400 / 1300)
    assert subsets.expected_overlap(BALANCED, 1300) == 1


def test_classes_that_are_drawn_whole_raise_the_expected_overlap():
    # Ninety classes of two rows give one each, ten of 82 one each: (90/2 + 10/82)/100.
    assert subsets.expected_overlap(LONG_TAIL, 100) == pytest.approx((45 + 10 / 82) / 100)


# What a pool may be stratified by.


@given(pools(), SEEDS)
def test_classes_are_their_own_strata(labels, seed):
    strata = subsets.as_strata(labels, len(labels))
    assert strata.values.tolist() == labels.tolist()
    assert strata.required
    size = len(np.unique(labels))
    assert subsets.draw(strata, size, seed).tolist() == subsets.draw(labels, size, seed).tolist()


@given(st.integers(20, 200), SEEDS)
def test_numbers_are_drawn_from_all_tenths_alike(rows, seed):
    values = np.random.default_rng(seed).normal(size=rows) ** 3
    strata = subsets.as_strata(values, rows)
    counts = np.bincount(strata.values)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 1
    # By rank: whoever is in a lower tenth is smaller.
    order = np.argsort(values)
    assert (np.diff(strata.values[order]) >= 0).all()
    ten = subsets.draw(strata, 10, seed)
    assert sorted(strata.values[ten].tolist()) == list(range(10))
    # No class to be missing: any size will do.
    assert len(subsets.draw(strata, 3, seed)) == 3


def test_equal_numbers_are_in_one_tenth():
    strata = subsets.as_strata(np.array([0.0] * 15 + [1.0] * 5), 20)
    assert len(set(strata.values[:15].tolist())) == len(set(strata.values[15:].tolist())) == 1


def test_several_labels_are_stratified_by_the_rarest_a_row_has():
    labels = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1]])
    # Label 2 is the rarest (2 rows), then 1 (3), then 0 (5); the fourth row has none.
    strata = subsets.as_strata(labels, 6)
    assert strata.values.tolist() == [1, 2, 0, 3, 1, 2]
    assert strata.required
    assert subsets.as_strata(labels.astype(bool)).values.tolist() == strata.values.tolist()


def test_without_any_label_every_row_has_the_same_chance():
    strata = subsets.as_strata(None, 40)
    assert not strata.required
    counts = np.zeros(40)
    for seed in range(2000):
        counts[subsets.draw(strata, 10, seed)] += 1
    # 500 expected of each, binomial with deviation 19: five of them either way.
    assert np.abs(counts - 500).max() < 97
    kept, held = subsets.split_validation(strata, 0.2, 0)
    assert (len(kept), len(held)) == (32, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([1.0, np.nan]), "hold a number that is not finite"),
        (np.array([[0, 2], [1, 0]]), r"have shape \(2, 2\) and dtype int64; expected classes"),
        (np.array(["a", "b"]), r"dtype <U1; expected classes"),
        (np.arange(3), r"have shape \(3,\); expected one entry for each of 2 rows"),
    ],
)
def test_strata_that_are_none_are_said(given, message):
    with pytest.raises(ValueError, match=message):
        subsets.as_strata(given, 2)


@given(st.integers(0, 99), st.integers(20, 200), st.integers(2, 5), st.integers(8, 30))
def test_groups_are_on_one_side_and_every_class_keeps_a_row(seed, rows, classes, groups):
    draws = np.random.default_rng(seed)
    labels, group_of = draws.integers(0, classes, rows), draws.integers(0, groups, rows)
    try:
        kept, drawn = subsets.split(labels, 0.25, seed, "test", groups=group_of)
    except ValueError:
        return
    assert sorted([*kept, *drawn]) == list(range(rows))
    assert set(group_of[kept]).isdisjoint(group_of[drawn])
    assert set(labels[kept]) == set(labels)
    again = subsets.split(labels, 0.25, seed, "test", groups=group_of)
    assert again[1].tolist() == drawn.tolist()


def test_groups_of_equal_size_meet_the_share():
    labels = np.arange(1_000) % 4
    for seed in range(5):
        _, drawn = subsets.split(labels, 0.2, seed, "test", groups=np.arange(1_000) // 10)
        assert 150 <= len(drawn) <= 250
        assert np.bincount(labels[drawn]).min() > 30


def test_rows_that_are_each_a_group_are_split_nearly_as_without_groups():
    labels = np.repeat([0, 1], [80, 20])
    _, drawn = subsets.split(labels, 0.2, 0, "test", groups=np.arange(100))
    assert np.bincount(labels[drawn]).tolist() == [16, 4]


def test_groups_that_are_a_stratum_each_are_split_by_the_number_of_rows():
    values, groups = np.linspace(0, 1, 30), np.arange(30) // 3
    for seed in range(5):
        kept, drawn = subsets.split(values, 0.2, seed, "test", groups=groups)
        assert len(drawn) == 6
        assert set(groups[kept]).isdisjoint(groups[drawn])
    # Classes that are a group each cannot be parted.
    with pytest.raises(ValueError, match="a side is empty"):
        subsets.split(groups, 0.2, 0, "test", groups=groups)
