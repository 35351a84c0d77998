"""How long ftbench takes to start: ``python -m benchmarks.startup`` prints a table.

Each start is a new process, and the commands take turns. That nothing heavy is imported is tested
in tests/test_startup.py; how long that takes depends on the machine and its load.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.machine import describe
from benchmarks.table import aligned

COMMANDS = {
    "python -c pass": ("-c", "pass"),  # what Python itself takes
    "import ftbench": ("-c", "import ftbench"),
    "ftbench --help": ("-m", "ftbench", "--help"),
}
_HEAD = ("", "median", "fastest", "slowest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--turns", type=int, default=15, help="starts of each command")
    turns = parser.parse_args(arguments).turns
    if turns < 1:
        parser.error(f"--turns {turns}: each command has to start once at least")
    for command in COMMANDS.values():
        _seconds(command)  # Warm-up: the first start writes byte code and fills the page cache.
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(turns):
        for name, command in COMMANDS.items():
            taken[name].append(_seconds(command))
    machine = [f"- {name}: {line}" for name, line in describe("cpu")["lines"].items()]
    rows = [(name, *map(_shown, _summary(seconds))) for name, seconds in taken.items()]
    sys.stdout.write("\n".join([*aligned([_HEAD, *rows]), "", *machine]) + "\n")
    return 0


def _seconds(command: Sequence[str]) -> float:
    """Return the wall time of one process; CalledProcessError where it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def _summary(seconds: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(seconds), min(seconds), max(seconds)


def _shown(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
