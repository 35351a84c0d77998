"""The derived files of a results directory, and the DataFrame that users load."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftbench import store
from ftbench.errors import StoreError
from ftbench.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd


def load_results(directory: str | Path) -> pd.DataFrame:
    """Return one tidy row a run of a results directory: its ok attempt, or else its last one.

    docs/results.md describes the columns. StoreError where there are no results or the directory
    is not ftbench's.
    """
    from ftbench.report.frame import to_frame  # pandas: where no table is made, nobody waits

    held = store.require_results(Path(directory))
    return to_frame(store.latest(held.records).values())


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
