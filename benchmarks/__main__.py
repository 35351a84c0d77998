"""The command: time everything, print the table, and keep it where asked."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
_RESULTS = _FOLDER / "results"
# glibc then takes every block from a heap that it never shrinks.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return pytest's exit code, 0 where everything was measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write and (options.quick or options.only):
        parser.error("--write keeps whole runs; --quick and --only are for trying things out")
    device = _device(parser, options.device)
    with tempfile.TemporaryDirectory() as folder:
        report = (options.json or Path(folder) / "report.json").resolve()
        # A report of an earlier run must not be taken for this one's.
        report.unlink(missing_ok=True)
        code = subprocess.run(
            _command(device, options.quick, options.only, report),
            cwd=_FOLDER.parent,
            env={**os.environ, **(_KEEP_MEMORY if options.keep_memory else {})},
            # The table alone goes to stdout.
            stdout=sys.stderr,
            check=False,
        ).returncode
        text = _table(report)
    sys.stdout.write(text)
    if options.write and code:
        sys.stderr.write("not written: something above failed, so the table is not whole\n")
    elif options.write:
        _write(text, options.name, device, "-keep-memory" if options.keep_memory else "")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU"
    )
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--name", help="of the table's file; default: the CPU's or GPU's model")
    parser.add_argument("--quick", action="store_true", help="small sizes: does the suite work?")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="let malloc keep what is freed: far kinder to peers, which allocate their results",
    )
    parser.add_argument("--only", metavar="TEXT", help="cases to run, as pytest's -k takes them")
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep pytest-benchmark's report")
    return parser


def _device(parser: argparse.ArgumentParser, wanted: str | None) -> str:
    # Imported here, so that --help is fast.
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


def _command(device: str, quick: bool, only: str | None, report: Path) -> list[str]:
    command = [sys.executable, "-m", "pytest", str(_FOLDER), "-q", "--tb=short"]
    # The repository's own settings are those of its tests: many workers, warnings as errors.
    command += ["-p", "no:xdist", "-p", "no:cacheprovider", "--disable-warnings"]
    for setting in ("addopts=", "filterwarnings=", "python_files=bench_*.py"):
        command += ["-o", setting]
    command += ["-o", "python_functions=bench_*", f"--bench-device={device}"]
    command += [f"--benchmark-json={report}", "--benchmark-quiet", "--benchmark-disable-gc"]
    if device == "cuda":
        command.append("--benchmark-timer=benchmarks.timing.synchronized_clock")
    if quick:
        command.append("--bench-quick")
    if only:
        command += ["-k", only]
    return command


def _table(report: Path) -> str:
    """Return the table of the report, nothing where pytest wrote none."""
    from benchmarks.table import table

    # pytest-benchmark leaves an empty file where nothing was timed.
    if not report.exists() or not report.stat().st_size:
        return ""
    return table(json.loads(report.read_text(encoding="utf-8")))


def _write(text: str, name: str | None, device: str, suffix: str) -> None:
    from benchmarks.machine import default_name, slug

    path = _RESULTS / f"{slug(name) if name else default_name(device) + suffix}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    sys.stderr.write(f"written: {path.relative_to(_FOLDER.parent)}\n")


if __name__ == "__main__":
    sys.exit(main())
