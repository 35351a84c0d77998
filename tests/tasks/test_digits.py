import re
from difflib import SequenceMatcher

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import ftbench
from ftbench.component import parse_reference
from ftbench.tasks import digits
from ftbench.tasks.digits import Digits


@pytest.fixture(scope="module")
def bunch():
    return load_digits()


def enlarged(bunch):
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    return F.interpolate(images, size=32, mode="bilinear", align_corners=False)


def as_bytes(inputs):
    return [image.numpy().tobytes() for image in inputs]


def test_pool_and_test_are_disjoint_and_are_all_1797_digits(bunch):
    pool, test = Digits().pool(), Digits().test()
    assert (len(pool), len(test)) == (1297, 500)
    assert pool.inputs.shape[1:] == test.inputs.shape[1:] == (1, 32, 32)
    every = sorted(as_bytes(enlarged(bunch)))
    assert len(set(every)) == 1797  # no image is there twice, so that none can leak
    assert sorted(as_bytes(pool.inputs) + as_bytes(test.inputs)) == every


def test_labels_stay_with_their_images(bunch):
    labels = dict(zip(as_bytes(enlarged(bunch)), bunch.target.tolist(), strict=True))
    for part in (Digits().pool(), Digits().test()):
        assert part.targets.tolist() == [labels[image] for image in as_bytes(part.inputs)]
        assert part.targets.dtype == torch.int64


def test_the_test_set_is_stratified(bunch):
    expected = np.bincount(bunch.target) * 500 / 1797
    assert abs(np.bincount(Digits().test().strata) - expected).max() < 1


def test_values_are_from_0_to_1(bunch):
    for part in (Digits().pool(), Digits().source().samples, Digits().source().held_out):
        assert part.inputs.dtype == torch.float32
        assert part.inputs.min() == 0
        assert 0.95 < part.inputs.max() <= 1


def test_the_split_is_the_same_each_time():
    assert torch.equal(Digits().test().inputs, Digits().test().inputs)
    assert torch.equal(Digits().pool().targets, Digits().pool().targets)


def test_source_samples_and_held_out_letters_are_disjoint():
    source = Digits().source()
    assert (source.name, len(source.samples), len(source.held_out)) == ("letters", 2000, 2000)
    samples, held = set(as_bytes(source.samples.inputs)), set(as_bytes(source.held_out.inputs))
    assert not samples & held
    assert len(samples) == len(held) == 2000


def test_a_caller_that_writes_to_a_set_leaves_the_next_one_whole():
    for part in ("pool", "test"):
        before = getattr(Digits(), part)().inputs.clone()
        getattr(Digits(), part)().inputs.zero_()
        assert torch.equal(getattr(Digits(), part)().inputs, before)


@pytest.fixture
def fresh_fingerprint():
    """Compute the fingerprint anew, and forget it afterwards."""
    digits._fingerprint.cache_clear()
    yield lambda: Digits().fingerprint()
    digits._fingerprint.cache_clear()


def test_the_fingerprint_is_stable(fresh_fingerprint):
    first = fresh_fingerprint()
    digits._fingerprint.cache_clear()
    assert fresh_fingerprint() == first
    assert len(first) == 64


@pytest.mark.parametrize("changed", ["_raw", "_rows", "letters"])
def test_the_fingerprint_changes_with_the_data(monkeypatch, fresh_fingerprint, changed):
    first = fresh_fingerprint()
    digits._fingerprint.cache_clear()
    home = digits.glyphs if changed == "letters" else digits
    original = getattr(home, changed)

    def altered(*arguments):
        one, two = (array.copy() for array in original(*arguments))
        two[3], two[4] = two[4], two[3] + 1
        return one, two

    monkeypatch.setattr(home, changed, altered)
    assert fresh_fingerprint() != first


# Writers.

FORM_DIGITS = 130


