import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftbench.errors import SpecError
from ftbench.recipe import Recipe


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


@pytest.mark.parametrize(
    ("settings_", "mixes"),
    [
        ({}, False),
        ({"mixup_alpha": 0.2}, True),
        ({"cutmix_alpha": 1.0}, True),
        ({"mixup_alpha": 0.2, "mix_probability": 0.0}, False),
    ],
)
def test_a_recipe_mixes_where_an_alpha_and_the_probability_are_positive(settings_, mixes):
    assert Recipe(**settings_).mixes is mixes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "adam"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("head_rate_factor", 0),
        ("momentum", 1),
        ("weight_decay", -1e-3),
        ("schedule", "cyclic"),
        ("warmup", 1),
        ("steps", 0),
        ("steps", 1.5),
        ("epochs", 0),
        ("batch_size", 0),
        ("gradient_clip", 0),
        ("label_smoothing", 1),
        ("head_dropout", 1),
        ("norm_statistics", "moving"),
        ("mixup_alpha", -0.1),
        ("cutmix_alpha", float("inf")),
        ("mix_probability", 1.1),
        ("mix_switch_probability", -0.1),
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
