"""Which rows a run sees: stratified, nested and fingerprinted subsets of a labelled pool."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ftbench import rng
from ftbench.errors import SpecError

Rows = npt.NDArray[np.int64]
QUANTILES = 10  # strata of a target that is a number


@dataclass(frozen=True)
class Strata:
    """One stratum a row (N,): subsets keep their proportions.

    ``required`` says that each has to have a row in every subset, as classes do.
    """

    values: Rows
    required: bool = True

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def __getitem__(self, rows: Rows) -> Strata:
        """Return the strata of some rows."""
        return Strata(self.values[rows], self.required)


def as_strata(given: npt.ArrayLike | Strata | None, rows: int | None = None) -> Strata:
    """Return the strata that are meant: see the table. ValueError, to end a sentence, for others.

    ====================================  ======================================================
    integers or flags (N,)                classes: each is a stratum that every subset holds
    integers or flags (N, K) of 0 and 1   several labels a row: the rarest label that it has
    floats (N,)                           numbers: tenths of the rows, by rank
    None                                  nothing is known: every subset is drawn at random
    ====================================  ======================================================

    ``rows`` is N where nothing is known.
    """
    if isinstance(given, Strata):
        return given
    if given is None:
        if rows is None:
            raise ValueError("are None, of nobody knows how many rows")
        return Strata(np.zeros(rows, dtype=np.int64), required=False)
    values = np.asarray(given)
    whole = np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_
    if rows is not None and values.shape[:1] != (rows,):
        raise ValueError(f"have shape {values.shape}; expected one entry for each of {rows} rows")
    if values.ndim == 1 and whole:
        return Strata(values.astype(np.int64))
    if values.ndim == 1 and np.issubdtype(values.dtype, np.floating):
        return Strata(_quantiles(values), required=False)
    if values.ndim == 2 and whole and set(np.unique(values)) <= {0, 1}:
        return Strata(_rarest_labels(values.astype(np.bool_)))
    raise ValueError(
        f"have shape {values.shape} and dtype {values.dtype}; expected classes (N,), labels (N, K) "
        "of 0 and 1, numbers (N,), or None"
    )


def _quantiles(values: npt.NDArray[np.floating]) -> Rows:
    """Return which tenth of the rows each is in by rank; equal numbers are in one tenth."""
    if not np.isfinite(values).all():
        raise ValueError("hold a number that is not finite")
    ordered = np.sort(values)
    rank = np.searchsorted(ordered, values, side="left")
    return (rank * QUANTILES // len(values)).astype(np.int64)


def _rarest_labels(labels: npt.NDArray[np.bool_]) -> Rows:
    """Return each row's rarest label, K for a row without any; the first of equally rare ones."""
    counts = labels.sum(axis=0)
    order = np.argsort(counts, kind="stable")
    rarest = order[np.argmax(labels[:, order], axis=1)]
    found: Rows = np.where(labels.any(axis=1), rarest, labels.shape[1]).astype(np.int64)
    return found


