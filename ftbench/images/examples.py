"""Images as a run takes them: rows of a store, cropped and normalised batch by batch."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ftbench import ops
from ftbench.errors import FtbenchError
from ftbench.images.scan import Scan
from ftbench.images.sources import ImageSource
from ftbench.images.store import missing_bytes, open_store
from ftbench.preprocessing import Preprocessing
from ftbench.task import Batch

Rows = npt.NDArray[np.int64]
_SHARE = 0.5  # of a GPU's free memory that stored images may take
_AT_ONCE = 1024  # images that are on their way to it


@dataclass(frozen=True, eq=False)
class ImageExamples:
    """Labelled images before a backbone says at which size it wants them.

    ``rows`` (N,) are images of the source, ``targets`` (N, ...) what is to be learned of them,
    ``strata`` what subsets are stratified by. Rows of one of ``groups`` (N,) stay together.
    """

    source: ImageSource
    scan: Scan
    rows: Rows
    targets: Tensor
    strata: Any = None
    groups: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def subset(self, rows: Rows) -> Self:
        """Return the examples that hold only ``rows``."""
        return dataclasses.replace(self, **_chosen(self, rows))

    def batch(self, rows: Rows) -> Batch:
        """Raise FtbenchError: pixels come from :meth:`prepared`."""
        raise FtbenchError(
            "these images have no size yet: prepared(preprocessing) gives examples that have"
        )

    def to(self, device: str) -> Self:
        """Raise FtbenchError: pixels come from :meth:`prepared`."""
        raise FtbenchError(
            "these images have no size yet: prepared(preprocessing) gives examples that have"
        )

    def missing_bytes(self, preprocessing: Preprocessing) -> int:
        """Return how many bytes :meth:`prepared` has to write first, 0 where it has none to."""
        return missing_bytes(self.scan, preprocessing)

    def prepared(self, preprocessing: Preprocessing) -> PreparedImages:
        """Return the examples as a backbone takes them; what is not stored yet is written first."""
        stored = open_store(self.source, self.scan, preprocessing)
        return PreparedImages(
            stored, preprocessing, self.rows, self.targets, self.strata, self.groups
        )


def _chosen(examples: ImageExamples | PreparedImages, rows: Rows) -> dict[str, Any]:
    strata, groups = examples.strata, examples.groups
    return {
        "rows": examples.rows[rows],
        "targets": examples.targets[torch.from_numpy(np.ascontiguousarray(rows))],
        "strata": None if strata is None else np.asarray(strata)[rows],
        "groups": None if groups is None else groups[rows],
    }


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Labelled images at a backbone's size, in memory that all runs share.

    ``stored`` (M, R, R, C) uint8 is a memory map, or a tensor on the run's device that holds these
    rows alone.
    """

    stored: npt.NDArray[np.uint8] | Tensor
    preprocessing: Preprocessing
    rows: Rows
    targets: Tensor
    strata: Any = None
    groups: npt.NDArray[Any] | None = None
    device: str = "cpu"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def subset(self, rows: Rows) -> Self:
        """Return the examples that hold only ``rows``."""
        return dataclasses.replace(self, **_chosen(self, rows))

    def unprepared(self, rows: Rows) -> Batch:
        """Return the stored images of ``rows``, (B, C, R, R) uint8 in channels-last memory."""
        return Batch(self._pixels(rows).permute(0, 3, 1, 2), self._targets(rows))

    def resident(self, rows: Rows) -> tuple[Tensor, Tensor, Any]:
        """Return a store (M, R, R, C) uint8 on the device, where ``rows`` are in it, and targets.

        The whole store where it is there already, a memory map on the CPU; else these rows of it.
        """
        wanted = torch.from_numpy(np.ascontiguousarray(self.rows[rows]))
        if isinstance(self.stored, Tensor):
            return self.stored, wanted.to(self.stored.device), self._targets(rows)
        if self.device == "cpu":
            return _as_tensor(self.stored), wanted, self._targets(rows)
        index = torch.arange(len(rows), device=self.device)
        return self._pixels(rows), index, self._targets(rows)

    def batch(self, rows: Rows) -> Batch:
        """Return the middle of the images of ``rows``, (B, C, H, W) float32, normalised."""
        wanted = self.preprocessing
        # As torchvision's CenterCrop rounds.
        top, left = (round((wanted.resize - side) / 2) for side in wanted.size)
        height, width = wanted.size
        middle = self._pixels(rows)[:, top : top + height, left : left + width].contiguous()
        return Batch(normalised(middle, wanted), self._targets(rows))

    def to(self, device: str) -> PreparedImages:
        """Return the examples with batches on ``device``.

        On a GPU the images of these rows are moved there where they take less than half of what is
        free; else each batch is.
        """
        targets = self.targets.to(device)
        if isinstance(self.stored, Tensor):
            stored = self.stored.to(device)
            return dataclasses.replace(self, stored=stored, targets=targets, device=device)
        if device == "cpu":
            return dataclasses.replace(self, targets=targets, device=device)
        free, _ = torch.cuda.mem_get_info(device)
        one = int(np.prod(self.stored.shape[1:]))
        if len(self) * one > _SHARE * free:
            return dataclasses.replace(self, targets=targets, device=device)
        stored = gathered(self.stored, self.rows, device)
        rows = np.arange(len(self), dtype=np.int64)
        return dataclasses.replace(self, stored=stored, rows=rows, targets=targets, device=device)

    def _pixels(self, rows: Rows) -> Tensor:
        """Return the stored images of ``rows`` on the device, (B, R, R, C) uint8."""
        wanted = self.rows[rows]
        if isinstance(self.stored, Tensor):
            return self.stored[torch.from_numpy(wanted).to(self.stored.device)]
        gathered = torch.from_numpy(self.stored[wanted])
        if self.device == "cpu":
            return gathered
        return gathered.pin_memory().to(self.device, non_blocking=True)

    def _targets(self, rows: Rows) -> Tensor:
        index = torch.from_numpy(np.ascontiguousarray(rows))
        return self.targets[index.to(self.targets.device)]


def _as_tensor(stored: npt.NDArray[np.uint8]) -> Tensor:
    """Return a tensor over a memory map, which nothing may write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that it cannot keep anybody from doing so
        return torch.from_numpy(stored)


def gathered(stored: npt.NDArray[np.uint8], rows: Rows, device: str) -> Tensor:
    """Return ``rows`` of a store on the device; the host holds a part of them at a time.

    All at once would be half of a GPU's memory in the host's besides.
    """
    found = torch.empty((len(rows), *stored.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        found[start : start + len(part)] = torch.from_numpy(stored[part])
    return found


def normalised(pixels: Tensor, wanted: Preprocessing) -> Tensor:
    """Return images (B, H, W, C) uint8 as (B, C, H, W) float32, ``(v/255 − mean)/std``."""
    rows, height, width, _ = pixels.shape
    plan = ops.sample_mix(rows, height, width, seed=0, step=0)  # mixes nothing
    mean_std = (wanted.mean, wanted.std)
    return ops.mix(pixels, plan.to(pixels.device), normalize=mean_std)