@pytest.fixture
def by_blocks():
    """The task whose test rows are whole forms."""
    [(name, options)] = parse_reference("digits(split='blocks')")
    return ftbench.load_catalogue().build(ftbench.Task, name, options)


def form_starts(labels):
    """Return where the labels start over with 0 to 9 twice or more, as each form does.

    A form that lost its first digits starts with fewer, so runs within 100 rows are one form's.
    """
    text = "".join(map(str, labels))
    runs = [match.start() for match in re.finditer("(?=12345678901234)", text)]
    return [run for run, before in zip(runs, [-200, *runs], strict=False) if run - before > 100]


def test_the_file_is_forms_that_repeat_one_sequence_of_labels(bunch):
    form = bunch.target[:FORM_DIGITS].tolist()
    starts = [max(0, start - 1) for start in form_starts(bunch.target)]
    assert len(starts) == 14
    for start, end in zip(starts, [*starts[1:], 1797], strict=True):
        found = bunch.target[start:end].tolist()
        assert SequenceMatcher(a=form, b=found, autojunk=False).ratio() > 0.9
        assert len(found) <= FORM_DIGITS + 1
    assert digits.BLOCK_TEST_ROWS in starts


def test_blocks_hold_out_the_first_four_forms_whole(bunch, by_blocks):
    every = as_bytes(enlarged(bunch))
    assert as_bytes(by_blocks.test().inputs) == every[:516]
    assert as_bytes(by_blocks.pool().inputs) == every[516:]
    assert by_blocks.test().targets.tolist() == bunch.target[:516].tolist()


def test_every_class_is_in_both_parts_of_the_blocks(by_blocks):
    for part in (by_blocks.pool(), by_blocks.test()):
        counts = np.bincount(part.strata, minlength=10)
        assert counts.min() > 0.9 * counts.max()


def test_the_two_splits_never_mix(by_blocks):
    catalogue = ftbench.load_catalogue()
    one, other = (catalogue.identify(t) for t in (Digits(), by_blocks))
    assert (one.label, other.label) == ("digits", "digits(split='blocks')")
    assert one.fingerprint != other.fingerprint
    assert one.options != other.options


def test_writers_of_the_pool_make_the_stratified_test_rows_easier(by_blocks):
    def nearest_neighbour_accuracy(task):
        pool, test = task.pool(), task.test()
        distances = torch.cdist(test.inputs.flatten(1), pool.inputs.flatten(1))
        found = pool.targets[distances.argmin(1)] == test.targets
        return found.float().mean().item()

    assert nearest_neighbour_accuracy(Digits()) > nearest_neighbour_accuracy(by_blocks) + 0.02


def test_an_unknown_split_is_refused():
    with pytest.raises(ftbench.FtbenchError, match="option 'split': Input should be 'stratified'"):
        ftbench.load_catalogue().build(ftbench.Task, "digits", {"split": "random"})


def test_the_blocks_are_swept(tmp_path, by_blocks):
    spec = ftbench.SweepSpec(
        tasks=("digits(split='blocks')",), strategies=("head-only",), sizes=(20,), seeds=(0, 1),
        recipe={"steps": 3}, device="cpu",
    )  # fmt: skip
    ftbench.run_sweep(spec, tmp_path)
    frame = ftbench.load_results(tmp_path)
    assert frame["status"].tolist() == ["ok", "ok"], frame["message"].tolist()
    assert set(frame["task"]) == {"digits(split='blocks')"}
    assert set(zip(frame["pool_rows"], frame["test_rows"], strict=True)) == {(1281, 516)}
    assert frame["subset_overlap"].tolist() == pytest.approx([20 / 1281] * 2, rel=0.01)


def test_the_file_that_is_read_is_what_scikit_learn_loads():
    images, labels = digits._raw.__wrapped__()
    bunch = load_digits()
    np.testing.assert_array_equal(images, bunch.images)
    np.testing.assert_array_equal(labels, bunch.target)
    assert (images.dtype, labels.dtype) == (bunch.images.dtype, np.int64)
