import re
import shutil

import pandas as pd
import pytest

from ftbench import sweep as sweeps
from ftbench.cli import sweeping
from ftbench.run import one
from ftbench.store import read_records
from tests.support import files_in, run_record, run_spec


def test_a_sweep_prints_progress_then_the_table_then_where_the_results_are(tiny_sweep, tmp_path):
    outcome = tiny_sweep(strategies="full,head-only", seeds="0,1")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert lines[0] == "4 runs, 0 already done, 4 to run"
    assert lines[1].startswith("[1/4, ")
    assert "full at size 12, seed 0: ok accuracy " in lines[1]
    assert lines[4].startswith("[4/4] head-only at size 12, seed 1: ok")
    assert "| full | " in outcome.out
    assert f"Results: {tmp_path / 'out'}/results.csv" in outcome.out


def test_the_same_command_again_runs_nothing_and_prints_the_same_table(tiny_sweep):
    first, second = tiny_sweep(seeds="0,1"), tiny_sweep(seeds="0,1")
    assert second.err.splitlines() == ["2 runs, 2 already done, 0 to run"]
    assert second.out == first.out


def test_one_seed_alone_is_that_seed_and_num_seeds_are_the_first(tiny_sweep, tmp_path):
    tiny_sweep(seeds="5")
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["seed"]) == {5}
    tiny_sweep("--num-seeds", "3", seeds=None)
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["seed"]) == {0, 1, 2, 5}


def test_a_grid_of_options_is_swept(tiny_sweep):
    outcome = tiny_sweep(strategies="partial(stages=[1,2]),full(decay=[0.5])")
    for label in ("partial", "partial(stages=2)", "full(decay=0.5)"):
        assert f"| {label} | " in outcome.out


def test_failed_runs_exit_1_with_their_messages_and_the_table_still(tiny_sweep):
    outcome = tiny_sweep(strategies="raises,full,diverges", seeds="0,1,2")
    assert outcome.code == 1
    assert "| raises | 3 failed |" in outcome.out
    assert "| diverges | 3 diverged |" in outcome.out
    assert "| full | " in outcome.out
    assert "6 of 9 runs did not end well:" in outcome.err
    assert "  raises: failed: RuntimeError: no such luck" in outcome.err
    assert "  diverges: diverged: " in outcome.err
    assert "nan" not in outcome.out.lower()


def test_all_runs_failed_is_a_table_and_exit_1(tiny_sweep):
    outcome = tiny_sweep(strategies="raises")
    assert outcome.code == 1
    assert "| raises | 1 failed |" in outcome.out


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        ([], {"raises": 2, "diverges": 1}),
        (["--retry", "none"], {"raises": 1, "diverges": 1}),
        (["--retry", "diverged"], {"raises": 1, "diverges": 2}),
        (["--retry", "failed,diverged"], {"raises": 2, "diverges": 2}),
    ],
)
def test_retry_chooses_what_is_tried_again(tiny_sweep, tmp_path, retry, attempts):
    tiny_sweep(strategies="raises,diverges,full")
    assert tiny_sweep(*retry, strategies="raises,diverges,full").code == 1
    tried = [record.labels["strategy"] for record in read_records(tmp_path / "out")]
    assert {name: tried.count(name) for name in attempts} == attempts
    assert tried.count("full") == 1


def test_retries_run_last(tiny_sweep, tmp_path):
    tiny_sweep(strategies="raises,full")
    tiny_sweep(strategies="raises,full,ewc")
    tried = [record.labels["strategy"] for record in read_records(tmp_path / "out")]
    assert tried == ["raises", "full", "ewc", "raises"]


def test_a_plan_of_failures_that_are_not_retried_does_not_call_them_done(tiny_sweep):
    tiny_sweep(strategies="raises,full")
    outcome = tiny_sweep("--retry", "none", "--dry-run", strategies="raises,full")
    assert (
        "2 runs, 1 already done, 1 failed, not tried again (--retry failed), 0 to run\n"
        in outcome.out
    )


