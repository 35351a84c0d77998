"""Which training rows a step sees: a pure function of the seed and the step."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ftbench import rng


class BatchOrder:
    """An endless stream of shuffled passes over ``rows`` rows, cut into equal batches.

    Every batch has ``min(batch_size, rows)`` rows; one may straddle two passes, so no row is left
    out and no batch is short.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = min(batch_size, rows)
        # Two passes are in use at a time at most.
        self._pass = functools.lru_cache(maxsize=2)(
            lambda number: rng.permutation(rows, seed, "order", number)
        )

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Return the positions (batch_size,) of the rows of ``step``."""
        start = step * self.batch_size
        stop = start + self.batch_size
        passes = range(start // self.rows, (stop - 1) // self.rows + 1)
        stream = np.concatenate([self._pass(number) for number in passes])
        offset = start - passes[0] * self.rows
        return stream[offset : offset + self.batch_size]
