"""``ftbench status``: how many runs stand where, and why some would run again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer

from ftbench import store
from ftbench.config import load_spec
from ftbench.errors import FtbenchError, SpecError
from ftbench.records import STATUSES, describe_run

WATCH_EVERY = 2.0  # seconds


def watch(directory: Path) -> None:
    """Print where a directory stands, again and again until no sweep is at work in it.

    On a terminal one display is kept up to date; elsewhere a line is added for what has changed.
    """
    live = sys.stdout.isatty()
    before = ""
    while True:
        at_work = store.is_being_written(directory)
        now = "\n".join(_standing(directory))
        if live:
            sys.stdout.write("\x1b[2J\x1b[H")  # an empty screen, from its top
        if live or now != before:
            typer.echo(now)
        before = now
        if not at_work:
            typer.echo("no sweep is at work there")
            return
        time.sleep(WATCH_EVERY)


def _standing(directory: Path) -> Iterator[str]:
    """Yield lines on what is done, what is in progress, and the time that should be left."""
    from ftbench.cli.progress import readable_seconds

    records = store.read_own_records(directory)
    latest = store.latest(records)
    counts = Counter(record.status for record in latest.values())
    done = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    yield f"{directory}: {done or 'no run has ended yet'}"
    now = datetime.now(UTC)
    for run in store.runs_in_progress(directory):
        name = describe_run(run["labels"], run["identity"]["size"], run["identity"]["seed"], ())
        since = (now - datetime.fromisoformat(run["started_at"])).total_seconds()
        # Without the seconds where nobody looks at them as they pass.
        yield f"  {name}" + (f" for {readable_seconds(since)}" if sys.stdout.isatty() else "")


def show(directory: Path, spec_path: Path | None, *, why_rerun: bool) -> None:
    """Print the counts, and with ``why_rerun`` the field that makes each pending run new."""
    if directory.suffix == ".toml" and spec_path is None:
        raise SpecError(f"{directory} is a spec; 'ftbench status DIR {directory}'")
    held = store.require_results(directory)
    latest = store.latest(held.records)
    counts = Counter(record.status for record in latest.values())
    typer.echo(f"{directory}: {len(latest)} runs, {len(held.records)} attempts")
    for status in STATUSES:
        if counts[status]:
            typer.echo(f"  {counts[status]:>5} {status}")
    if spec_path is None and not (directory / store.SPEC).is_file():
        if why_rerun:
            raise SpecError(f"--why-rerun needs a plan: 'ftbench status {directory} SPEC.toml'")
        typer.echo(f"no plan: {directory} has no {store.SPEC}; name one: DIR SPEC.toml")
        return
    # They bring torch: the counts above do not wait for it.
    from ftbench import sweep as sweeps
    from ftbench.plugins import load_catalogue

    try:
        spec = load_spec(spec_path or directory / store.SPEC)
        plan = sweeps.plan_for(spec, held, load_catalogue())
    except FtbenchError as error:
        # The counts above stand, whatever the plan wants that is not here.
        where = spec_path or directory / store.SPEC
        raise SpecError(f"the plan of {where} cannot be made here: {error}") from error
    typer.echo(f"the plan: {sweeps.describe(plan)}")
    if plan.others:
        typer.echo(f"{plan.others} stored runs are of other plans")
    if why_rerun:
        for reason, count in sweeps.reasons(plan).most_common():
            typer.echo(f"  {count} × {reason}")
