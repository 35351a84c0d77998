"""The study behind the strategies' defaults: its rows, its rule, its page."""

import csv
import math

import numpy as np
import pytest

import ftbench
from benchmarks import defaults
from benchmarks.study import METRICS, Point, Study, choose, edges, equal_strengths, read_study
from benchmarks.study_tables import grid_table, pair_table, points_csv
from ftbench.tasks.digits import Digits

NOISE = np.array([0.004, -0.002, 0.001, -0.004, 0.001])  # of mean zero


def study(**scores):
    """Return a study of one size from (accuracy, kept) by strategy, strength and rate.

    An accuracy is a mean to which each point's own noise is added, or a list, one a seed.
    """
    found, points = {}, []
    for name, by_point in scores.items():
        for turn, ((strength, rate), (accuracy, kept)) in enumerate(by_point.items()):
            point = Point(name.replace("_", "-"), strength, rate)
            points.append(point)
            own = np.full(5, accuracy) + np.roll(NOISE, turn) if np.isscalar(accuracy) else accuracy
            values = {"accuracy": np.array(own), "kept": np.full(5, kept), "nll": np.full(5, 0.5)}
            found |= {(metric, point, 50): values[metric] for metric in METRICS}
    return Study(found, points, [50], [100, 101, 102, 103, 104], test_rows=400)


def rates(**accuracies):
    """Return a strategy's points without a strength: (accuracy, kept) by rate as text."""
    return {("", float(rate.replace("r", "1e-"))): value for rate, value in accuracies.items()}


def test_no_row_and_no_seed_of_the_readme_takes_part():
    task = defaults.StudyDigits()
    pool, test, reported, whole = (
        {row.numpy().tobytes() for row in examples.inputs}
        for examples in (task.pool(), task.test(), Digits().test(), Digits().pool())
    )
    assert (len(pool), len(test)) == (897, 400)
    assert pool | test == whole
    assert not pool & test
    assert not (pool | test) & reported
    shares = [np.bincount(examples.strata) for examples in (task.pool(), task.test())]
    assert np.abs(shares[0] / 897 - shares[1] / 400).max() < 0.005
    assert not set(defaults.SEEDS) & set(range(10))
    assert task.fingerprint() not in (Digits().fingerprint(), "")


def test_every_point_of_the_grid_is_swept(monkeypatch):
    monkeypatch.setattr(defaults, "EXTENSIONS", {"l2sp": ((1e-2,), (1.0,))})
    catalogue = ftbench.load_catalogue(extra={"benchmarks": defaults.StudyTask()})
    swept = set()
    for folder, spec in defaults.sweeps(defaults.base_sweep()):
        assert folder == f"rate-{spec.recipe.learning_rate:g}"
        for run in ftbench.sweep.expand(spec, catalogue):
            option = defaults.STRENGTHS[run.strategy.name][0]
            strength = defaults.spelt(option, run.strategy.options[option]) if option else ""
            point = Point(run.strategy.name, strength, run.recipe["learning_rate"])
            swept.add((point, run.size, run.seed))
    wanted = {
        (p, size, seed)
        for p in defaults.points()
        for size in (20, 50, 100, 400)
        for seed in defaults.SEEDS
    }
    assert swept == wanted
    assert Point("l2sp", "alpha=1", 1e-2) in defaults.points()
    assert Point("full", "decay=1", 1e-2) not in defaults.points()


def test_one_rate_serves_all_strategies():
    found = study(
        full=rates(r3=(0.90, 0.3), r4=(0.94, 0.3)),
        scratch=rates(r3=(0.90, math.nan), r4=(0.80, math.nan)),
    )
    chosen = choose(found, ["full", "scratch"])
    assert {point.rate for point in chosen.values()} == {1e-3}
    assert choose(found, ["full"])["full"].rate == 1e-4


def test_a_rate_counts_by_each_strategys_best_strength():
    found = study(
        full={
            ("decay=1", 1e-3): (0.60, 0.3),
            ("decay=0.65", 1e-3): (0.95, 0.3),
            ("decay=1", 1e-4): (0.90, 0.3),
            ("decay=0.65", 1e-4): (0.90, 0.3),
        }
    )
    assert choose(found, ["full"])["full"] == Point("full", "decay=0.65", 1e-3)


def test_a_rate_within_a_standard_error_wins_by_what_it_keeps():
    best = 0.9 + NOISE
    error = NOISE.std(ddof=1) / 5**0.5
    for behind, rate in ((0.9 * error, 1e-4), (1.1 * error, 1e-3)):
        found = study(full=rates(r3=(best, 0.3), r4=(np.full(5, 0.9 - behind), 0.7)))
        assert choose(found, ["full"])["full"].rate == rate
    # Nothing is kept by scratch, so accuracy alone decides.
    found = study(scratch=rates(r4=(np.full(5, 0.9), math.nan), r3=(best + 1e-6, math.nan)))
    assert choose(found, ["scratch"])["scratch"].rate == 1e-3


def test_equal_strengths_go_to_the_simplest_or_to_what_keeps_most():
    values = {1.0: (0.900, 0.2), 0.1: (0.901, 0.5), 10.0: (0.9005, 0.9), 100.0: (0.8, 0.99)}
    found = study(
        l2sp={(f"alpha={value:g}", 1e-3): scores for value, scores in values.items()},
        full={(f"decay={value:g}", 1e-3): scores for value, scores in values.items()},
    )
    assert [p.strength for p in equal_strengths(found, "l2sp", 1e-3)] == [
        "alpha=1",
        "alpha=0.1",
        "alpha=10",
    ]
    chosen = choose(found, ["l2sp", "full"])
    assert chosen["l2sp"].strength == "alpha=10"
    assert chosen["full"].strength == "decay=1"


