"""No stream loses a table: what it cannot encode is written in plain letters."""

import io
import json
import re
import shlex
import subprocess
import sys

import pytest

from ftbench.cli.streams import take_any_text
from tests.support import distribution, environment_with, grid, write_runs

COMMAND = [sys.executable, "-c", "from ftbench.cli import main; main()"]


@pytest.fixture
def results(tmp_path):
    """A results directory with a strategy whose label no narrow encoding has."""
    scores = {"a": [0.90, 0.91, 0.92], "b(mode='ß→漢')": [0.5, 0.51, 0.52], "c": [0.9, 0.9, 0.93]}
    return write_runs(tmp_path / "out", grid(scores))


# Runs one command line after the other, and ends with their exit codes.
COMMANDS = """
import json, sys
from ftbench.cli import main
codes = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["ftbench", *line]
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
print("codes", *codes)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_command_prints_on_every_stream(results, encoding, tmp_path):
    lines = [
        ["table", str(results)],
        ["table", str(results), "--format", "csv"],
        ["plugins"],
        ["table", "absent-é→漢"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(lines)],
        env={**environment_with(tmp_path), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    printed, said = done.stdout.decode(encoding), done.stderr.decode(errors="replace")
    assert "Traceback" not in said
    assert "UnicodeEncodeError" not in said
    assert printed.splitlines()[-1] == "codes 0 0 0 2", said
    assert "| b(mode=" in printed
    assert printed.count("b(mode=") >= 2  # in the CSV, too
    assert "ftbench_tasks" in printed
    assert "absent-" in said


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"91.0 +/- 2.5 ~ | 3 x x -> ss? \\u6f22 e - ..."),
        ("latin-1", b"91.0 \xb1 2.5 ~ | 3 \xd7 x -> ss? \\u6f22 \xe9 - ..."),
        ("utf-8", "91.0 ± 2.5 ≈ | 3 × x → ss? 漢 é – …".encode()),
    ],
)
def test_signs_have_plain_forms(monkeypatch, encoding, expected):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    take_any_text()
    sys.stdout.write("91.0 ± 2.5 ≈ | 3 × x → ss? 漢 é – …")
    sys.stdout.flush()
    assert raw.getvalue() == expected


def test_half_a_character_of_a_file_name_is_written_too(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    take_any_text()
    sys.stdout.write(b"out\xff".decode("utf-8", "surrogateescape"))
    sys.stdout.flush()
    assert raw.getvalue() == b"out\\udcff"


def test_a_stream_that_cannot_be_changed_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    take_any_text()
    sys.stdout.write("±")
    assert sys.stdout.getvalue() == "±"


def test_names_are_printed_as_text(tmp_path):
    folder = tmp_path / "site"
    module = (
        "import ftbench\n@ftbench.hookimpl\ndef ftbench_strategies():\n"
        "    return [type('X', (ftbench.Strategy,), {'name': 'x[red]'})]\n"
    )
    distribution(folder, "odd", entry_points={"x": "odd"}, modules={"odd": module}, version="1[b]")
    done = subprocess.run(
        [*COMMAND, "plugins"], env=environment_with(folder), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "load error: odd 1[b], ftbench_strategies: X.name: the name 'x[red]' can" in done.stdout


@pytest.mark.parametrize(
    ("redirect", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), (">/dev/full", 2)]
)
def test_a_stream_that_is_closed_or_full_is_no_traceback(results, redirect, code, tmp_path):
    line = f"{shlex.join(COMMAND)} table {shlex.quote(str(results))} {redirect}"
    done = subprocess.run(
        ["bash", "-c", line], env=environment_with(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("text", [b"[ftbench]\nx\n", b"[a]\n\xff = b\n"])
def test_a_damaged_distribution_does_not_end_a_command_by_way_of_torch(tmp_path, text):
    folder = distribution(tmp_path / "site", "damaged", entry_points={})
    next(folder.glob("*.dist-info/entry_points.txt")).write_bytes(text)
    done = subprocess.run(
        [*COMMAND, "plugins"], env=environment_with(folder), capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert re.search(r"^strategy +full ", done.stdout, re.M)
