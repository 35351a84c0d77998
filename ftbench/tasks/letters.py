"""Rendered letters, 52 classes: what the embedded backbone is pre-trained on."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch

from ftbench import glyphs
from ftbench.task import ClassificationTask, TensorExamples, data_fingerprint

POOL_LETTERS = 28_000
TEST_LETTERS = 2_000


class Letters(ClassificationTask):
    """Letters from Matplotlib's fonts: 28,000 in the pool, 2,000 for test, 1×32×32 in [0, 1]."""

    name = "letters"
    version = "1"
    classes = len(glyphs.CLASSES)

    def pool(self) -> TensorExamples:
        """Return 28,000 letters; rendering them takes a few seconds."""
        return letter_examples(POOL_LETTERS, "train")

    def test(self) -> TensorExamples:
        """Return 2,000 letters that no other set holds."""
        return letter_examples(TEST_LETTERS, "held out")

    def fingerprint(self) -> str:
        """Return a hash of both sets."""
        return data_fingerprint(
            *glyphs.letters(POOL_LETTERS, "train"), *glyphs.letters(TEST_LETTERS, "held out")
        )


@functools.lru_cache(maxsize=4)
def letter_examples(count: int, purpose: str) -> TensorExamples:
    """Return ``count`` letters as (count, 1, 32, 32) float32 in [0, 1] and (count,) labels."""
    images, labels = glyphs.letters(count, purpose)
    return TensorExamples(scaled(images, 255), torch.from_numpy(labels.copy()))


def scaled(images: npt.NDArray[np.generic], white: float) -> torch.Tensor:
    """Return grey images (N, H, W) as (N, 1, H, W) float32, ``white`` mapped to 1."""
    return torch.from_numpy(images.astype(np.float32) / np.float32(white)).unsqueeze(1)