def test_a_point_with_a_failed_run_is_not_chosen():
    broken = [0.99, 0.99, 0.99, 0.99, math.nan]
    found = study(full=rates(r2=(broken, 0.3), r3=(0.9, 0.3), r4=(0.8, 0.3)))
    chosen = choose(found, ["full"])
    assert chosen["full"].rate == 1e-3
    assert "failed" in "\n".join(grid_table(found, chosen))


def test_a_choice_at_the_edge_is_named():
    found = study(
        l2sp={(f"alpha={a}", r): (0.9, 0.5) for a in (0.1, 0.001, 0.01) for r in (1e-4, 1e-3, 1e-2)}
    )
    assert edges(found, [Point("l2sp", "alpha=0.01", 1e-3)], {}) == []
    assert edges(found, [Point("l2sp", "alpha=0.001", 1e-2)], {}) == [
        "l2sp at 0.01",
        "l2sp alpha=0.001",
    ]
    ends = {"l2sp": ("alpha=0.001", "at 0.01")}
    assert edges(found, [Point("l2sp", "alpha=0.001", 1e-2)], ends) == []


def test_strengths_are_spelt_by_three_digits_and_sorted_by_size():
    values = {1000.0: "1000", 10 / 3: "3.33", 1e-4: "0.0001", 1 / 2.6: "0.385", 2: "2", "w": "w"}
    for value, text in values.items():
        assert defaults.spelt("option", value) == f"option={text}"
    found = study(ewc={(f"strength={s}", 1e-3): (0.9, 0.5) for s in (10, 1000, 1)})
    lines = list(grid_table(found, {"ewc": found.points[0]}))
    assert [line.split("=")[1].split()[0] for line in lines[2:]] == ["1", "10", "1000"]


def test_differences_are_paired_over_the_seeds():
    level = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    found = study(full=rates(r3=(level + 0.02, 0.3), r4=(level, 0.5)))
    first, second = found.points
    text = "\n".join(pair_table(found, first, second))
    assert "+2.0 ± 0.0" in text
    assert "-20.0 ± 0.0" in text
    lines = list(csv.DictReader(points_csv(found, {"full": first}).splitlines()))
    assert [line["accuracy"] for line in lines] == ["0.7200", "0.7000"]
    assert [line["accuracy_paired_error"] for line in lines] == ["", "0.0000"]


@pytest.fixture
def tiny_study(monkeypatch, tiny, tmp_path):
    """Make the study a small one of the tiny task; return where its page goes."""
    strengths = {"full": ("decay", (1.0, 0.5)), "scratch": ("", ()), "ewc": ("strength", (1.0,))}
    base = ftbench.SweepSpec(
        tasks=("tiny",),
        backbones=("tiny-net",),
        device="cpu",
        sizes=(6, 12),
        seeds=(100, 101, 102),
        recipe={"steps": 3, "batch_size": 5},
    )
    for name, value in {
        "RATES": (1e-3, 1e-2),
        "STRENGTHS": strengths,
        "EXTENSIONS": {},
        "base_sweep": lambda: base,
        "StudyTask": lambda: tiny,
        "_RESULTS": tmp_path,
    }.items():
        monkeypatch.setattr(defaults, name, value)
    return tmp_path


def test_the_study_runs_resumes_and_writes_its_page(tiny_study, capsys, monkeypatch):
    out = tiny_study / "runs"
    assert defaults.main(["--out", str(out), "--write"]) == 0
    text = capsys.readouterr().out
    assert (tiny_study / "defaults.md").read_text(encoding="utf-8") == text
    assert "- 48 runs (none failed): 8 points, 2 sizes, seeds 100 to 102, 30 test rows" in text
    frame = ftbench.load_results(out / "rate-0.01")
    mean = frame.loc[frame["strategy_name"] == "scratch", "accuracy"].mean()
    grid = text.split("## The grid")[1].splitlines()
    (row,) = (line for line in grid if line.startswith("| scratch"))
    assert f"{100 * mean:.1f}" in row.split("|")[3]
    lines = (tiny_study / "defaults.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 8 * 2

    monkeypatch.setattr(ftbench.run.one, "run_one", None)  # nothing is left to run
    assert defaults.main(["--out", str(out)]) == 0
    assert capsys.readouterr().out == text


def test_only_whole_seeds_count_and_three_are_needed(tiny_study):
    out = tiny_study / "runs"
    defaults.main(["--out", str(out)])
    whole, frame = defaults.load_study(out, [6, 12])
    last = (frame["seed"] == 102) & (frame["strategy_name"] == "ewc") & (frame["size"] == 12)
    options = {"full": "decay", "ewc": "strength"}
    assert whole.seeds == [100, 101, 102]
    with pytest.raises(ValueError, match="whole at 2 seeds and the rule needs 3"):
        read_study(frame[~last], whole.points, [6, 12], options)


def test_only_a_whole_study_is_written(tiny_study, monkeypatch, capsys):
    defaults.main(["--out", str(tiny_study / "runs")])
    longer = defaults.base_sweep().model_copy(update={"seeds": (100, 101, 102, 103)})
    monkeypatch.setattr(defaults, "base_sweep", lambda: longer)
    with pytest.raises(SystemExit):
        defaults.main(["--out", str(tiny_study / "runs"), "--no-runs", "--write"])
    assert "this one has 3 of 4 seeds" in capsys.readouterr().err
    assert not (tiny_study / "defaults.md").exists()
