import importlib.metadata

import pytest

from ftbench import config
from ftbench.cli import sweeping
from ftbench.errors import SpecError


@pytest.fixture
def asked(ftbench_command, monkeypatch):
    """A function that returns what flags of ``sweep`` stand for: spec, directory, the rest."""
    calls = []

    def record(path, changes, out, **rest):
        defaults = config.QUICK if rest["quick"] else None
        calls.append((config.load_spec(path, changes, defaults=defaults), out, rest))
        return 0

    monkeypatch.setattr(sweeping, "sweep", record)

    def call(*arguments):
        outcome = ftbench_command("sweep", *arguments)
        assert outcome.code == 0, outcome.err
        return calls.pop()

    return call


def test_no_arguments_ask_for_the_embedded_benchmark(asked):
    spec, out, rest = asked()
    assert (spec.tasks, spec.backbones) == (("digits",), ("glyphnet",))
    assert set(spec.strategies) == {
        *("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")
    }
    assert (spec.sizes, spec.seeds) == ((20, 50, 100, 400), (0, 1, 2, 3, 4))
    assert str(out) == "ftbench-results"
    assert rest == {
        "retry": None, "workers": "0", "runs_per_gpu": 1, "cluster": None,
        "shard": None,
        "dry_run": False, "quick": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--tasks", "letters"], "tasks", ("letters",)),
        (["--backbones", "other"], "backbones", ("other",)),
        (["--strategies", "full,ewc"], "strategies", ("full", "ewc")),
        (
            ["--strategies", "full(decay=0.5), partial(stages=[1,2])"],
            "strategies",
            ("full(decay=0.5)", "partial(stages=[1,2])"),
        ),
        (["--sizes", "20,10%,full"], "sizes", (20, "10%", "full")),
        (["--seeds", "10,11,12"], "seeds", (10, 11, 12)),
        (["--seeds", "5"], "seeds", (5,)),
        (["--num-seeds", "5"], "seeds", (0, 1, 2, 3, 4)),
        (["--device", "cpu"], "device", "cpu"),
        (["--device", "cuda:3"], "device", "cuda:3"),
        (["--set", "threads=2"], "threads", 2),
        (["--set", "deterministic=true"], "deterministic", True),
        (["--set", "timeout_seconds=1.5"], "timeout_seconds", 1.5),
        (["--quick"], "sizes", (20, 100)),
        (["--quick"], "seeds", (0,)),
        (["--quick", "--num-seeds", "2"], "seeds", (0, 1)),
        (["--quick", "--sizes", "50"], "sizes", (50,)),
    ],
)
def test_a_flag_sets_its_key(asked, flags, key, value):
    assert getattr(asked(*flags)[0], key) == value


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--steps", "7"], "steps", 7),
        (["--set", "recipe.optimizer=sgd"], "optimizer", "sgd"),
        (["--set", 'recipe.optimizer="sgd"'], "optimizer", "sgd"),
        (["--set", "recipe.learning_rate=0.5", "--steps", "3"], "learning_rate", 0.5),
        (["--set", "recipe.epochs=2"], "steps", None),
        (["--set", "recipe.steps=9", "--steps", "3"], "steps", 3),
    ],
)
def test_a_flag_sets_a_key_of_the_recipe(asked, flags, key, value):
    assert getattr(asked(*flags)[0].recipe, key) == value


