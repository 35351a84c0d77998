import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

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
