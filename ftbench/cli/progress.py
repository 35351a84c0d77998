"""How a sweep shows its progress: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

import typer

from ftbench.metric import METRIC_FIELDS, Metric
from ftbench.records import RunRecord, RunSpec
from ftbench.report.cells import number
from ftbench.sweep import Plan, Progress, TimeLeft, describe

SAY_EVERY = 5.0  # seconds between lines on images


def readable_seconds(seconds: float) -> str:
    """Return a duration as people say it: ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


class ConsoleProgress(Progress):
    """Counts runs and estimates what is left; a context manager around a sweep."""

    def __init__(self) -> None:
        self.runs_finished = 0
        self.warnings: list[str] = []  # to be read under the table
        self._images_are, self._images_said = "", 0.0
        self._plan = Plan((), ())
        self._left = TimeLeft(self._plan)

    def __enter__(self) -> Self:
        """Begin the display."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the display."""

    def planned(self, plan: Plan) -> None:
        """Say how much there is to do."""
        self._plan = plan
        self._left = TimeLeft(plan)
        self._say(describe(plan))

    def finished(self, record: RunRecord) -> None:
        """Count the run."""
        self.runs_finished += 1
        self._left.finished(record)

    def warned(self, message: str) -> None:
        """Keep the warning for the end."""
        self.warnings.append(message)

    def images(self, what: str, done: int, total: int) -> None:
        """Say at the start, every few seconds and at the end how far images are."""
        now = time.monotonic()
        if what != self._images_are or now - self._images_said > SAY_EVERY or done == total:
            self._images_are, self._images_said = what, now
            self._say(f"{what}: {done:,} of {total:,}")

    def seconds_left(self) -> float | None:
        """Return the estimate for the pending runs, from finished ones that are like them."""
        return self._left.seconds()

    def _say(self, line: str) -> None:
        typer.echo(line, err=True)

    def _outcome(self, record: RunRecord) -> str:
        message = f" ({record.message})" if record.message else ""
        return f"{self._plan.name(record)}: {record.status}{_first_score(record)}{message}"


def _first_score(record: RunRecord) -> str:
    """Return the score that tables show of the run's task, ``""`` where it has none."""
    for values in record.metrics[:1]:
        metric = Metric(**{name: values[name] for name in METRIC_FIELDS if name in values})
        score = record.scores.get(metric.name)
        if score is not None:
            unit = " %" if metric.percent else ""
            return f" {metric.name} {number(score, metric)}{unit}"
    return ""


class PlainProgress(ConsoleProgress):
    """A line a run, for logs and pipes."""

    def finished(self, record: RunRecord) -> None:
        """Print the run's outcome, how many are done and the time left."""
        super().finished(record)
        left = self.seconds_left()
        rest = f", {readable_seconds(left)} left" if left else ""
        self._say(f"[{self.runs_finished}/{len(self._plan.pending)}{rest}] {self._outcome(record)}")


class LiveProgress(ConsoleProgress):
    """A bar over the runs, and one over the steps of each run in progress."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),  # a label may have brackets
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._runs: Any = None
        self._running: dict[str, Any] = {}  # bars by the keys of the runs in progress

    def __enter__(self) -> Self:
        """Begin the display."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the display away."""
        self._bars.stop()

    def planned(self, plan: Plan) -> None:
        """Show the bars."""
        super().planned(plan)
        self._runs = self._bars.add_task("runs", total=len(plan.pending), note="")

    def started(self, run: RunSpec) -> None:
        """Add the run's bar."""
        self._running[run.key] = self._bars.add_task(self._plan.name(run), total=None, note="")

    def stepped(self, run: RunSpec, step: int, total_steps: int) -> None:
        """Move the run's bar."""
        self._bars.update(self._running[run.key], completed=step, total=total_steps)

    def finished(self, record: RunRecord) -> None:
        """Move the runs' bar, and leave a line only for a run that did not end well."""
        super().finished(record)
        bar = self._running.pop(record.key, None)
        if bar is not None:
            self._bars.remove_task(bar)
        left = self.seconds_left()
        note = f"{readable_seconds(left)} left" if left else ""
        self._bars.update(self._runs, completed=self.runs_finished, note=note)
        if record.status != "ok":
            self._say(self._outcome(record))

    def _say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, markup=False)


def make_progress() -> ConsoleProgress:
    """Return the display that fits standard error."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