def test_flags_override_the_spec_file(asked, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('sizes = [30]\nseeds = [4]\n[recipe]\nsteps = 9\noptimizer = "sgd"\n')
    spec, _, _ = asked(file, "--seeds", "1,2", "--steps", "5")
    assert (spec.sizes, spec.seeds) == ((30,), (1, 2))
    assert (spec.recipe.steps, spec.recipe.optimizer) == (5, "sgd")


def test_quick_lies_under_the_spec_file(asked, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("sizes = [30]\n")
    assert asked(file, "--quick")[0] == config.SweepSpec(sizes=(30,), seeds=(0,))
    assert asked(file, "--quick", "--seeds", "4,5")[0] == config.SweepSpec(
        sizes=(30,), seeds=(4, 5)
    )


def test_out_dry_run_retry_and_quick_are_handed_on(asked, tmp_path):
    flags = ["--out", tmp_path, "--dry-run", "--retry", "failed,diverged", "--quick"]
    _, out, rest = asked(*flags)
    assert out == tmp_path
    assert rest == {
        "retry": "failed,diverged", "workers": "0", "runs_per_gpu": 1, "cluster": None,
        "shard": None,
        "dry_run": True, "quick": True,
    }  # fmt: skip


def test_seeds_and_num_seeds_together_are_refused(ftbench_command):
    outcome = ftbench_command("sweep", "--seeds", "1", "--num-seeds", "2")
    assert outcome.code == 2
    assert "--seeds and --num-seeds both choose the seeds; give one of them" in outcome.err


WRONG = {
    "seeds that are no numbers": (["--seeds", "a,b"], "cannot read the seeds 'a,b'; write a comma"),
    "a negative seed": (["--seeds", "-1"], "'seeds': expected different numbers of at least 0"),
    "a seed twice": (["--seeds", "1,1"], "'seeds': expected different numbers of at least 0"),
    "no seed": (["--num-seeds", "0"], "num-seeds"),
    "no steps": (["--steps", "0"], "'recipe.steps': Input should be greater than 0, got 0"),
    "steps that are no number": (["--steps", "many"], "Invalid value for '--steps'"),
    "an unknown flag": (["--strategy", "full"], "--strategies"),
    "a device": (["--device", "gpu"], "'device': expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    "an absent device": (["--device", "cuda:99"], "device cuda:99 is not there"),
    "no equals sign": (["--set", "recipe.steps"], "write KEY=VALUE, say recipe.steps=300"),
    "a set key": (["--set", "sise=[20]"], "unknown key 'sise'; did you mean 'sizes'?"),
    "a recipe key": (
        ["--set", "recipe.step=3"],
        "unknown key 'recipe.step'; did you mean 'recipe.steps'?",
    ),
    "a recipe key at the top": (
        ["--set", "optimizer=sgd"],
        "unknown key 'optimizer'; did you mean 'recipe.optimizer'?",
    ),
    "a deep key": (["--set", "a.b.c=3"], "keys are KEY or recipe.KEY"),
    "a recipe value": (
        ["--set", "recipe.optimizer=adam"],
        "unknown optimizer 'adam'; did you mean",
    ),
    "a recipe type": (["--set", "recipe.batch_size=big"], "'recipe.batch_size': Input should be a"),
    "an infinite rate": (["--set", "recipe.learning_rate=inf"], "'recipe.learning_rate'"),
    "two lengths": (["--set", "recipe.epochs=2", "--steps", "3"], "either steps or epochs"),
    "no strategies": (["--strategies", ""], "'strategies'"),
    "no sizes": (["--sizes", ""], "'sizes'"),
    "a status": (["--retry", "faild"], "unknown status 'faild'; did you mean 'failed'?"),
    "a strategy": (["--strategies", "l2ps"], "unknown strategy 'l2ps'; did you mean 'l2sp'?"),
    "an option": (["--strategies", "ewc(strenght=1)"], "unknown option 'strenght'; did you mean"),
    "a task": (["--tasks", "digit"], "unknown task 'digit'; did you mean 'digits'?"),
    "a backbone": (["--backbones", "glyfnet"], "unknown backbone 'glyfnet'; did you mean"),
    "a missing file": (["absent.toml"], "cannot read absent.toml: No such file or directory"),
    "a folder": (["/"], "cannot read /: Is a directory"),
}


@pytest.mark.parametrize(("flags", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_exits_2_with_a_message_and_runs_nothing(
    ftbench_command, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    outcome = ftbench_command("sweep", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""
    assert not list(tmp_path.iterdir())


TOML = {
    "no TOML": ("sizes = [20", "is not valid TOML: "),
    "no text": (b"\xff\xfe", "is not valid TOML: "),
    "a key": ("strategis = ['full']", "unknown key 'strategis'; did you mean 'strategies'?"),
    "a recipe key": (
        "[recipe]\nlearning_rat = 1",
        "unknown key 'recipe.learning_rat'; did you mean 'recipe.learning_rate'?",
    ),
    "a recipe key at the top": (
        "patience = 3",
        "unknown key 'patience'; did you mean 'recipe.patience'?",
    ),
    "a section": ("[recipes]\nsteps = 1", "unknown key 'recipes'; did you mean 'recipe'?"),
    "a string for a list": ("strategies = 'full'", "key 'strategies': "),
    "a string for a number": ("seeds = ['one']", "key 'seeds.0': "),
    "a share for a size": ("sizes = [0.1]", "key 'sizes.0"),
    "a number for the recipe": ("recipe = 5", "key 'recipe': "),
    "a strategy": ("strategies = ['fulll']", "unknown strategy 'fulll'; did you mean 'full'?"),
}


@pytest.mark.parametrize(("text", "message"), TOML.values(), ids=TOML.keys())
def test_a_wrong_spec_exits_2_with_a_message_that_names_the_file(
    ftbench_command, tmp_path, text, message
):
    file = tmp_path / "wrong.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = ftbench_command("sweep", file, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert "wrong.toml" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_message_for_the_user_is_one_line_on_standard_error(ftbench_command):
    outcome = ftbench_command("table", "absent")
    assert outcome.err.startswith("error: there is no results directory absent")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_version_and_help(ftbench_command):
    version = importlib.metadata.version("ftbench")
    assert ftbench_command("--version").out == f"ftbench {version}\n"
    for command in ([], ["sweep"], ["table"], ["status"], ["plugins"]):
        assert ftbench_command(*command, "--help").code == 0


def test_an_interrupt_outside_a_sweep_exits_130(ftbench_command, monkeypatch):
    from ftbench.cli import tables

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "show", interrupt)
    assert ftbench_command("table", ".").code == 130


def test_overrides_refuse_what_flags_contradict():
    with pytest.raises(SpecError, match="give one of them"):
        sweeping.overrides(
            tasks=None,
            backbones=None,
            strategies=None,
            sizes=None,
            seeds="1",
            num_seeds=1,
            steps=None,
            device=None,
            keep=None,
            settings=(),
        )
