import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import ftbench
from ftbench import config
from ftbench.backbone import BackboneFamily
from ftbench.component import parse_reference
from ftbench.config import (
    QUICK,
    SweepSpec,
    load_spec,
    parse_assignment,
    parse_seeds,
    parse_sizes,
    parse_spec,
    to_toml,
)
from ftbench.errors import SpecError
from ftbench.plugins.recipe import make_recipe
from ftbench.recipe import Recipe
from ftbench.recipes.presets import recipe_at
from ftbench.strategy import Strategy
from ftbench.task import Task


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "sweep.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


RECIPES = st.builds(
    lambda length, **rest: Recipe(**length, **rest),
    length=st.one_of(
        st.builds(lambda n: {"steps": n}, st.integers(1, 10**6)),
        st.builds(lambda n: {"epochs": n}, st.floats(1e-3, 1e3)),
    ),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    learning_rate=st.floats(1e-12, 1e3),
    gradient_clip=st.none() | st.floats(1e-6, 1e3),
    patience=st.none() | st.integers(1, 99),
    mixing=st.sampled_from(["none", "mixup(alpha=[0.1, 0.2]), cutmix"]),
)
SPECS = st.builds(
    SweepSpec,
    tasks=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3).map(tuple),
    strategies=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3).map(tuple),
    sizes=st.lists(
        st.integers(1, 10**6) | st.sampled_from(["10%", "full"]), min_size=1, max_size=4
    ).map(tuple),
    seeds=st.sets(st.integers(0, 2**40), min_size=1, max_size=4).map(tuple),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    threads=st.integers(1, 64),
    deterministic=st.booleans(),
    timeout_seconds=st.none() | st.floats(1e-3, 1e9),
    recipe=RECIPES,
)


@given(SPECS)
def test_a_spec_written_as_toml_reads_back_equal(spec):
    assert parse_spec(tomllib.loads(to_toml(spec)), "test") == spec


def test_a_written_file_loads_equal(write):
    spec = SweepSpec(strategies=("l2sp(alpha=[0.1, 1])",), recipe=Recipe(epochs=2.5))
    assert load_spec(write(to_toml(spec))) == spec


def test_no_file_and_no_overrides_are_the_embedded_benchmark():
    assert load_spec() == SweepSpec()
    assert SweepSpec().tasks == ("digits",)


def test_the_quick_grid_is_a_corner_of_the_whole_one():
    quick, whole = load_spec(defaults=QUICK), load_spec()
    assert set(quick.sizes) < set(whole.sizes)
    assert set(quick.seeds) < set(whole.seeds)
    assert quick.model_copy(update={"sizes": whole.sizes, "seeds": whole.seeds}) == whole


def test_overrides_lie_over_the_file_and_the_recipe_is_merged_key_by_key(write):
    path = write("seeds = [7]\nsizes = [50]\n[recipe]\nsteps = 20\nbatch_size = 8\n")
    spec = load_spec(path, {"sizes": ["full"], "recipe": {"steps": 30, "optimizer": "sgd"}})
    assert spec.seeds == (7,)
    assert spec.sizes == ("full",)
    assert spec.recipe == Recipe(steps=30, batch_size=8, optimizer="sgd")


def test_defaults_lie_under_the_file_and_overrides_over_both(write):
    path = write("sizes = [50]\n")
    assert load_spec(path, defaults=QUICK) == SweepSpec(sizes=(50,), seeds=(0,))
    assert load_spec(path, {"seeds": [4]}, defaults=QUICK) == SweepSpec(sizes=(50,), seeds=(4,))
    assert load_spec(defaults=QUICK) == SweepSpec(sizes=(20, 100), seeds=(0,))


def test_overrides_are_not_changed():
    overrides = {"seeds": [1], "recipe": {"steps": 5}}
    load_spec(None, overrides)
    assert overrides == {"seeds": [1], "recipe": {"steps": 5}}


@pytest.mark.parametrize(
    ("base", "changes", "steps", "epochs"),
    [
        ("steps = 20", {"epochs": 3}, None, 3),
        ("epochs = 2", {"steps": 30}, 30, None),
        ("epochs = 2", {"epochs": 4}, None, 4),
        ("", {"epochs": 4}, None, 4),
        ("epochs = 2", {"epochs": None}, 150, None),
        ("steps = 20", {"epochs": 3, "steps": None}, None, 3),
        ("epochs = 2", {"epochs": None, "steps": 30}, 30, None),
        ("epochs = 2", {"batch_size": 8}, None, 2),
    ],
)
def test_a_new_length_replaces_the_other_kind(write, base, changes, steps, epochs):
    recipe = load_spec(write(f"[recipe]\n{base}\n"), {"recipe": changes}).recipe
    assert (recipe.steps, recipe.epochs) == (steps, epochs)


@pytest.mark.parametrize("changes", [{"steps": 3, "epochs": 3}, {"steps": None}])
def test_two_lengths_or_none_are_refused(changes):
    with pytest.raises(SpecError, match=r"key 'recipe.epochs': give either steps or epochs"):
        load_spec(None, {"recipe": changes})


def test_an_unknown_key_names_the_file_and_the_nearest(write):
    path = write("strategy = ['full']\n")
    with pytest.raises(
        SpecError, match=r"unknown key 'strategy'; did you mean 'strategies'\?"
    ) as e:
        load_spec(path)
    assert str(path) in str(e.value)
    assert "known: tasks, backbones, strategies" in str(e.value)


def test_an_unknown_recipe_key_names_the_nearest(write):
    expected = r"unknown key 'recipe.lerning_rate'; did you mean 'recipe.learning_rate'\?"
    with pytest.raises(SpecError, match=expected):
        load_spec(write("[recipe]\nlerning_rate = 0.1\n"))
    with pytest.raises(SpecError, match=f"the command line: {expected}"):
        load_spec(None, {"recipe": {"lerning_rate": 0.1}})


