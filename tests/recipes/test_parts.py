"""Augmentations, mixings and heads; schedules and optimizers have files of their own."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ftbench
from ftbench import ops
from ftbench.offers import Offer
from ftbench.recipes.augmentations import CropFlip, CropFlipOptions, NoAugmentation
from ftbench.recipes.heads import MLP, MLPOptions, Plain, PlainOptions
from ftbench.recipes.mixings import CutMix, Mixup, MixupOptions, MixupOrCutMix
from ftbench.run import run_one
from ftbench.sweep import expand, run_sweep
from tests.support import tiny_sweep
from tests.tiny import TinyPlugin, TinyTask

POOLED = Offer("pooled", (8,))


def last(offer):
    return TinyTask().head(offer, seed=3)


def test_a_plain_head_is_the_tasks_own_behind_dropout():
    bare = Plain().build(last, POOLED, seed=3)
    assert isinstance(bare, nn.Linear)
    dropout, linear = Plain(PlainOptions(dropout=0.4)).build(last, POOLED, seed=3)
    assert dropout.p == 0.4
    assert torch.equal(linear.weight, bare.weight)


def test_an_mlp_is_drawn_from_the_seed_alone():
    made = MLP(MLPOptions(hidden=16, dropout=0.1))
    torch.manual_seed(0)
    head = made.build(last, POOLED, seed=3)
    torch.manual_seed(1)
    again, other = made.build(last, POOLED, seed=3), made.build(last, POOLED, seed=4)
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Dropout, nn.Linear]
    assert head(torch.ones(5, 8)).shape == (5, 3)
    assert torch.equal(head[0].weight, again[0].weight)
    assert not torch.equal(head[0].weight, other[0].weight)
    assert head[0].weight.abs().max() <= 8**-0.5
    with pytest.raises(ftbench.FtbenchError, match="head 'mlp' needs pooled features or tokens"):
        made.build(last, Offer("maps", (8,)), seed=0)


@given(st.integers(0, 5), st.integers(0, 99), st.integers(1, 6))
def test_crop_flip_moves_and_mirrors_each_image_as_a_loop_would(padding, step, rows):
    images = torch.randn(rows, 2, 7, 5, generator=torch.Generator().manual_seed(step))
    found = CropFlip(CropFlipOptions(padding=padding)).augment(images, seed=1, step=step)
    again = CropFlip(CropFlipOptions(padding=padding)).augment(images, seed=1, step=step)
    assert torch.equal(found, again)
    padded = nn.functional.pad(images, (padding,) * 4)
    for image, made in zip(padded, found, strict=True):
        crops = [
            image[:, top : top + 7, left : left + 5]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(made, c) or torch.equal(made, c.flip(2)) for c in crops)


def test_crop_flip_uses_every_offset_and_the_share_of_flips():
    image = torch.arange(12.0).view(1, 1, 3, 4) + 1
    views = CropFlip(CropFlipOptions(padding=1, flip=0.25)).augment(
        image.expand(4000, 1, 3, 4), seed=0, step=0
    )
    centre = views[:, 0, 1, 1]
    values, counts = np.unique(centre.numpy(), return_counts=True)
    # What is seen at one place: nine offsets of the image, and nine of the mirrored one.
    assert set(values) == set(range(1, 13))
    mirrored = (views[:, 0, 1, 2] < views[:, 0, 1, 1]).float().mean()
    assert mirrored.item() == pytest.approx(0.25, abs=0.03)
    assert counts.min() > 50


def test_crop_flip_needs_images_and_none_takes_anything():
    with pytest.raises(ftbench.FtbenchError, match=r"'crop-flip' needs images .*augmentation to"):
        CropFlip().augment({"x": torch.ones(2)}, seed=0, step=0)
    assert NoAugmentation().augment("anything", seed=0, step=0) == "anything"


def test_the_mixings_are_sample_mix_with_their_options():
    def same(plan, **expected):
        other = ops.sample_mix(6, 8, 9, **expected, seed=3, step=2)
        return torch.equal(plan.weight, other.weight) and torch.equal(plan.box, other.box)

    draw = {"seed": 3, "step": 2}
    assert same(Mixup().plan(6, 8, 9, **draw), mixup_alpha=0.2)
    options = MixupOptions(alpha=2.0, probability=0.5)
    assert same(Mixup(options).plan(6, 8, 9, **draw), mixup_alpha=2.0, probability=0.5)
    assert same(CutMix().plan(6, 8, 9, **draw), cutmix_alpha=1.0)
    assert same(MixupOrCutMix().plan(6, 8, 9, **draw), mixup_alpha=0.8, cutmix_alpha=1.0)


# In a run and in a grid.


@pytest.mark.parametrize(
    "recipe",
    [
        {"head": "mlp(hidden=6)"},
        {"augmentation": "crop-flip(padding=2)"},
        {"optimizer": "sgd(momentum=0.5)"},
        {"schedule": "linear(warmup=0.5)"},
        {"mixing": "mixup-or-cutmix"},
    ],
)
def test_each_part_changes_what_a_run_comes_to_and_its_key(tiny_run, recipe):
    plain, changed = tiny_run(size=30, steps=8), tiny_run(size=30, steps=8, **recipe)
    assert changed.status == "ok", changed.message
    assert changed.scores != plain.scores
    assert changed.key != plain.key
    (kind,) = recipe
    assert changed.labels[kind] == recipe[kind]
    assert changed.identity["recipe"][kind]["name"] == recipe[kind].partition("(")[0]


def test_strategies_see_the_same_views_of_the_same_rows(tiny_run):
    views = {}

    class Watch(ftbench.Augmentation):
        name = "watch"

        def augment(self, inputs, *, size, seed, step):
            found = CropFlip().augment(inputs, size=size, seed=seed, step=step) + torch.rand(1)
            views.setdefault(step, []).append(found)
            return found

    class Plugin(TinyPlugin):
        @ftbench.hookimpl
        def ftbench_augmentations(self):
            return [Watch]

    catalogue = ftbench.load_catalogue(extra={"tiny": Plugin()})
    spec = tiny_sweep(strategies=("full", "head-only"), recipe={"augmentation": "watch"})
    for run in expand(spec, catalogue):
        assert run_one(run, catalogue, device="cpu").status == "ok"
    assert len(views) == 4
    assert all(torch.equal(one, other) for one, other in views.values())


def test_a_list_in_a_part_is_a_grid_and_so_are_several_names(tmp_path, catalogue):
    recipe = {"schedule": "cosine(warmup=[0.0, 0.5])", "optimizer": ["adamw", "sgd"]}
    plan = run_sweep(tiny_sweep(recipe=recipe), tmp_path, catalogue=catalogue)
    assert [r.status for r in plan.done.values()] == ["ok"] * 8
    frame = ftbench.load_results(tmp_path)
    assert set(frame["recipe_schedule"]) == {"cosine", "cosine(warmup=0.5)"}
    assert set(frame["recipe_optimizer"]) == {"adamw", "sgd"}
    assert frame["condition"].nunique() == 4
    assert len({plan.name(run) for run in plan.runs}) == 8
    assert plan.name(plan.runs[0]) == "full with adamw with cosine at size 12, seed 0"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"schedule": "cosin"}, r"unknown schedule 'cosin'; did you mean 'cosine'\?"),
        ({"schedule": "cosine(warm=1)"}, r"schedule 'cosine': unknown option 'warm'; did you mean"),
        (
            {"schedule": "cosine(warmup=1)"},
            r"schedule 'cosine': option 'warmup': Input should be",
        ),
        (
            {"optimizer": "sgd, sgd(momentum=0.9)"},
            r"optimizer 'sgd\(momentum=0.9\)' is in",
        ),
        ({"optimizer": "adamw("}, r"cannot read 'adamw\('"),
        ({"mixing": ""}, r"recipe.mixing is empty; leave it out for its default"),
        ({"mixing": "mixup(alpha=0)"}, r"mixing 'mixup': option 'alpha': Input should be greater"),
    ],
)
def test_a_part_that_cannot_be_is_named_when_a_sweep_is_planned(catalogue, recipe, message):
    with pytest.raises(ftbench.FtbenchError, match=message):
        expand(tiny_sweep(recipe=recipe), catalogue)


@pytest.mark.parametrize(
    ("hook", "base", "method", "answer", "message"),
    [
        (
            "optimizers",
            ftbench.Optimizer,
            "build",
            None,
            r"optimizer 'odd': build\(\) retur",
        ),
        (
            "schedules",
            ftbench.Schedule,
            "factor",
            -1,
            r"schedule 'odd': factor\(0, 4\) returned",
        ),
        ("mixings", ftbench.Mixing, "plan", 3, r"mixing 'odd': plan\(\) returned 3; expected an"),
        ("heads", ftbench.Head, "build", len, r"head 'odd': build\(\) returned a builtin"),
    ],
)
def test_a_plugins_part_that_gives_something_else_is_named(hook, base, method, answer, message):
    odd = type("Odd", (base,), {"name": "odd", method: lambda self, *_, **__: answer})
    plugin = type(
        "Plugin", (TinyPlugin,), {f"ftbench_{hook}": ftbench.hookimpl(lambda self: [odd])}
    )
    catalogue = ftbench.load_catalogue(extra={"tiny": plugin()})
    spec = tiny_sweep(strategies=("full",), recipe={base.kind: "odd"})
    (run,) = expand(spec, catalogue)
    record = run_one(run, catalogue, device="cpu")
    assert record.status == "failed"
    assert re.search(message, record.message), record.message
