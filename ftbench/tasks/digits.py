"""scikit-learn's handwritten digits, with rendered letters as the source task."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ftbench import glyphs, subsets
from ftbench.task import ClassificationTask, SourceTask, TensorExamples, data_fingerprint
from ftbench.tasks.letters import TEST_LETTERS, letter_examples, scaled

TEST_ROWS = 500
SOURCE_SAMPLES = 2_000  # what strategies may look at; apart from the letters held out


class Digits(ClassificationTask):
    """1,797 real digits, 8×8 enlarged to 1×32×32: a pool of 1,297 and 500 for test."""

    name = "digits"
    version = "1"
    classes = 10

    def pool(self) -> TensorExamples:
        """Return the 1,297 rows outside the test set."""
        pool, _ = _rows()
        return _digits().subset(pool)

    def test(self) -> TensorExamples:
        """Return 500 rows, stratified, the same for every seed."""
        _, test = _rows()
        return _digits().subset(test)

    def source(self) -> SourceTask:
        """Return the letters that the embedded backbone was pre-trained on."""
        return SourceTask(
            "letters",
            samples=letter_examples(SOURCE_SAMPLES, "source samples"),
            held_out=letter_examples(TEST_LETTERS, "held out"),
        )

    def fingerprint(self) -> str:
        """Return a hash of the digits, the split and the letters."""
        return _fingerprint()


@functools.cache
def _raw() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target.astype(np.int64)


@functools.cache
def _digits() -> TensorExamples:
    images, labels = _raw()
    enlarged = F.interpolate(scaled(images, 16), size=glyphs.SIDE, mode="bilinear")
    return TensorExamples(enlarged, torch.from_numpy(labels))


@functools.cache
def _rows() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the (pool, test) rows; the split is part of the task, so its seed is fixed."""
    order = subsets.stratified_order(_raw()[1], "digits", "test set")
    return np.sort(order[TEST_ROWS:]), np.sort(order[:TEST_ROWS])


@functools.cache
def _fingerprint() -> str:
    return data_fingerprint(
        *_raw(),
        *_rows(),
        *glyphs.letters(SOURCE_SAMPLES, "source samples"),
        *glyphs.letters(TEST_LETTERS, "held out"),
    )
