"""The derived files of a results directory, and the DataFrame that users load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ftbench import store
from ftbench.errors import StoreError
from ftbench.report.frame import to_frame

if TYPE_CHECKING:
    import pandas as pd


def load_results(directory: str | Path) -> pd.DataFrame:
    """Return one tidy row a run of a results directory: its ok attempt, or else its last one.

    docs/results.md describes the columns. StoreError where there are no results or the directory
    is not ftbench's.
    """
    records = store.require_results(Path(directory))
    return to_frame(store.latest(records).values())


def write_derived(directory: Path) -> None:
    """Write results.csv and results.parquet anew; each is replaced in one step."""
    records = store.read_records(directory)
    if not records:
        return
    frame = to_frame(store.latest(records).values())
    for name in ("results.csv", "results.parquet"):
        temporary = directory / f".{name}.tmp"
        try:
            if name.endswith("csv"):
                frame.to_csv(temporary, index=False)
            else:
                frame.to_parquet(temporary, index=False)
            os.replace(temporary, directory / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {directory / name}: {error.strerror or error}; runs.jsonl holds "
                "every finished run, make room and run the same command again"
            ) from error
