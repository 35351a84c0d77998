"""Presets: pure functions of the size, and what a spec says overrides them."""

import math

import pytest

import ftbench
from ftbench.config import load_spec, parse_spec, to_toml
from ftbench.errors import SpecError
from ftbench.recipe import Recipe
from ftbench.recipes.presets import PRESETS, preset, preset_toml, recipe_at
from ftbench.recipes.schedules import Exponential, ExponentialOptions, Steps, StepsOptions
from ftbench.sweep import expand
from tests.tiny import TinyPlugin

CATALOGUE = ftbench.load_catalogue(extra={"tiny": TinyPlugin()})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [1, 50, 4_999, 5_000, 19_999, 20_000, 50_001, 499_999, 500_000])
def test_every_preset_is_a_recipe_at_every_size_and_prints_as_one(tmp_path, name, size):
    settings = preset(name, size)
    assert preset(name, size) == settings
    path = tmp_path / "spec.toml"
    path.write_text(preset_toml(name, size))
    recipe = load_spec(path).recipe
    assert recipe == Recipe.model_validate(settings)
    spec = parse_spec(
        {"tasks": ["tiny"], "backbones": ["tiny-net"], "sizes": [12], "recipe": settings}, "here"
    )
    assert expand(spec, CATALOGUE)  # every part is there


def bit_rate(step, size, base=0.003):
    """The authors' bit_hyperrule.get_lr, written down again; their warm-up begins at 0."""
    supports = (
        [100, 200, 300, 400, 500]
        if size < 20_000
        else [500, 3000, 6000, 9000, 10_000]
        if size < 500_000
        else [500, 6000, 12_000, 18_000, 20_000]
    )
    if step < supports[0]:
        return base * (step + 1) / supports[0]
    for support in supports[1:]:
        if support <= step:
            base /= 10
    return base


@pytest.mark.parametrize("size", [50, 19_999, 20_000, 499_999, 500_000])
def test_bits_rule_has_its_authors_rates_at_every_step(size):
    settings = preset("bit-hyperrule", size)
    [(_, options)] = ftbench.component.parse_reference(settings["schedule"])
    schedule = Steps(StepsOptions(**options))
    total = settings["steps"]
    for step in range(0, total, 7):
        rate = settings["learning_rate"] * schedule.factor(step, total)
        assert rate == pytest.approx(bit_rate(step, size)), step
    assert ("mixup" in settings["mixing"]) == (size >= 20_000)


def test_steps_and_staircases():
    steps = Steps(StepsOptions(at=(0.5,), factor=0.1))
    assert [steps.factor(i, 4) for i in range(4)] == [1.0, 1.0, 0.1, 0.1]
    stairs = Exponential(ExponentialOptions(factor=0.9, every=10, warmup=0.5))
    assert [stairs.factor(i, 40) for i in (0, 19, 20, 29, 30)] == pytest.approx(
        [1 / 20, 1.0, 1.0, 1.0, 0.9]
    )
    assert math.isclose(stairs.factor(39, 40), 0.9)


def test_what_a_spec_says_overrides_its_preset_at_every_size():
    recipe = Recipe(preset="guideline", batch_size=7, weight_decay=0.5)
    small, large = recipe_at(recipe, 100), recipe_at(recipe, 10_000)
    assert (
        (small.batch_size, small.weight_decay) == (large.batch_size, large.weight_decay) == (7, 0.5)
    )
    assert (small.augmentation, large.augmentation) == ("strong", "standard")
    assert recipe_at(Recipe(preset="tllib", epochs=3), 100).steps is None
    assert recipe_at(Recipe(batch_size=3), 100) == Recipe(batch_size=3)


def test_each_size_of_a_sweep_has_its_own_recipe_and_the_key_of_what_it_comes_to():
    grid = {"tasks": ("tiny",), "backbones": ("tiny-net",), "strategies": ("full",), "seeds": (0,)}
    by_preset = expand(
        ftbench.SweepSpec(**grid, sizes=(12,), recipe={"preset": "guideline"}), CATALOGUE
    )
    spelt = expand(
        ftbench.SweepSpec(**grid, sizes=(12,), recipe=preset("guideline", 12)), CATALOGUE
    )
    assert [run.key for run in by_preset] == [run.key for run in spelt]
    assert by_preset[0].parts["augmentation"].name == "strong"


def test_a_stored_spec_says_the_preset_and_what_overrides_it_alone(tmp_path):
    spec = ftbench.SweepSpec(recipe={"preset": "bit-hyperrule", "batch_size": 7})
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec))
    assert load_spec(path) == spec
    assert recipe_at(load_spec(path).recipe, 30_000) == recipe_at(spec.recipe, 30_000)


def test_an_unknown_preset_is_named_with_the_nearest():
    with pytest.raises(SpecError, match="no recipe 'bit-hyperule'; did you mean 'bit-hyperrule'"):
        recipe_at(Recipe(preset="bit-hyperule"), 10)
    with pytest.raises(SpecError, match="size 0 is not positive"):
        preset("tllib", 0)
