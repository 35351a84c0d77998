import numpy as np
import pytest
import torch

from ftbench import glyphs
from ftbench.tasks import letters
from ftbench.tasks.letters import Letters, letter_examples, scaled


@pytest.fixture
def few(monkeypatch):
    """Make both sets small; rendering all letters takes seconds."""
    monkeypatch.setattr(letters, "POOL_LETTERS", 150)
    monkeypatch.setattr(letters, "TEST_LETTERS", 60)


def test_sets_have_their_documented_sizes():
    assert (letters.POOL_LETTERS, letters.TEST_LETTERS, Letters.classes) == (28_000, 2_000, 52)


def test_examples_are_grey_images_from_0_to_1_with_even_classes(few):
    pool = Letters().pool()
    assert pool.inputs.shape == (150, 1, 32, 32)
    assert pool.inputs.dtype == torch.float32
    assert 0 <= pool.inputs.min() < pool.inputs.max() <= 1
    counts = np.bincount(pool.strata, minlength=52)
    assert set(counts.tolist()) == {2, 3}


def test_pool_test_and_source_samples_share_no_image(few):
    sets = [Letters().pool(), Letters().test(), letter_examples(100, "source samples")]
    images = [{image.numpy().tobytes() for image in part.inputs} for part in sets]
    assert len(set.union(*images)) == sum(map(len, images)) == 310


def test_values_are_those_of_the_rendered_glyphs(few):
    images, labels = glyphs.letters(60, "held out")
    test = Letters().test()
    np.testing.assert_array_equal(test.inputs[:, 0].numpy(), (images / 255).astype(np.float32))
    assert test.targets.tolist() == labels.tolist()


def test_letters_are_the_letters_that_their_labels_say():
    """Mean images of a class are nearest to fresh letters of the same class."""
    known, fresh = letter_examples(2_000, "source samples"), letter_examples(2_000, "held out")
    means = torch.stack([known.inputs[known.targets == k].mean(dim=0).flatten() for k in range(52)])
    nearest = torch.cdist(fresh.inputs.flatten(1), means).argmin(dim=1)
    assert (nearest == fresh.targets).float().mean() > 8 / 52  # 1/52 by chance


def test_the_fingerprint_covers_both_sets(few, monkeypatch):
    first = Letters().fingerprint()
    assert Letters().fingerprint() == first
    for name in ("POOL_LETTERS", "TEST_LETTERS"):
        with monkeypatch.context() as patch:
            patch.setattr(letters, name, 55)
            assert Letters().fingerprint() != first


def test_scaled_maps_white_to_one():
    images = np.array([[[0, 255], [51, 102]]], dtype=np.uint8)
    found = scaled(images, 255)
    assert found.shape == (1, 1, 2, 2)
    torch.testing.assert_close(found.flatten(), torch.tensor([0, 1, 0.2, 0.4]))
