import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftbench.errors import SpecError
from ftbench.plugins import base_class
from ftbench.recipe import MOVED, Recipe


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().steps = 3


def test_recipes_of_equal_settings_are_equal():
    assert Recipe(steps=10) == Recipe(steps=10)
    assert Recipe(steps=10) != Recipe(steps=11)


def test_epochs_take_the_place_of_the_default_steps():
    recipe = Recipe(epochs=3)
    assert recipe.epochs == 3
    assert recipe.steps is None
    assert Recipe().steps == 150
    assert Recipe(epochs=None).steps == 150


@pytest.mark.parametrize(
    "lengths", [{"steps": 10, "epochs": 3}, {"steps": None}, {"steps": None, "epochs": None}]
)
def test_two_lengths_or_none_are_refused(lengths):
    with pytest.raises(SpecError, match="give either steps or epochs"):
        Recipe(**lengths)


@given(st.integers(1, 500), st.integers(1, 10_000))
def test_steps_are_taken_whatever_the_rows(steps, rows):
    assert Recipe(steps=steps).total_steps(rows) == steps


@pytest.mark.parametrize(
    ("epochs", "batch_size", "rows", "steps"),
    [
        (3, 32, 320, 30),
        (3, 32, 330, 31),  # 30.9 batches
        (1, 64, 20, 1),  # a batch holds all rows there are
        (7, 64, 20, 7),
        (0.5, 10, 100, 5),
        (0.001, 10, 100, 1),
    ],
)
def test_epochs_are_passes_over_the_training_rows(epochs, batch_size, rows, steps):
    assert Recipe(epochs=epochs, batch_size=batch_size).total_steps(rows) == steps


@pytest.mark.parametrize("name", MOVED)
def test_a_key_of_before_says_how_the_same_is_written_now(name, catalogue):
    message = rf"Recipe: the key 'recipe\.{name}' is part of another now: \w+ = \".*=0\.25\)\"$"
    with pytest.raises(SpecError, match=message) as refused:
        Recipe(**{name: 0.25})
    # And what it says can be written.
    part, reference = re.search(r"now: (\w+) = \"(.*)\"$", str(refused.value)).groups()
    assert catalogue.resolve(base_class(part), reference)


def test_several_references_may_be_a_list_and_none_is_a_name():
    assert Recipe(schedule=["cosine", "linear(warmup=[0.1, 0.2])"]).schedule == (
        "cosine, linear(warmup=[0.1, 0.2])"
    )
    assert Recipe(mixing=None).mixing == "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", 3),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("head_rate_factor", 0),
        ("weight_decay", -1e-3),
        ("steps", 0),
        ("steps", 1.5),
        ("epochs", 0),
        ("batch_size", 0),
        ("gradient_clip", 0),
        ("label_smoothing", 1),
        ("norm_statistics", "moving"),
        ("patience", 0),
        ("validate_every", 0),
        ("validation_share", 0),
        ("validation_share", 1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(SpecError, match=rf"^Recipe: key '{name}': "):
        Recipe(**{name: value})


def test_an_unknown_setting_is_refused():
    with pytest.raises(
        SpecError, match=r"unknown key 'lerning_rate'; did you mean 'learning_rate'\?"
    ):
        Recipe(lerning_rate=0.1)


def test_batch_norm_statistics_are_frozen_unless_asked_otherwise():
    assert Recipe().norm_statistics == "frozen"
    assert Recipe().patience is None
    assert Recipe().validation_share == 0.2