# The dry run.


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny_sweep, tmp_path):
    outcome = tiny_sweep("--dry-run", strategies="full,ewc", sizes="12,30", seeds="0,1,2")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1:4] == [
        "1 task (tiny) × 1 backbone (tiny-net) × 2 strategies (full, ewc) × 2 sizes (12, 30) "
        "× 3 seeds (0, 1, 2)",
        "12 runs, 0 already done, 12 to run",
        "  12 × nothing is stored yet",
    ]
    assert "estimated time: " in outcome.out
    assert "(from short trials here)" in outcome.out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_what_is_done_and_says_why_the_rest_is_not(tiny_sweep, tmp_path):
    tiny_sweep(seeds="0,1")
    before = {path: path.read_bytes() for path in files_in(tmp_path / "out")}
    outcome = tiny_sweep("--dry-run", seeds="0,1,2")
    assert "3 runs, 2 already done, 1 to run" in outcome.out
    assert "1 × seed: 2 is new" in outcome.out
    assert "(from the finished runs)" in outcome.out
    changed = tiny_sweep("--dry-run", "--steps", "5", seeds="0,1")
    assert "2 runs, 0 already done, 2 to run" in changed.out
    assert "2 × recipe.steps: 4 → 5" in changed.out
    assert {path: path.read_bytes() for path in files_in(tmp_path / "out")} == before


def test_a_dry_run_of_nothing_needs_no_estimate(tiny_sweep):
    tiny_sweep()
    outcome = tiny_sweep("--dry-run")
    assert "1 runs, 1 already done, 0 to run" in outcome.out
    assert "estimated" not in outcome.out


def test_a_dry_run_of_a_strategy_that_fails_is_a_plan_still(tiny_sweep):
    assert tiny_sweep("--dry-run", strategies="raises").code == 0


def test_a_dry_run_into_another_projects_directory_says_so(tiny_sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    outcome = tiny_sweep("--dry-run")
    assert outcome.code == 2
    assert "holds other files" in outcome.err


def test_the_default_plan_is_140_runs(ftbench_command, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "probe_seconds", lambda *_: 200.0)
    outcome = ftbench_command("sweep", "--dry-run", "--out", tmp_path / "out")
    assert "7 strategies" in outcome.out
    assert "140 runs, 0 already done, 140 to run\n" in outcome.out
    assert "140 × nothing is stored yet" in outcome.out
    assert "estimated time: 3 min 20 s" in outcome.out


# Sizes, directories, interrupts.


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("2", "size 2 cannot hold one row of each of the 3 classes; the smallest size that can is"),
        ("61", "size 61 is larger than the pool of 60 labelled rows"),
        ("12,ten", "cannot read the size 'ten'"),
    ],
)
def test_sizes_out_of_range_are_refused_before_anything_trains(
    tiny_sweep, tmp_path, sizes, message
):
    outcome = tiny_sweep(sizes=sizes)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_percentages_and_full_are_counts(tiny_sweep, tmp_path):
    tiny_sweep(sizes="20%,full")
    assert list(pd.read_csv(tmp_path / "out" / "results.csv")["size"]) == [12, 60]


