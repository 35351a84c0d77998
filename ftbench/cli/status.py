"""``ftbench status``: how many runs stand where, and why some would run again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from ftbench import store
from ftbench import sweep as sweeps
from ftbench.config import load_spec
from ftbench.errors import SpecError
from ftbench.plugins import load_catalogue
from ftbench.records import STATUSES


def show(directory: Path, spec_path: Path | None, *, why_rerun: bool) -> None:
    """Print the counts, and with ``why_rerun`` the field that makes each pending run new."""
    if directory.suffix == ".toml" and spec_path is None:
        raise SpecError(f"{directory} is a spec; 'ftbench status DIR {directory}'")
    records = store.require_results(directory)
    latest = store.latest(records)
    counts = Counter(record.status for record in latest.values())
    typer.echo(f"{directory}: {len(latest)} runs, {len(records)} attempts")
    for status in STATUSES:
        if counts[status]:
            typer.echo(f"  {counts[status]:>5} {status}")
    spec = load_spec(spec_path or directory / store.SPEC)
    plan = sweeps.make_plan(sweeps.expand(spec, load_catalogue()), records)
    outside = len(latest.keys() - {run.key for run in plan.runs})
    typer.echo(f"the plan: {sweeps.describe(plan)}")
    if outside:
        typer.echo(f"{outside} stored runs are of other plans")
    if why_rerun:
        for reason, count in sweeps.reasons(plan, records).most_common():
            typer.echo(f"  {count} × {reason}")