def stratified_order(labels: npt.ArrayLike | Strata, *purpose: int | str) -> Rows:
    """Return all rows in an order whose every prefix keeps the labels' proportions.

    The first K rows hold one row of each of the K classes. After them, row j of a class of n rows
    stands at (j + ½)/n, so that the counts in a prefix follow the proportions (Webster's method);
    ties and the rows within a class are drawn from the stream of ``purpose``. Prefixes are nested
    by construction.
    """
    values = as_strata(labels).values
    shuffled = rng.permutation(len(values), *purpose, "rows")
    _, classes, counts = np.unique(values[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(values), dtype=np.int64)
    rank[by_class] = np.arange(len(values)) - np.repeat(starts, counts)
    position = _positions(rank, counts[classes])
    # One tie-break a (class, rank) pair; rows of one class never tie.
    tie = rng.uniforms(len(values), *purpose, "ties")
    return shuffled[np.lexsort((tie, position))].astype(np.int64)


def _positions(rank: Rows, count: Rows) -> npt.NDArray[np.float64]:
    """Return where row ``rank`` of a class of ``count`` rows stands: first rows before all others.

    Equal positions of classes of different sizes are equal numbers: both are rounded once.
    """
    return np.where(rank == 0, -1.0, (rank + 0.5) / count)


def draw(labels: npt.ArrayLike | Strata, size: int, seed: int) -> Rows:
    """Return the sorted rows of the subset of ``size`` labels that ``seed`` draws.

    For one seed, the rows at a smaller size are among the rows at a larger one. SpecError where
    the pool is smaller than ``size`` or ``size`` cannot hold one row of each class.
    """
    check_size(labels, size)
    return np.sort(stratified_order(labels, seed, "subset")[:size])


def expected_overlap(labels: npt.ArrayLike | Strata, size: int) -> float:
    """Return the share of its rows that one seed's subset of ``size`` has in common with another's.

    It is the mean over seeds, in (0, 1]: Σ nₖ² / Nₖ over ``size``, where nₖ of a class's Nₖ rows
    are expected in a subset. In equal classes that is size/pool; where every class has to have a
    row, small ones are drawn whole, and it is more.
    """
    _, counts = np.unique(as_strata(labels).values, return_counts=True)
    classes = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = _positions(rank, counts[classes])
    last = np.sort(position)[size - 1]
    # Rows that tie for the last places have equal chances of them.
    tied = position == last
    chance = np.where(tied, (size - np.sum(position < last)) / np.sum(tied), position < last)
    drawn = np.bincount(classes, weights=chance)
    return float(np.sum(drawn**2 / counts) / size)


def check_size(labels: npt.ArrayLike | Strata, size: int) -> None:
    """Raise SpecError where a pool with these labels cannot give a subset of ``size``."""
    strata = as_strata(labels)
    classes = len(np.unique(strata.values))
    if size > len(strata):
        raise SpecError(f"size {size} is larger than the pool of {len(strata)} labelled rows")
    if strata.required and size < classes:
        raise SpecError(
            f"size {size} cannot hold one row of each of the {classes} classes; "
            f"the smallest size that can is {classes}"
        )


def split_validation(
    labels: npt.ArrayLike | Strata, share: float, seed: int, groups: npt.ArrayLike | None = None
) -> tuple[Rows, Rows]:
    """Return (training, validation) positions into ``labels``, stratified, drawn by ``seed``.

    Validation takes ``share`` of the rows, at least one of each class where that many rows hold
    one, and leaves a row of each class to train on. ``groups`` stay together. SpecError where a
    side would be left empty.
    """
    rows = len(as_strata(labels))
    try:
        return split(labels, share, seed, "validation", groups=groups)
    except ValueError as error:
        raise SpecError(
            f"{rows} labels leave no room for {share:.0%} of validation rows; "
            "use a larger size or turn early stopping off (recipe.patience)"
        ) from error


def split(
    labels: npt.ArrayLike | Strata,
    share: float,
    *purpose: int | str,
    groups: npt.ArrayLike | None = None,
) -> tuple[Rows, Rows]:
    """Return positions into ``labels`` that stay, and those that ``purpose`` draws from them.

    ``share`` of the rows is drawn, in the classes' proportions; a row of each class stays. Rows of
    one of ``groups`` (N,) are on one side, so that the share is met as nearly as they allow.
    ValueError where a side would be left empty.
    """
    strata = as_strata(labels)
    values = strata.values
    _, classes = np.unique(values, return_inverse=True)
    order = stratified_order(values, *purpose)
    if groups is None:
        # Each class's last row in this order stays.
        _, from_end = np.unique(classes[order][::-1], return_index=True)
        order = np.delete(order, len(order) - 1 - from_end)
        wanted = round(share * len(values))
        if wanted < 1 or len(order) < wanted or wanted >= len(values):
            raise ValueError("a side is empty")
        drawn = np.sort(order[:wanted])
    else:
        drawn = _drawn_groups(strata, np.asarray(groups), order, share)
        if not 0 < len(drawn) < len(values):
            raise ValueError("a side is empty")
    return np.setdiff1d(np.arange(len(values)), drawn), drawn


def _drawn_groups(strata: Strata, groups: npt.NDArray[Any], order: Rows, share: float) -> Rows:
    """Return the rows of groups that hold ``share`` of each stratum, as nearly as they allow.

    Where they allow next to nothing, each being most of a stratum, they hold it of all rows.
    """
    _, classes = np.unique(strata.values, return_inverse=True)
    _, group_of = np.unique(groups, return_inverse=True)
    first = list(dict.fromkeys(group_of[order].tolist()))
    table = np.zeros((len(first), classes.max() + 1), dtype=np.int64)
    np.add.at(table, (group_of, classes), 1)
    kept = table if strata.required else table.sum(axis=1, keepdims=True)
    for counted in (table, table.sum(axis=1, keepdims=True)):
        taken = _chosen_groups(counted, kept, first, share)
        if 2 * table[taken].sum() >= share * len(order):
            break
    return np.flatnonzero(taken[group_of]).astype(np.int64)


def _chosen_groups(
    counted: Rows, kept: Rows, order: list[int], share: float
) -> npt.NDArray[np.bool_]:
    """Return which groups bring the counts of a table (groups, strata) nearest to a share of each.

    A group is taken in its turn where it brings them nearer, and leaves some of whatever ``kept``
    counts.
    """
    left, wanted = kept.sum(axis=0), share * counted.sum(axis=0)
    taken = np.zeros(len(counted), dtype=bool)
    for group in order:
        nearer = np.sum((wanted - counted[group]) ** 2) < np.sum(wanted**2)
        if nearer and np.all(left - kept[group] >= np.minimum(left, 1)):
            taken[group] = True
            wanted, left = wanted - counted[group], left - kept[group]
    return taken


def fingerprint(row_ids: npt.ArrayLike) -> str:
    """Return the SHA-256 of the sorted row ids, each as a little-endian 64-bit integer."""
    return hashlib.sha256(np.sort(np.asarray(row_ids)).astype("<i8").tobytes()).hexdigest()


def resolve_size(size: int | str, pool: int) -> int:
    """Return the row count that ``50``, ``"10%"`` or ``"full"`` means for a pool of that length."""
    if size == "full":
        return pool
    if isinstance(size, str):
        try:
            share = float(size.removesuffix("%")) / 100 if size.endswith("%") else None
            count = round(share * pool) if share is not None else int(size)
        except (ValueError, OverflowError) as error:
            raise SpecError(
                f"cannot read the size '{size}'; write a count, a percentage such as 10%, or full"
            ) from error
        if share is not None and share > 1:
            raise SpecError(f"size {size} is larger than the pool of {pool} labelled rows")
        size = count
    if size < 1:
        raise SpecError(f"size {size} is not positive")
    return size
