import re
import sys

import pytest

from ftbench.cli.progress import LiveProgress, PlainProgress, make_progress, readable_seconds
from ftbench.sweep import make_plan
from tests.support import run_record, run_spec


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (47.6, "48 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert readable_seconds(seconds) == text


def sweep_through(progress, records, *, done=()):
    """Play a sweep whose pending runs end as ``records``."""
    runs = [run_spec(r.labels["strategy"], seed=r.identity["seed"]) for r in (*done, *records)]
    with progress:
        progress.planned(make_plan(runs, list(done)))
        for record in records:
            run = run_spec(record.labels["strategy"], seed=record.identity["seed"])
            progress.started(run)
            progress.stepped(run, 1, 2)
            progress.stepped(run, 2, 2)
            progress.finished(record)


def test_plain_progress_is_a_line_a_run_with_counts_time_left_and_outcome(capsys):
    records = [run_record(seed=1), run_record("ewc", seed=1, status="failed", message="why")]
    sweep_through(PlainProgress(), records, done=[run_record(seed=0)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "3 runs, 1 already done, 2 to run",
        "[1/2, 3 s left] full at size 20, seed 1: ok accuracy 90.0 %",
        "[2/2] ewc at size 20, seed 1: failed (why)",
    ]


def test_failures_that_are_not_tried_again_are_not_called_done(capsys):
    progress = PlainProgress()
    failed = run_record(seed=0, status="diverged")
    progress.planned(make_plan([run_spec(seed=0), run_spec(seed=1)], [failed]))
    assert capsys.readouterr().err == (
        "2 runs, 0 already done, 1 diverged, not tried again (--retry diverged), 1 to run\n"
    )


def test_the_time_left_goes_by_the_strategies_that_are_left():
    progress = PlainProgress()
    progress.planned(make_plan([run_spec(seed=seed) for seed in range(4)], []))
    assert progress.seconds_left() is None
    progress.finished(run_record(seed=0))
    assert progress.seconds_left() == pytest.approx(9.0)


def test_live_progress_shows_runs_and_the_current_one_and_keeps_failures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FORCE_COLOR", "1")
    records = [run_record(seed=1), run_record("ewc", seed=1, status="failed", message="why [x]")]
    sweep_through(LiveProgress(), records)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "2 runs, 0 already done, 2 to run" in shown
    assert "ewc at size 20, seed 1: failed (why [x])" in shown
    assert "full at size 20, seed 1: ok" not in shown


def test_the_display_fits_standard_error(monkeypatch):
    assert type(make_progress()) is PlainProgress
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(make_progress()) is LiveProgress