def test_another_projects_directory_is_refused(tiny_sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    outcome = tiny_sweep()
    assert outcome.code == 2
    assert "holds other files (thesis.tex) and no ftbench results; choose another" in outcome.err


def test_a_directory_that_cannot_be_made_is_refused(tiny_sweep, tmp_path):
    (tmp_path / "out").write_text("a file")
    outcome = tiny_sweep()
    assert outcome.code == 2
    assert f"cannot write to {tmp_path / 'out'}: File exists; choose another --out" in outcome.err


def test_an_interrupt_exits_130_and_says_how_to_go_on(tiny_sweep, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "run_one", interrupted)
    outcome = tiny_sweep()
    assert outcome.code == 130
    assert f"every finished run is in {tmp_path / 'out'}, the same command goes on" in outcome.err


def test_two_recipes_in_one_directory_are_two_tables(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep()
    tiny_sweep("--steps", "5")
    table = ftbench_command("table", tmp_path / "out").out
    assert "**tiny from tiny-net, steps = 4: accuracy (%) by number of labels**" in table
    assert "**tiny from tiny-net, steps = 5: accuracy (%) by number of labels**" in table


def test_a_sweep_prints_its_own_plan_alone_and_says_what_else_there_is(tiny_sweep, tmp_path):
    alone = tiny_sweep(strategies="full,head-only", sizes="12,30")
    assert "runs of other plans" not in alone.out
    outcome = tiny_sweep("--steps", "5")
    table = [line for line in outcome.out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["full"]
    assert table[0] == (
        "| strategy | 12 | source kept at 12 | train s at 12 | CPU s at 12 | trainable |"
    )
    assert "steps =" not in outcome.out
    assert outcome.out.splitlines()[-1] == (
        f"{tmp_path / 'out'} holds 4 runs of other plans as well: ftbench table {tmp_path / 'out'}"
    )


def test_quick_lies_under_the_spec_and_flags_over_it(tiny_sweep, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seeds = [3, 4]\n")
    outcome = tiny_sweep(file, "--quick", "--dry-run", seeds=None)
    assert "1 strategy (full) × 1 size (12) × 2 seeds (3, 4)\n" in outcome.out
    outcome = tiny_sweep("--quick", "--dry-run", seeds=None)
    assert "1 strategy (full) × 1 size (12) × 1 seed (0)\n" in outcome.out


def test_many_different_failures_are_listed_in_part(capsys):
    records = [run_record(seed=i, status="failed", message=f"cause {i:02}") for i in range(13)]
    plan = sweeps.make_plan([run_spec(seed=i) for i in range(14)], records)
    assert sweeping._report_failures(plan) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "13 of 14 runs did not end well:" in lines
    assert "  full: failed: cause 09" in lines
    assert lines[-1] == "  and 3 more; see the message column"


def test_a_run_without_a_record_has_not_ended_well(capsys):
    plan = sweeps.make_plan([run_spec(seed=i) for i in range(3)], [run_record(seed=1)])
    assert sweeping._report_failures(plan) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        "2 of 3 runs left no record:",
        "  full at size 20, seed 0",
        "  full at size 20, seed 2",
    ]


@pytest.mark.parametrize("take", [shutil.rmtree, lambda out: out.rename(out.with_name("moved"))])
def test_a_directory_that_is_taken_away_ends_the_sweep_with_what_became_of_it(
    tiny_sweep, tmp_path, monkeypatch, take
):
    real = one.run_one
    runs = []

    def run_and_take(*arguments, **options):
        runs.append(1)
        if len(runs) == 2:
            take(tmp_path / "out")
        return real(*arguments, **options)

    monkeypatch.setattr(one, "run_one", run_and_take)
    outcome = tiny_sweep(strategies="full,head-only", seeds="0,1")
    assert outcome.code == 2
    assert "out is gone while the sweep ran, and its 1 records may be lost" in outcome.err
    assert "are safe" not in outcome.err


def test_derived_files_that_cannot_be_written_are_a_warning_under_the_table(
    tiny_sweep, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise TypeError("no column for it")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", refuse)
    outcome = tiny_sweep()
    assert outcome.code == 0
    assert "| full |" in outcome.out
    assert re.search(r"warning: cannot write .*results\.parquet: TypeError: no column", outcome.err)
    assert (tmp_path / "out" / "results.csv").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--address", "127.0.0.1:1"), "are of --executor ray"),
        (("--executor", "slurm"), "expected local or ray"),
        (("--executor", "ray", "--workers", "0"), "workers: auto or a number above 0"),
        (("--executor", "ray", "--workers", "1", "--device", "cuda:1"), "chooses the GPU itself"),
        (("--executor", "ray", "--node-label", "kind"), "expected NAME=VALUE"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, says, tmp_path, ftbench_command):
    refused = ftbench_command("sweep", *flags, "--out", tmp_path / "out")
    assert refused.code == 2
    assert says in refused.err
