"""``ftbench status DIR --watch``: what is done and in progress, until the sweep ends."""

import os
import socket

import pytest
from typer.testing import CliRunner

from ftbench import store
from ftbench.cli import status
from ftbench.cli.app import app
from tests.support import run_record, run_spec


def test_it_shows_what_changes_until_the_sweep_ends(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with store.Store(out) as opened:
        opened.begin(run_spec("full", seed=1))
        opened.begin(run_spec("ewc", seed=2))
        events = [
            lambda: opened.append(run_record("full", seed=1)),
            lambda: None,  # nothing new is said of this
            lambda: opened.append(run_record("ewc", seed=2, status="failed", message="why")),
            lambda: monkeypatch.setattr(store, "is_being_written", lambda directory: False),
        ]
        monkeypatch.setattr(status.time, "sleep", lambda seconds: events.pop(0)())
        status.watch(out)
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: no run has ended yet",
        "  full at size 20, seed 1",
        "  ewc at size 20, seed 2",
        f"{out}: 1 ok",
        "  ewc at size 20, seed 2",
        f"{out}: 1 ok, 1 failed",
        "no sweep is at work there",
    ]


def test_a_directory_is_being_written_while_its_writer_lives(tmp_path):
    assert not store.is_being_written(tmp_path)
    with store.Store(tmp_path):
        assert store.is_being_written(tmp_path)
    assert not store.is_being_written(tmp_path)


@pytest.mark.parametrize(
    ("owner", "written"),
    [
        (f"process {2**22 + 5} on {socket.gethostname()} since then", False),  # no process has it
        (f"process {os.getpid()} on {socket.gethostname()} since then", True),
        ("process 1 on another-machine since then", True),
        ("torn", False),
    ],
    ids=["killed", "alive", "elsewhere", "torn"],
)
def test_what_a_killed_writer_left_is_not_taken_for_one(tmp_path, owner, written):
    (tmp_path / ".lock-owner").write_text(owner)
    assert store.is_being_written(tmp_path) == written


def test_the_command_watches(tmp_path):
    found = CliRunner().invoke(app, ["status", str(tmp_path), "--watch"])
    assert found.exit_code == 0, found.output
    assert "no sweep is at work there" in found.output
