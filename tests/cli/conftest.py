"""The command in this process, with the tiny task installed as a distribution of its own."""

import sys
from dataclasses import dataclass

import pytest

from ftbench.cli import main
from tests.support import TINY_FLAGS, tiny_distribution


@dataclass
class Outcome:
    """What a call of the command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def ftbench_command(capsys, monkeypatch):
    """A function that calls ``ftbench`` with arguments, as its entry point does."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ftbench", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def tiny_installed(tmp_path_factory, monkeypatch):
    """Make the entry point of ``ftbench-tiny`` findable."""
    monkeypatch.syspath_prepend(tiny_distribution(tmp_path_factory.mktemp("site")))
    monkeypatch.delitem(sys.modules, "ftbench_tiny", raising=False)


@pytest.fixture
def tiny_sweep(ftbench_command, tiny_installed, tmp_path):
    """A function that calls ``ftbench sweep`` on the tiny task, by default of one quick run."""

    def call(*arguments, strategies="full", sizes="12", seeds="0"):
        grid = ["--strategies", strategies, "--sizes", sizes]
        grid += [] if seeds is None else ["--seeds", seeds]
        return ftbench_command("sweep", *TINY_FLAGS, *grid, "--out", tmp_path / "out", *arguments)

    return call
