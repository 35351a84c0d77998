"""The derived files of a results directory, and the DataFrames that users load."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftbench import outcomes, store
from ftbench.errors import StoreError
from ftbench.records import RunRecord

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

_log = logging.getLogger("ftbench")


def load_results(directory: str | Path) -> pd.DataFrame:
    """Return one tidy row a run of a results directory: its ok attempt, or else its last one.

    docs/results.md describes the columns. StoreError where there are no results or the directory
    is not ftbench's.
    """
    from ftbench.report.frame import to_frame  # pandas: where no table is made, nobody waits

    held = store.require_results(Path(directory))
    return to_frame(store.latest(held.records).values())


def load_outcomes(directory: str | Path) -> pd.DataFrame:
    """Return the results of all ok runs row by row, one frame for all.

    ``key`` is the run's, as in :func:`load_results`, ``row`` counts the test set's rows from 0, and
    the rest is what the task keeps: for classification ``correct`` and ``nll``, and what ``--keep
    predictions`` adds. Runs whose outcomes are lost, torn or others' are left out, and a warning
    says how many and why. StoreError where there are no results.
    """
    import pandas as pd

    held = store.require_results(Path(directory))
    ended_well = [r for r in store.latest(held.records).values() if r.status == "ok"]
    frames, problems = [], Counter[str]()
    for record in ended_well:
        try:
            found = _read_outcomes(Path(directory), record)
        except ValueError as error:
            problems[str(error)] += 1
            continue
        rows = len(next(iter(found.values())))
        columns = {name: list(v) if v.ndim > 1 else v for name, v in found.items()}
        frames.append(pd.DataFrame({"key": record.key, "row": np.arange(rows), **columns}))
    for problem, count in problems.items():
        _log.warning(
            "%s: the outcomes of %d of %d runs %s; their scores are whole",
            *(directory, count, len(ended_well), problem),
        )
    if not frames:
        return pd.DataFrame({"key": pd.Series(dtype=str), "row": pd.Series(dtype=np.int64)})
    return pd.concat(frames, ignore_index=True)


def _read_outcomes(directory: Path, record: RunRecord) -> dict[str, npt.NDArray[Any]]:
    """Return what is kept of a run; ValueError says what became of it."""
    path = directory / store.OUTCOMES / f"{record.key}.npz"
    wanted = record.protocol.get("outcomes_fingerprint")
    if not wanted:
        raise ValueError("were not kept by the ftbench that made them")
    try:
        found = outcomes.unpack(path.read_bytes())
    except OSError:
        raise ValueError(f"are missing from {store.OUTCOMES}/") from None
    except ValueError:
        raise ValueError("are torn") from None
    if outcomes.fingerprint(found) != wanted:
        raise ValueError("are not those that the record was made with")
    return found


def write_derived(directory: Path, records: Iterable[RunRecord]) -> None:
    """Write results.csv and results.parquet anew.

    Each is replaced in one step, and whatever keeps one from being written does not keep the other.
    StoreError, then, says so: runs.jsonl has everything that is in them.
    """
    from ftbench.report.frame import to_frame

    latest = store.latest(records)
    if not latest:
        return
    problems = []
    try:
        frame = to_frame(latest.values())
    except Exception as error:
        raise StoreError(_derived_problem(directory, "results.csv", error)) from error
    for name in ("results.csv", "results.parquet"):
        try:
            _write(frame, directory, name)
        except Exception as error:
            problems.append(_derived_problem(directory, name, error))
    if problems:
        raise StoreError("; ".join(problems))


def _write(frame: pd.DataFrame, directory: Path, name: str) -> None:
    temporary = directory / f".{name}.tmp"
    try:
        if name.endswith("csv"):
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        os.replace(temporary, directory / name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _derived_problem(directory: Path, name: str, error: Exception) -> str:
    if isinstance(error, OSError):
        why = f"{error.strerror or error}; runs.jsonl holds every finished run, make room"
    else:
        why = f"{type(error).__name__}: {error}; runs.jsonl holds every finished run, mend it"
    return f"cannot write {directory / name}: {why} and run the same command again"
