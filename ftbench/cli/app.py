"""The commands of ``ftbench``. Heavy modules are imported where a command needs them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ftbench.cli.streams import nowhere, take_any_text
from ftbench.errors import FtbenchError

app = typer.Typer(
    name="ftbench",
    help="Which fine-tuning strategy wins at which data budget, by how much, and at what cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT_OUT = Path("ftbench-results")
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A results directory.")]


def main() -> None:
    """Run the command line: exit 2 for a message to the user, 130 for an interrupt."""
    take_any_text()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    _let_libraries_load()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # so that a full disk is said, not printed at exit
    except FtbenchError as error:
        _fail(f"error: {error}", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if error.filename is not None:
            raise
        sys.stdout = nowhere()  # what is left in the other would fail again at exit
        _fail(f"error: cannot write the output: {error.strerror or error}", 2)


def _fail(message: str, code: int) -> None:
    typer.echo(message, err=True)
    sys.exit(code)


def _let_libraries_load() -> None:
    """Keep torch and pydantic from looking for plugins of their own where that would end them.

    A damaged distribution, of whatever project, raises there; `ftbench plugins` names one that
    concerns ftbench.
    """
    from importlib.metadata import entry_points

    try:
        entry_points(group="torch.backends")
    except Exception:  # whatever the damage
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")


@app.command()
def sweep(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC.toml",
            help="What to run, or a name: vtab-1k, tllib-cub, yosinski; flags override it.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Comma list; options in brackets: \"digits(split='blocks')\"."),
    ] = None,
    backbones: Annotated[
        str | None, typer.Option(help="Comma list, say glyphnet; family/model is one, too.")
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Comma list; options in brackets, a list there is a grid: "
            "'full,partial(stages=[1,2])'."
        ),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Comma list of label budgets: counts, 10%, full.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma list; 5 alone is the seed 5.")] = None,
    num_seeds: Annotated[int | None, typer.Option(min=1, help="The first N seeds.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps a run.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N].")] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="predictions: keep each test row's, besides right or not and loss."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any spec key, say recipe.optimizer=sgd."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Results directory.")] = DEFAULT_OUT,
    workers: Annotated[
        str,
        typer.Option(
            envvar="FTBENCH_WORKERS",
            help="Processes that carry out runs: auto (one on each GPU or CPU core), a number, or "
            "0 for none but this one.",
        ),
    ] = "auto",
    runs_per_gpu: Annotated[
        int, typer.Option(min=1, help="Runs that share each GPU at a time, with --workers auto.")
    ] = 1,
    executor: Annotated[
        str, typer.Option(help="local, or ray: on the nodes of a Ray cluster (ftbench[ray]).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, or auto for a running one; without it, one here."),
    ] = None,
    node_label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only Ray nodes that have this label."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Part I of N of the grid, into a folder of its own in --out; 'ftbench merge' "
            "joins them.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, run nothing.")
    ] = False,
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS,…",
            help="Which failures to try again, or none. Default: all but diverged.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes 20 and 100, seed 0, where not given.")
    ] = False,
) -> None:
    """Run tasks × backbones × strategies × sizes × seeds, whatever is not done; print the table."""
    from ftbench.cli import sweeping

    overrides = sweeping.overrides(
        tasks=tasks,
        backbones=backbones,
        strategies=strategies,
        sizes=sizes,
        seeds=seeds,
        num_seeds=num_seeds,
        steps=steps,
        device=device,
        keep=keep,
        settings=settings or [],
    )
    raise typer.Exit(
        sweeping.sweep(
            spec,
            overrides,
            out,
            retry=retry,
            workers=workers,
            runs_per_gpu=runs_per_gpu,
            cluster=sweeping.cluster_of(executor, address, node_label or ()),
            shard=shard,
            dry_run=dry_run,
            quick=quick,
        )
    )


@app.command()
def merge(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Results directories, shards for example.")
    ],
    out: Annotated[Path, typer.Option(help="The directory that takes all of them.")],
) -> None:
    """Join the results of several directories; two different records of one run are refused."""
    from ftbench.merge import merge as merge_directories

    merged = merge_directories(directories, out)
    for directory, count in merged.brought.items():
        typer.echo(f"{count:>6} runs from {directory}")
    typer.echo(f"{out} holds {merged.runs} runs")


@app.command()
def table(
    directory: Directory = DEFAULT_OUT,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="terminal, markdown, csv, comparisons, curves (an SVG) or a plugin's; by default "
            "terminal on one, and markdown in a pipe.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="A score or cost, say nll or source_accuracy_after.")
    ] = None,
) -> None:
    """Remake the table from the records, running nothing."""
    from ftbench.cli import tables

    tables.show(directory, format_name=format_name, metric=metric)


@app.command()
def status(
    directory: Directory = DEFAULT_OUT,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC.toml", help="The plan; default: DIR/spec.toml."),
    ] = None,
    why_rerun: Annotated[
        bool, typer.Option("--why-rerun", help="Name the field that makes each pending run new.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Stay, and show what is in progress until the sweep ends."),
    ] = False,
) -> None:
    """Count runs by status."""
    from ftbench.cli import status as status_command

    if watch:
        status_command.watch(directory)
        return

    status_command.show(directory, spec, why_rerun=why_rerun)


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List strategies, tasks, backbones, formats and hooks with owner, version and load errors."""
    from ftbench.cli import listing

    raise typer.Exit(listing.show(as_json=as_json))


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="backbone, task, strategy or recipe.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in a sweep: \"image-folder(path='DIR')\".")
    ],
    size: Annotated[int | None, typer.Option(help="Labels; a recipe's preset needs them.")] = None,
    check_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGES",
            help="What a backbone's source head says of an image, or of a folder of images.",
        ),
    ] = None,
) -> None:
    """Look closely at one backbone, task, strategy or recipe, before anything trains."""
    from ftbench.cli import show as show_command

    show_command.show(kind, name, size=size, check_weights=check_weights)


@app.command()
def doctor(
    build: Annotated[
        bool, typer.Option("--build", help="Compile the operators now, also after a failure.")
    ] = False,
) -> None:
    """Say which implementation of mixing and penalties serves here, why, and what is faster."""
    from ftbench.cli import doctor as doctor_command

    raise typer.Exit(doctor_command.show(build_first=build))


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ftbench {version('ftbench')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Which fine-tuning strategy wins at which data budget, by how much, and at what cost."""
