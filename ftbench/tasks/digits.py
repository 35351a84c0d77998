"""scikit-learn's handwritten digits, with rendered letters as the source task."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field

from ftbench import glyphs, subsets
from ftbench.component import Options
from ftbench.task import ClassificationTask, SourceTask, TensorExamples, data_fingerprint
from ftbench.tasks.letters import TEST_LETTERS, letter_examples, scaled

TEST_ROWS = 500
SOURCE_SAMPLES = 2_000  # what strategies may look at; apart from the letters held out

# The file holds 14 copies of one form, filled in by hand, one after the other: the labels of each
# run 0 to 9 three times, then 0 9 5 5 6 5 0 9 8 …, 130 in all, of which a few are missing. The
# first four end here. Who wrote which is not labelled; UCI counts 13 writers, so one may have
# written two, and the two most alike (the 8th and the 12th) both stand behind this row, in the
# pool. Of all 1,001 ways to hold out four forms this one is neither easy nor hard:
# docs/benchmark.md.
BLOCK_TEST_ROWS = 516

Split = Literal["stratified", "blocks"]


class DigitsOptions(Options):
    """Options of ``digits``."""

    split: Split = Field(
        "stratified",
        description="stratified: 500 rows drawn class by class, every writer in pool and test; "
        "blocks: the first 516 rows of the file, four forms by other writers than the pool's",
    )


class Digits(ClassificationTask[DigitsOptions]):
    """1,797 real digits, 8×8 enlarged to 1×32×32: a pool of 1,297 and 500 for test, or by writer.

    ``split="blocks"`` holds out the writers of four forms: a pool of 1,281 and 516 for test.
    """

    name = "digits"
    version = "1"
    classes = 10

    def pool(self) -> TensorExamples:
        """Return the rows outside the test set: 1,297, or 1,281 of ten other forms."""
        pool, _ = _rows(self.options.split)
        return _digits().subset(pool)

    def test(self) -> TensorExamples:
        """Return the test rows, the same for every seed: 500, stratified, or 516 of four forms."""
        _, test = _rows(self.options.split)
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
        return _fingerprint(self.options.split)


@functools.cache
def _raw() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the images (1797, 8, 8) and labels (1797,) of ``sklearn.datasets.load_digits``."""
    # Its file is read here: importing scikit-learn takes a second and a half of every command.
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    path = Path(folders[0] if folders else "") / "datasets/data/digits.csv.gz"
    if path.is_file():
        values = np.loadtxt(path, delimiter=",")
        return values[:, :-1].reshape(-1, 8, 8), values[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target.astype(np.int64)


@functools.cache
def _digits() -> TensorExamples:
    images, labels = _raw()
    enlarged = F.interpolate(scaled(images, 16), size=glyphs.SIDE, mode="bilinear")
    return TensorExamples(enlarged, torch.from_numpy(labels))


@functools.cache
def _rows(split: Split) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the (pool, test) rows; the split is part of the task, so its seed is fixed."""
    if split == "blocks":
        rows = np.arange(len(_raw()[1]))
        return rows[BLOCK_TEST_ROWS:], rows[:BLOCK_TEST_ROWS]
    order = subsets.stratified_order(_raw()[1], "digits", "test set")
    return np.sort(order[TEST_ROWS:]), np.sort(order[:TEST_ROWS])


@functools.cache
def _fingerprint(split: Split) -> str:
    return data_fingerprint(
        *_raw(),
        *_rows(split),
        *glyphs.letters(SOURCE_SAMPLES, "source samples"),
        *glyphs.letters(TEST_LETTERS, "held out"),
    )
