"""``ftbench status``: how many runs stand where, and why some would run again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from ftbench import store
from ftbench.config import load_spec
from ftbench.errors import FtbenchError, SpecError
from ftbench.records import STATUSES


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
