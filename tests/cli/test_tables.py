import io
import sys

import pandas as pd
import pytest

import ftbench
from tests.support import distribution, grid, run_record, tiny_sweep, write_runs
from tests.tiny import TinyPlugin

SCORES = {"a": [0.90, 0.91, 0.92], "b": [0.50, 0.51, 0.53]}


@pytest.fixture
def results(tmp_path):
    """A results directory with two strategies at one size."""
    return write_runs(tmp_path / "results", grid(SCORES))


def test_a_table_is_remade_without_running_or_writing_anything(ftbench_command, results):
    before = {path: path.read_bytes() for path in results.iterdir()}
    outcome = ftbench_command("table", results)
    assert (outcome.code, outcome.err) == (0, "")
    assert "| a | **91.0 ± 2.5** |" in outcome.out
    assert {path: path.read_bytes() for path in results.iterdir()} == before


def test_a_pipe_gets_markdown_and_a_terminal_a_rich_table(ftbench_command, results, monkeypatch):
    piped = ftbench_command("table", results).out
    assert piped == ftbench_command("table", results, "--format", "markdown").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "|---|" not in ftbench_command("table", results).out


def test_csv_is_read_by_pandas(ftbench_command, results):
    outcome = ftbench_command("table", results, "--format", "csv")
    frame = pd.read_csv(io.StringIO(outcome.out))
    assert list(frame["strategy"]) == ["a", "b"]
    assert frame["mean"][0] == pytest.approx(0.91)


def test_a_metric_is_shown_where_it_is_asked_for(ftbench_command, results):
    outcome = ftbench_command("table", results, "--metric", "nll")
    assert "NLL (nats)" in outcome.out
    assert ftbench_command("table", results, "--metric", "train_seconds").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "markdwon"], "unknown format 'markdwon'; did you mean 'markdown'?"),
        (["--metric", "acuracy"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
    ],
)
def test_a_misspelt_format_or_metric_gets_the_nearest(ftbench_command, results, flags, message):
    outcome = ftbench_command("table", results, *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_another_projects_directory_is_refused(ftbench_command, tmp_path):
    (tmp_path / "runs.jsonl").write_text("not\nours\n")
    outcome = ftbench_command("table", tmp_path)
    assert outcome.code == 2
    assert "holds no ftbench record; is this another project's directory?" in outcome.err


def test_a_newer_formats_records_are_refused(ftbench_command, results):
    text = (results / "runs.jsonl").read_text().replace('"schema": 1', '"schema": 9', 1)
    (results / "runs.jsonl").write_text(text)
    outcome = ftbench_command("table", results)
    assert outcome.code == 2
    assert "was written by a newer ftbench (format 9, this one reads 1); upgrade" in outcome.err


def test_garbage_and_a_torn_end_leave_the_table_of_the_rest(ftbench_command, results, caplog):
    with open(results / "runs.jsonl", "a") as file:
        file.write("garbage\n" + run_record("c").to_json()[:50])
    outcome = ftbench_command("table", results)
    assert outcome.code == 0
    assert "| a | **91.0 ± 2.5** |" in outcome.out
    assert "line 7 is not a record and was skipped" in caplog.text


def test_a_plugins_format_prints_the_table(ftbench_command, results, tmp_path, monkeypatch):
    module = "import ftbench\n@ftbench.hookimpl\ndef ftbench_report_formats():\n"
    module += (
        "    return {'count': ftbench.Format(lambda s: f'{len(s.tables)} table\\n', '.txt')}\n"
    )
    folder = tmp_path / "site"
    distribution(folder, "counts", entry_points={"x": "fmt_count"}, modules={"fmt_count": module})
    monkeypatch.syspath_prepend(folder)
    assert ftbench_command("table", results, "--format", "count").out == "1 table\n"


def test_a_plugins_format_that_raises_is_a_message_that_names_its_owner(
    ftbench_command, results, tmp_path, monkeypatch
):
    module = "import ftbench\n@ftbench.hookimpl\ndef ftbench_report_formats():\n"
    module += "    return {'sad': ftbench.Format(lambda summary: 1 / 0, '.txt')}\n"
    folder = tmp_path / "site"
    distribution(folder, "sad-format", entry_points={"x": "fmt_sad"}, modules={"fmt_sad": module})
    monkeypatch.syspath_prepend(folder)
    outcome = ftbench_command("table", results, "--format", "sad")
    assert outcome.code == 2
    assert "sad-format 1.0" in outcome.err


def test_a_plugins_format_that_returns_no_text_is_a_message_that_names_its_owner(
    ftbench_command, results, tmp_path, monkeypatch
):
    module = "import ftbench\n@ftbench.hookimpl\ndef ftbench_report_formats():\n"
    module += "    return {'mute': ftbench.Format(lambda summary: None, '.txt')}\n"
    folder = tmp_path / "site"
    distribution(
        folder, "mute-format", entry_points={"x": "fmt_mute"}, modules={"fmt_mute": module}
    )
    monkeypatch.syspath_prepend(folder)
    outcome = ftbench_command("table", results, "--format", "mute")
    assert (outcome.code, outcome.out) == (2, "")
    assert (
        outcome.err
        == "error: the format 'mute' of mute-format 1.0 returned NoneType, not str or bytes\n"
    )


class Distances(TinyPlugin.Task):
    """A third party's task, whose scores are its own."""

    metrics = (ftbench.Metric("distance", "distance (m)", higher_is_better=False),)

    def score(self, outcomes):
        return {"distance": float(outcomes["nll"].mean())}


def test_a_table_shows_the_first_metric_of_its_task(
    ftbench_command, tiny_installed, tmp_path, monkeypatch
):
    import ftbench_tiny

    monkeypatch.setattr(ftbench_tiny.plugin, "task", Distances)
    ftbench.run_sweep(tiny_sweep(seeds=(0, 1, 2)), tmp_path / "out")
    assert "distance (m)" in ftbench_command("table", tmp_path / "out").out
    # How it reads is in the records, so the table is the same where the task is not installed.
    monkeypatch.setattr(ftbench_tiny.plugin, "task", TinyPlugin.Task)
    assert "distance (m)" in ftbench_command("table", tmp_path / "out").out
