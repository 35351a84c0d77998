import tomllib

from tests.support import files_in


def test_status_counts_runs_per_status_and_attempts(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep(strategies="raises,full,diverges", seeds="0,1")
    tiny_sweep(strategies="raises,full,diverges", seeds="0,1")
    outcome = ftbench_command("status", tmp_path / "out")
    assert outcome.code == 0
    assert f"{tmp_path / 'out'}: 6 runs, 8 attempts" in outcome.out
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["2", "ok"] in lines
    assert ["2", "failed"] in lines
    assert ["2", "diverged"] in lines
    assert (
        "the plan: 6 runs, 2 already done, 2 diverged, not tried again (--retry diverged), "
        "2 to run\n" in outcome.out
    )


def test_the_directory_is_by_default_the_one_that_a_sweep_fills(
    tiny_sweep, ftbench_command, tmp_path, monkeypatch
):
    tiny_sweep()
    (tmp_path / "out").rename(tmp_path / "ftbench-results")
    monkeypatch.chdir(tmp_path)
    assert "ftbench-results: 1 runs, 1 attempts" in ftbench_command("status").out
    named = ftbench_command("table", "ftbench-results")
    assert named.code == 0
    assert ftbench_command("table").out == named.out


def test_a_spec_in_the_directorys_place_is_named(ftbench_command, tmp_path):
    outcome = ftbench_command("status", "mine.toml")
    assert outcome.code == 2
    assert outcome.err == "error: mine.toml is a spec; 'ftbench status DIR mine.toml'\n"


def test_why_rerun_names_the_field_that_makes_a_run_new(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep(strategies="full,ewc")
    values = tomllib.loads((tmp_path / "out" / "spec.toml").read_text())
    changed = (tmp_path / "out" / "spec.toml").read_text()
    changed = changed.replace('"ewc"', '"ewc(strength=7.0)"').replace("steps = 4", "steps = 5")
    (tmp_path / "mine.toml").write_text(changed)
    outcome = ftbench_command("status", tmp_path / "out", tmp_path / "mine.toml", "--why-rerun")
    assert outcome.code == 0
    assert "the plan: 2 runs, 0 already done, 2 to run\n" in outcome.out
    assert "2 stored runs are of other plans" in outcome.out
    assert "1 × recipe.steps: 4 → 5\n" in outcome.out
    assert "1 × recipe.steps: 4 → 5, strategy.options.strength: 10.0 → 7.0" in outcome.out
    assert values["tasks"] == ["tiny"]


def test_why_rerun_tells_failed_runs_from_new_ones(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep(strategies="raises")
    text = (tmp_path / "out" / "spec.toml").read_text()
    (tmp_path / "out" / "spec.toml").write_text(text.replace("seeds = [", "seeds = [7,"))
    outcome = ftbench_command("status", tmp_path / "out", "--why-rerun")
    assert "1 × ended as failed, will be tried again" in outcome.out
    assert "1 × seed: 7 is new" in outcome.out


def test_nothing_to_rerun_gives_no_reasons(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep()
    outcome = ftbench_command("status", tmp_path / "out", "--why-rerun")
    assert "the plan: 1 runs, 1 already done, 0 to run\n" in outcome.out
    assert "×" not in outcome.out


def test_status_runs_and_writes_nothing(tiny_sweep, ftbench_command, tmp_path):
    tiny_sweep()
    with open(tmp_path / "out" / "runs.jsonl", "a") as file:
        file.write('{"torn')
    before = {path: path.read_bytes() for path in files_in(tmp_path / "out")}
    assert ftbench_command("status", tmp_path / "out").code == 0
    assert {path: path.read_bytes() for path in files_in(tmp_path / "out")} == before


def test_a_directory_without_results_is_refused(ftbench_command, tmp_path):
    outcome = ftbench_command("status", tmp_path / "absent")
    assert outcome.code == 2
    assert "there is no results directory" in outcome.err


def test_a_directory_without_a_spec_is_counted_and_told_how_to_name_a_plan(
    tiny_sweep, ftbench_command, tmp_path
):
    tiny_sweep()
    spec = tmp_path / "out" / "spec.toml"
    spec.rename(tmp_path / "mine.toml")
    outcome = ftbench_command("status", tmp_path / "out")
    assert outcome.code == 0
    assert "1 runs, 1 attempts" in outcome.out
    assert "has no spec.toml; name one: DIR SPEC.toml" in outcome.out
    outcome = ftbench_command("status", tmp_path / "out", "--why-rerun")
    assert outcome.code == 2
    assert "--why-rerun needs a plan: 'ftbench status" in outcome.err
    outcome = ftbench_command("status", tmp_path / "out", tmp_path / "mine.toml")
    assert "the plan: 1 runs, 1 already done, 0 to run" in outcome.out


def test_a_plan_of_a_plugin_that_is_gone_is_said_under_the_counts(
    tiny_sweep, ftbench_command, tmp_path
):
    tiny_sweep()
    spec = tmp_path / "out" / "spec.toml"
    spec.write_text(spec.read_text().replace('"full"', '"uninstalled"'))
    outcome = ftbench_command("status", tmp_path / "out")
    assert outcome.code == 2
    assert "1 runs, 1 attempts" in outcome.out
    assert "spec.toml cannot be made here: unknown strategy 'uninstalled'" in outcome.err
