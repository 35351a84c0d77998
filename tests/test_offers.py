"""A task and a backbone that do not fit are found while a sweep is planned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ftbench
from ftbench.offers import KINDS, Offer, choose_offer, offers_problem
from ftbench.sweep import expand
from tests.support import tiny_sweep
from tests.tiny import TinyNet, TinyPlugin, TinyTask

KIND = st.sampled_from(KINDS)
INPUTS = st.sampled_from(["image", "text"])


@given(st.lists(KIND), INPUTS, st.lists(st.tuples(KIND, INPUTS), unique=True))
def test_the_first_need_that_is_offered_for_the_same_inputs_is_chosen(needs, inputs, offered):
    offers = [Offer(kind, (4,), inputs=read) for kind, read in offered]
    found = choose_offer(needs, inputs, offers)
    possible = [kind for kind in needs if (kind, inputs) in offered]
    assert (found and (found.kind, found.inputs)) == ((possible[0], inputs) if possible else None)


def catalogue_with(task=TinyTask, backbone=TinyNet):
    return ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=task, backbone=backbone)})


def test_a_wrong_pair_names_both_sides_and_what_would_fit():
    class OfTokens(TinyTask):
        needs = ("tokens", "language-model")
        inputs = "text"

    message = (
        r"task 'tiny' needs tokens or language-model features from text, and backbone 'tiny-net' "
        r"offers pooled features of width 8 from image; backbones that fit 'tiny': none installed; "
        r"tasks that fit 'tiny-net': digits, letters$"
    )
    with pytest.raises(ftbench.FtbenchError, match=message):
        expand(tiny_sweep(), catalogue_with(task=OfTokens))

    class OfMaps(TinyTask):
        needs = ("maps",)

    with pytest.raises(ftbench.FtbenchError, match=r"backbones that fit 'tiny': glyphnet; tasks"):
        expand(tiny_sweep(), catalogue_with(task=OfMaps))


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        (None, r"offers\(\) returned None; expected a tuple of ftbench.Offer"),
        ((), r"returned \(\); expected a tuple of ftbench.Offer, one at least"),
        (("pooled",), r"returned 'pooled' among its offers; expected an ftbench.Offer"),
        ((Offer("pool", (8,)),), r"offers the kind 'pool'; there are pooled, tokens, maps, lang"),
        ((Offer("pooled", (0,)),), r"offers pooled with widths=\(0,\); expected whole numbers abo"),
        ((Offer("pooled", (True,)),), r"offers pooled with widths=\(True,\)"),
        ((Offer("pooled", ()),), r"offers pooled with widths=\(\)"),
        ((Offer("pooled", 8),), r"offers pooled with widths=8"),
        ((Offer("pooled", (8, 9)),), r"only maps have several levels"),
        ((Offer("maps", (8, 9), strides=(2,)),), r"offers maps with 1 strides for 2 widths"),
        ((Offer("pooled", (8,)), Offer("pooled", (9,))), r"offers pooled twice"),
        ((Offer("pooled", (8,), inputs=None),), r"offers pooled from inputs=None; expected 'image"),
    ],
)
def test_offers_that_are_none_are_named_when_a_sweep_is_planned(offers, message):
    odd = type("Odd", (TinyNet,), {"offers": lambda self: offers})
    with pytest.raises(ftbench.FtbenchError, match=rf"backbone 'tiny-net': .*{message}"):
        expand(tiny_sweep(), catalogue_with(backbone=odd))
    assert offers_problem(offers)


@pytest.mark.parametrize("needs", [(), ("pool",), "pooled", 3])
def test_needs_that_are_no_kinds_keep_a_task_out(needs):
    odd = type("Odd", (TinyTask,), {"needs": needs})
    (error,) = catalogue_with(task=odd).errors
    assert "Odd.needs" in error.error


def test_glyphnet_serves_a_task_of_maps(tiny_run):
    """The whole way: the last stage's maps, without the pooling, reach a task's own head."""
    import torch
    from torch import nn

    seen = []

    class Look(nn.Module):
        def forward(self, maps):
            seen.append(tuple(maps.shape[1:]))
            return self.linear(maps.mean((2, 3)))

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(128, 3)

    class OfMaps(TinyTask):
        needs = ("maps",)

        def head(self, offer, *, seed):
            assert offer == ftbench.Offer("maps", (128,), strides=(16,))
            torch.manual_seed(seed)
            return Look()

    catalogue = catalogue_with(task=OfMaps)
    (run,) = expand(tiny_sweep(strategies=("full",), backbones=("glyphnet",)), catalogue)
    record = ftbench.run.run_one(run, catalogue, device="cpu")
    assert record.status == "ok", record.message
    assert set(seen) == {(128, 1, 1)}  # of 8×8 images


def test_a_task_of_language_model_features_keeps_the_source_head(tiny_run):
    from torch import nn

    kept = []

    class OfTokens(TinyTask):
        needs = ("language-model",)
        classes = 4

        def source(self):
            return None

        def head(self, offer, *, seed):
            raise AssertionError("head() was called")

    class Net(TinyNet):
        def offers(self):
            return (Offer("language-model", (8,)),)

        def build(self, *, pretrained):
            backbone = super().build(pretrained=pretrained)
            stages = [*backbone.stages[:-1], ("top", nn.Sequential(backbone.stages[-1][1], Row()))]
            kept.append(backbone.source_head)
            head = backbone.source_head and nn.Sequential(backbone.source_head, nn.Flatten())
            return ftbench.Backbone(stages, head)

    class Row(nn.Module):
        """One token a row."""

        def forward(self, x):
            return x.unsqueeze(1)

    class Watch(ftbench.Strategy):
        name = "watch"

        def prepare(self, model, data):
            assert model.head[0] is kept[-1]

    record = tiny_run(Watch, task=OfTokens, backbone=Net)
    assert record.status == "ok", record.message

    class Scratch(Watch):
        pretrained = False

    message = tiny_run(Scratch, task=OfTokens, backbone=Net).message
    assert "offers language-model features and build() returned no source_head" in message


def test_a_head_that_wants_targets_gets_them_in_training_alone(tiny_run):
    from torch import nn

    seen = []

    class Wants(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, features, targets=None):
            seen.append(None if targets is None else len(targets))
            return self.linear(features)

    class OfTargets(TinyTask):
        def head(self, offer, *, seed):
            return Wants()

    assert tiny_run("full", task=OfTargets, steps=3).status == "ok"
    assert seen.count(5) == 3  # batches of five rows
    assert set(seen) == {5, None}
