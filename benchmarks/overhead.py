"""What ftbench adds to a run, and what many runs leave behind in memory.

``python -m benchmarks.overhead [RUNS]``: short runs of head-only (two steps on 20 labels), one
after another in this process, then on worker processes. Printed are the seconds of a run that are
neither training nor prediction, and the resident memory of every process after a tenth of the runs,
half of them, and all.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from ftbench import SweepSpec, plugins, run_sweep
from ftbench.records import RunRecord
from ftbench.sweep import Progress

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory(Progress):
    """Notes how much memory this process and its children hold as runs end."""

    def __init__(self, runs: int) -> None:
        self._at = {max(1, runs // 10), runs // 2, runs}
        self._ended = 0
        self.lines: list[str] = []

    def finished(self, record: RunRecord) -> None:
        """Note it after a tenth, half and all of the runs."""
        self._ended += 1
        if self._ended in self._at:
            sizes = [resident(process) for process in family(os.getpid())]
            self.lines.append(
                f"after {self._ended} runs: this process {sizes[0]:.0f} MiB, others "
                + (", ".join(f"{size:.0f}" for size in sizes[1:]) or "none")
            )


def family(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def resident(process: int) -> float:
    """Return a process's own memory in MiB: what it shares with files is not counted."""
    pages = Path(f"/proc/{process}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * _PAGE / 2**20


def main() -> None:
    """Print what was measured."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    spec = SweepSpec.model_validate(
        {
            "strategies": ["head-only"],
            "sizes": [20],
            "seeds": list(range(runs)),
            "recipe": {"steps": 2},
        }
    )
    for workers in (0, 2):
        memory = Memory(runs)
        with tempfile.TemporaryDirectory() as folder:
            plan = run_sweep(
                spec,
                folder,
                catalogue=plugins.load_catalogue(),
                progress=memory,
                workers=workers,
            )
        late = list(plan.done.values())[runs // 2 :]
        whole = 1e3 * statistics.median(record.run_seconds for record in late)
        besides = 1e3 * statistics.median(around(record) for record in late)
        sys.stdout.write(
            f"workers={workers}: a run takes {whole:.0f} ms, of them {besides:.0f} ms neither "
            "training nor prediction\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in memory.lines)


def around(record: RunRecord) -> float:
    """Return the seconds of a run that are neither training nor prediction of its test set."""
    spent = float(record.costs.get("train_seconds") or 0.0)
    rows = record.protocol["test_rows"]
    spent += rows * float(record.costs.get("predict_row_seconds") or 0.0)
    return float(record.run_seconds - spent)


if __name__ == "__main__":
    main()
