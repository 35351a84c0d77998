"""Planning and watching a sweep of 100,000 runs that are all done: seconds and peak memory.

``python -m benchmarks.scale [RUNS]``. Each command is run by itself, Python's start included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ftbench import SweepSpec, plugins, run_sweep
from ftbench.config import to_toml
from ftbench.store import RUNS, SPEC, SPEC_HEADER
from ftbench.sweep.grid import expand

_COMMANDS = (("status",), ("sweep", "--dry-run"))


def make_directory(directory: Path, runs: int) -> None:
    """Fill a results directory with the records of a grid: those of two real runs, reseeded."""
    catalogue = plugins.load_catalogue()
    with tempfile.TemporaryDirectory() as first:
        spec = SweepSpec.model_validate(
            {
                "strategies": ["head-only", "full"],
                "sizes": [20],
                "seeds": [0],
                "recipe": {"steps": 5},
            }
        )
        records = run_sweep(spec, first, catalogue=catalogue).records
    spec = spec.model_copy(update={"seeds": tuple(range(runs // 2))})
    of = {record.labels["strategy"]: record for record in records}
    with open(directory / RUNS, "w", encoding="utf-8") as file:
        for run in expand(spec, catalogue):
            record = replace(of[run.strategy.label], key=run.key, identity=run.identity())
            file.write(record.to_json() + "\n")
    (directory / SPEC).write_text(f"{SPEC_HEADER}\n{to_toml(spec)}", encoding="utf-8")


def measure(directory: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds and the peak of resident MiB of a command over a directory."""
    where = [str(directory)]
    if command[0] == "sweep":
        where = [str(directory / SPEC), "--out", str(directory)]
    asked = [sys.executable, "-m", "ftbench", command[0], *where, *command[1:]]
    began = time.perf_counter()
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(asked)} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print a table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder, "few"), Path(folder, "many")
        for directory, count in ((empty, 2), (full, runs)):
            directory.mkdir()
            make_directory(directory, count)
        for command in _COMMANDS:
            for directory, count in ((empty, 2), (full, runs)):
                found = [measure(directory, command) for _ in range(3)]
                seconds, memory = sorted(found)[1]
                name = " ".join(command)
                sys.stdout.write(
                    f"| `ftbench {name}`, {count:,} runs | {seconds:.1f} s | {memory:.0f} MiB |\n"
                )


if __name__ == "__main__":
    main()