def test_a_recipe_key_at_the_top_is_sent_to_the_recipe(write):
    expected = r"unknown key 'learning_rate'; did you mean 'recipe.learning_rate'\?"
    with pytest.raises(SpecError, match=expected):
        load_spec(write("learning_rate = 0.1\n"))
    with pytest.raises(SpecError, match=f"the command line: {expected}"):
        load_spec(None, {"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [0, 0]", "key 'seeds': .*different numbers"),
        ("seeds = [-1]", "key 'seeds': .*at least 0"),
        ("seeds = []", "key 'seeds': .*at least 1"),
        ("sizes = []", "key 'sizes': .*at least 1"),
        ("strategies = []", "key 'strategies': .*at least 1"),
        ("device = 'gpu'", "key 'device': .*expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("device = 'cuda:'", "key 'device'"),
        ("device = 'cuda:-1'", "key 'device'"),
        ("threads = 0", "key 'threads': .*greater than 0, got 0"),
        ("timeout_seconds = 0", "key 'timeout_seconds'"),
        ("recipe = 5", "key 'recipe'"),
        ("[recipe]\nlearning_rate = 0", "key 'recipe.learning_rate': .*greater than 0, got 0"),
        ("[recipe]\noptimizer = 3", "key 'recipe.optimizer': Input should be a valid string"),
        (
            "[recipe]\nmixup_alpha = 0.3",
            "'recipe.mixup_alpha' is part of another now: mixing = ",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_file(write, text, message):
    path = write(text)
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*absent.toml: No such file"):
        load_spec(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"seeds = [", b"task = '\xff'"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"broken.toml is not valid TOML: "):
        load_spec(path)


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SweepSpec().threads = 2


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("recipe.steps=300", ["recipe", "steps"], 300),
        ("recipe.learning_rate = 1e-3", ["recipe", "learning_rate"], 0.001),
        ("deterministic=true", ["deterministic"], True),
        ("recipe.patience=none", ["recipe", "patience"], None),
        ("recipe.patience=None", ["recipe", "patience"], None),
        ("recipe.optimizer=sgd", ["recipe", "optimizer"], "sgd"),
        ("recipe.optimizer='sgd'", ["recipe", "optimizer"], "sgd"),
        ("seeds=[0, 1]", ["seeds"], [0, 1]),
        ("strategies=['l2sp(alpha=1)']", ["strategies"], ["l2sp(alpha=1)"]),
        ("task=a=b", ["task"], "a=b"),
        ("task=", ["task"], ""),
    ],
)
def test_an_assignment_is_a_dotted_key_and_a_toml_value_or_a_bare_word(text, key, value):
    found = parse_assignment(text)
    assert found == (key, value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["recipe.steps", "=3", " = 3", ""])
def test_an_assignment_without_key_or_value_is_quoted(text):
    with pytest.raises(SpecError, match=f"--set '{text}'; write KEY=VALUE"):
        parse_assignment(text)


def test_sizes_are_a_comma_list():
    assert parse_sizes("20, 10%,full") == [20, "10%", "full"]


def test_seeds_are_a_comma_list():
    assert parse_seeds("5") == [5]
    assert parse_seeds("0, 1,2") == [0, 1, 2]
    with pytest.raises(SpecError, match="cannot read the seeds '1,two'; write a comma list"):
        parse_seeds("1,two")


# In Python.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategis": ["full"]}, r"SweepSpec: unknown key 'strategis'; did you mean 'strategies'"),
        ({"steps": 3}, r"SweepSpec: unknown key 'steps'; did you mean 'recipe.steps'"),
        ({"seeds": "01"}, r"SweepSpec: key 'seeds': .*valid tuple, got '01'"),
        ({"recipe": {"stepz": 3}}, r"unknown key 'recipe.stepz'; did you mean 'recipe.steps'"),
        ({"recipe": {"steps": 0}}, r"SweepSpec: key 'recipe.steps': .*greater than 0, got 0"),
        ({"recipe": 3}, r"SweepSpec: key 'recipe': .*got 3"),
    ],
)
def test_a_wrong_spec_made_in_python_reads_as_one_from_a_file_does(values, message):
    with pytest.raises(SpecError, match=message) as caught:
        SweepSpec(**values)
    assert "\n" not in str(caught.value)


def test_a_path_may_be_a_string(write):
    assert load_spec(str(write("seeds = [4]"))).seeds == (4,)


@pytest.mark.parametrize("name", sorted(config.shipped_specs()))
def test_every_spec_that_ftbench_brings_is_one(name):
    spec = load_spec(name)
    catalogue = ftbench.load_catalogue()
    kinds = {"tasks": Task, "backbones": BackboneFamily, "strategies": Strategy}
    for axis, base in kinds.items():
        for reference in getattr(spec, axis):
            for component, options in parse_reference(reference):
                catalogue.build(base, component, options)
    for size in (100, 30_000):
        make_recipe(recipe_at(spec.recipe, size), catalogue)
    assert load_spec(name, {"sizes": [7]}).sizes == (7,)


def test_a_name_that_is_no_spec_gets_the_nearest_and_a_file_of_that_name_comes_first(
    tmp_path, monkeypatch
):
    with pytest.raises(SpecError, match="no spec of that name; did you mean 'vtab-1k'"):
        load_spec("vtab-1")
    with pytest.raises(SpecError, match=r"cannot read .*vtab-1k\.toml"):
        load_spec(tmp_path / "vtab-1k.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vtab-1k").write_text("sizes = [3]\n")
    assert load_spec("vtab-1k").sizes == (3,)
