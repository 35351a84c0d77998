import string

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from ftbench import glyphs


@pytest.fixture(scope="module")
def batch():
    return glyphs.letters(1040, "test glyphs")


def test_images_and_labels_have_their_promised_form(batch):
    images, labels = batch
    assert images.shape == (1040, 32, 32)
    assert images.dtype == np.uint8
    assert labels.shape == (1040,)
    assert labels.dtype == np.int64


def test_classes_are_upper_then_lower_case_and_as_even_as_the_count_allows(batch):
    assert string.ascii_uppercase + string.ascii_lowercase == glyphs.CLASSES
    assert np.bincount(batch[1]).tolist() == [20] * 52
    counts = np.bincount(glyphs.letters(60, "uneven")[1], minlength=52)
    assert counts.sum() == 60
    assert counts.max() - counts.min() == 1


def test_labels_come_in_a_mixed_order(batch):
    assert batch[1].tolist() != sorted(batch[1].tolist())
    assert batch[1][:52].tolist() != list(range(52))


def test_equal_purposes_give_equal_letters_and_others_give_others():
    first, labels = glyphs.letters(30, "one")
    glyphs.letters.cache_clear()
    again, labels_again = glyphs.letters(30, "one")
    other, _ = glyphs.letters(30, "two")
    assert again is not first
    assert np.array_equal(first, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(first, other)


def test_callers_cannot_change_the_shared_arrays(batch):
    for array in batch:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_every_font_holds_every_letter():
    assert len(glyphs.text_fonts()) > 10
    for path in glyphs.text_fonts():
        font = FT2Font(path)
        missing = [letter for letter in glyphs.CLASSES if not font.get_char_index(ord(letter))]
        assert not missing, path


def test_fonts_are_text_fonts_in_a_fixed_order():
    fonts = glyphs.text_fonts()
    assert list(fonts) == sorted(set(fonts))
    assert not [path for path in fonts if "cmsy" in path or "LastResort" in path]


def test_letters_are_white_on_black_and_near_the_centre(batch):
    images = batch[0].astype(np.float64)
    ink = images.sum(axis=(1, 2))
    assert (ink > 0).all()
    assert images.mean() < 100
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert border.mean() < 5
    rows = (images.sum(axis=2) * np.arange(32)).sum(axis=1) / ink
    columns = (images.sum(axis=1) * np.arange(32)).sum(axis=1) / ink
    # Shifts reach 5 of 64 px, that is 2.5 of 32.
    for centre in (rows, columns):
        assert np.abs(centre - 15.5).max() < 7
        assert abs(centre.mean() - 15.5) < 1


def test_labels_are_those_of_the_letters_shown(batch):
    images, labels = batch
    flat = images.reshape(len(images), -1) / 255.0
    train, test = slice(0, 800), slice(800, None)
    means = np.stack([flat[train][labels[train] == k].mean(axis=0) for k in range(52)])
    distance = ((flat[test][:, None] - means[None]) ** 2).sum(axis=2)
    # Chance is 2 %; a class mean is too coarse to do much better than ten times that.
    assert (distance.argmin(axis=1) == labels[test]).mean() > 0.12


def test_letters_of_one_class_vary(batch):
    images, labels = batch
    of_a = images[labels == 0]
    assert len(np.unique(of_a.reshape(len(of_a), -1), axis=0)) == len(of_a)


def test_wide_letters_have_more_ink_than_narrow_ones(batch):
    images, labels = batch
    ink = {c: images[labels == k].mean() for k, c in enumerate(glyphs.CLASSES)}
    assert min(ink[c] for c in "MWBQ") > max(ink[c] for c in "Iijlr")
