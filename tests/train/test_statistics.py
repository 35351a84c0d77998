"""Running statistics that are to stay frozen do, in modules of every make; the record says so."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench import rng
from ftbench.recipe import Recipe
from ftbench.strategies.full import Full
from ftbench.train import train
from ftbench.train.statistics import Buffers, moving_modules
from tests.support import made


class HandNorm(nn.Module):
    """A batch norm that is no subclass of torch's, with dropout inside."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running", torch.zeros(channels))
        self.dropout = nn.Dropout(0.5)

    def statistics(self, x):
        return x.mean(dim=(0, 2, 3)).detach()

    def forward(self, x):
        if self.training:
            self.running.mul_(0.9).add_(0.1 * self.statistics(x))
        return self.dropout(x - self.running[:, None, None])


class Replaces(HandNorm):
    def forward(self, x):
        if self.training:
            self.running = 0.9 * self.running + 0.1 * self.statistics(x)
        return self.dropout(x - self.running[:, None, None])


class Cumulative(HandNorm):
    """Counts its batches, as ``momentum=None`` does."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("batches", torch.tensor(0))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.training:
            self.batches += 1
            self.running += (self.statistics(x) - self.running) / self.batches
        return self.dropout(x - self.running[:, None, None])


class Random(HandNorm):
    def forward(self, x):
        if self.training:
            self.running.copy_(torch.rand_like(self.running))
        return self.dropout(x - self.running[:, None, None])


def torch_norm(channels):
    return nn.Sequential(nn.BatchNorm2d(channels, momentum=None), nn.Dropout(0.5))


def inside_a_norm(channels):
    norm = nn.BatchNorm2d(channels)
    norm.register_module("inner", HandNorm(channels))
    return nn.Sequential(norm, norm.inner)


def spectral(channels):
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(channels, channels, 1))
    return nn.Sequential(layer, nn.Dropout(0.5))


def old_spectral(channels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = nn.utils.spectral_norm(nn.Conv2d(channels, channels, 1))
    return nn.Sequential(layer, nn.Dropout(0.5))


def parametrized_norm(channels):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    norm = nn.BatchNorm2d(channels)
    nn.utils.parametrize.register_parametrization(norm, "weight", Doubled())
    return nn.Sequential(norm, nn.Dropout(0.5))


MAKES = [
    HandNorm, Replaces, Cumulative, Random, torch_norm, inside_a_norm, spectral,
    old_spectral, parametrized_norm,
]  # fmt: skip


class Stubborn(HandNorm):
    """Moves in eval mode as well."""

    def forward(self, x):
        self.running.mul_(0.9).add_(0.1 * self.statistics(x))
        return self.dropout(x)


class FromTheThirdBatchOn(HandNorm):
    def __init__(self, channels):
        super().__init__(channels)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 2 and torch.is_grad_enabled():
            self.running += 0.1
        return self.dropout(x - self.running[:, None, None])


class Counts(nn.Module):
    """Counts its batches in whole numbers, and drops by a function."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("ready", torch.tensor(False))
        self.dropped = []

    def forward(self, x):
        if self.training:
            self.batches += 1
            self.ready.fill_(True)
        out = F.dropout(x, 0.5, self.training)
        self.dropped.append(not torch.equal(out, x))
        return out


class Attribute(HandNorm):
    """Keeps its mean as a plain attribute."""

    def __init__(self, channels):
        super().__init__(channels)
        del self.running
        self.running = torch.zeros(channels)


class LazyAttribute(nn.Module):
    """Has no mean before the first batch in train mode."""

    def __init__(self, channels):
        super().__init__()
        self.running = None

    def forward(self, x):
        if self.training:
            self.running = x.mean(dim=(0, 2, 3)).detach()
        return x if self.running is None else x - self.running[:, None, None]


def old_weight_norm(channels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv2d(channels, channels, 1))


def stages_with(make):
    torch.manual_seed(0)
    return [
        ("stem", nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), make(4), nn.ReLU())),
        ("top", nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())),
    ]


def buffers_of(model):
    return copy.deepcopy(dict(model.stages.named_buffers()))


def same(before, after):
    return before.keys() == after.keys() and all(
        torch.allclose(v, after[n], rtol=0, atol=0, equal_nan=True) for n, v in before.items()
    )


@pytest.fixture
def fit(tiny):
    def run(model, strategy=None, steps=4, **recipe):
        return train(
            model, tiny.task().pool(), strategy=strategy or Full(),
            recipe=Recipe(steps=steps, batch_size=6, learning_rate=0.01, **recipe),
            made=made(Recipe(**recipe)),
            loss=tiny.task().loss, seed=0,
        )  # fmt: skip

    return run


@pytest.fixture
def model_with():
    return lambda make: ftbench.Model(stages_with(make), nn.Linear(8, 3))


@pytest.mark.parametrize("make", MAKES)
def test_frozen_statistics_do_not_move_where_weights_train(fit, model_with, make):
    model = model_with(make)
    buffers, weight = buffers_of(model), model.stages[1][1].weight.detach().clone()
    log = fit(model)
    assert same(buffers, buffers_of(model))
    assert log.norm_statistics == "frozen"
    assert not torch.equal(weight, model.stages[1][1].weight)


@pytest.mark.parametrize("make", MAKES)
def test_they_move_where_they_are_to_update(fit, model_with, make):
    model = model_with(make)
    buffers = buffers_of(model)
    log = fit(model, norm_statistics="update")
    assert not same(buffers, buffers_of(model))
    assert log.norm_statistics == "update"


@pytest.mark.parametrize("make", MAKES)
def test_dropout_beside_and_inside_a_held_module_is_on(fit, model_with, make):
    model, kept = model_with(make), []
    (dropout,) = (m for m in model.modules() if isinstance(m, nn.Dropout))
    dropout.register_forward_hook(lambda _, inputs, out: kept.append(torch.equal(inputs[0], out)))
    fit(model)
    assert kept == [True, *[False] * 4]  # the warm-up is in eval mode; no other pass is seen


@pytest.mark.parametrize("make", MAKES)
def test_a_frozen_stage_keeps_its_statistics_when_they_are_to_update(fit, model_with, make):
    class TopOnly(ftbench.Strategy):
        name = "top-only"

        def trains(self, stage, progress):
            return stage.index > 0

    model = model_with(make)
    buffers = buffers_of(model)
    assert fit(model, TopOnly(), norm_statistics="update").norm_statistics == "frozen"
    assert same(buffers, buffers_of(model))


@pytest.mark.parametrize("make", [Stubborn, FromTheThirdBatchOn])
def test_statistics_that_moved_all_the_same_are_said_to(fit, model_with, make):
    model = model_with(make)
    assert fit(model).norm_statistics == "update"


@pytest.mark.parametrize("make", [Attribute, LazyAttribute])
def test_a_mean_that_is_a_plain_attribute_is_said_to_have_moved(fit, model_with, make):
    class TopOnly(ftbench.Strategy):
        name = "top-only"

        def trains(self, stage, progress):
            return stage.index > 0

    assert fit(model_with(make)).norm_statistics == "update"
    assert fit(model_with(make), TopOnly()).norm_statistics == "frozen"


def test_weights_that_a_pass_makes_anew_are_no_statistics(tiny, tiny_run, fit, model_with):
    assert fit(model_with(old_weight_norm)).norm_statistics == "frozen"
    record = tiny_run(
        "progressive", backbone=net_with(tiny, old_weight_norm),
        size=30, steps=12, patience=2, validate_every=2,
    )  # fmt: skip
    assert (record.status, record.protocol["norm_statistics"]) == ("ok", "frozen")


def test_a_module_that_only_counts_stays_in_train_mode_and_the_record_says_so(fit, model_with):
    model = model_with(Counts)
    log = fit(model)
    counts = model.stages[0][1]
    assert counts.dropped[-4:] == [True] * 4
    assert int(counts.batches) == 4
    assert log.norm_statistics == "update"


def test_the_warm_up_moves_nothing_even_in_a_module_that_heeds_no_mode(fit, model_with):
    model, seen = model_with(Stubborn), []
    model.stages[0][1].register_forward_pre_hook(lambda m, _: seen.append(m.running.clone()))
    fit(model, steps=1)
    assert not seen[-1].any()  # as at the start, whatever passes went before


class OwnDraws(HandNorm):
    """Draws from generators of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.torch = torch.Generator().manual_seed(0)
        self.numpy, self.python = np.random.default_rng(0), random.Random(0)

    def forward(self, x):
        if self.training:
            self.running += torch.rand((), generator=self.torch)
            self.running += self.numpy.random() + self.python.random()
        return self.dropout(x - self.running[:, None, None])


def test_looking_for_statistics_moves_no_generator_of_a_module(tiny, model_with):
    model = model_with(OwnDraws)
    norm = model.stages[0][1]

    def drawn():
        before = norm.torch.get_state(), copy.deepcopy((norm.numpy, norm.python))
        values = torch.rand((), generator=norm.torch).item(), norm.numpy.random()
        found = (*values, norm.python.random())
        norm.torch.set_state(before[0])
        norm.numpy, norm.python = before[1]
        return found

    expected = drawn()
    assert moving_modules(model, tiny.task().pool().inputs[:6]) == {norm}
    assert drawn() == expected


@pytest.mark.parametrize("make", [*MAKES, Stubborn])
def test_looking_for_statistics_leaves_no_trace(tiny, model_with, make):
    model = model_with(make)
    calls = []
    model.stages[1].register_forward_hook(lambda *_: calls.append(1))
    model.stages[0].eval()
    modes = [m.training for m in model.modules()]
    attributes = {m: dict(vars(m)) for m in model.modules()}
    tensors = {id(b) for b in model.buffers()}
    buffers, draws = buffers_of(model), torch.get_rng_state()
    inputs = tiny.task().pool().inputs[:6]
    given = inputs.clone()
    with rng.isolated("test"):
        found = moving_modules(model, inputs)
    assert bool(found) == (make not in (torch_norm, parametrized_norm))
    assert same(buffers, buffers_of(model))
    assert tensors == {id(b) for b in model.buffers()}
    assert modes == [m.training for m in model.modules()]
    assert all(vars(m).keys() == attributes[m].keys() for m in model.modules())
    assert all(vars(m).get("calls") == attributes[m].get("calls") for m in model.modules())
    assert torch.equal(draws, torch.get_rng_state())
    assert torch.equal(given, inputs)
    assert calls == []


def test_a_backbone_of_torchs_norms_alone_is_not_run_for_it(model_with):
    model = model_with(torch_norm)
    model.stages[0].forward = None
    assert moving_modules(model, torch.zeros(2, 1, 8, 8)) == frozenset()


def test_a_module_that_cannot_take_the_batch_in_train_mode_fails_in_its_step_alone(fit, model_with):
    class NeedsMany(HandNorm):
        def forward(self, x):
            if self.training and len(x) < 9:
                raise ValueError("too few rows")
            return super().forward(x)

    class TopOnly(ftbench.Strategy):
        name = "top-only"

        def trains(self, stage, progress):
            return stage.index > 0

    fit(model_with(NeedsMany), TopOnly())
    with pytest.raises(ValueError, match="too few rows"):
        fit(model_with(NeedsMany))


def test_buffers_know_what_moved_and_go_back():
    module = nn.Module()
    for name in ("written", "replaced", "kept", "nan", "gone", "wider"):
        module.register_buffer(name, torch.full((2,), float("nan") if name == "nan" else 1.0))
    module.register_buffer("none", None)
    still = HandNorm(2)
    held, buffers = dict(module.named_buffers()), Buffers([module, still])
    assert buffers.moved() == set()
    module.written.add_(1)
    module.replaced = torch.zeros(2)
    module.wider = torch.zeros(3)
    module.none = torch.zeros(1)
    module.register_buffer("late", torch.zeros(1))
    del module.gone
    assert buffers.moved() == {module}
    buffers.restore()
    assert buffers.moved() == set()
    after = dict(module.named_buffers())
    assert after.keys() == held.keys()
    assert all(after[name] is held[name] for name in held)


def net_with(tiny, make):
    class Net(tiny.Backbone):
        def build(self, *, pretrained):
            head = nn.Linear(8, 4) if pretrained else None
            with rng.isolated("net"):
                return ftbench.Backbone(stages_with(make), head)

        def fingerprint(self):
            return "fixed"

    return Net


@pytest.mark.parametrize(
    ("make", "strategy", "asked", "recorded"),
    [
        (HandNorm, "full", "frozen", "frozen"),
        (HandNorm, "full", "update", "update"),
        (HandNorm, "head-only", "update", "frozen"),
        (HandNorm, "scratch", "frozen", "update"),
        (Stubborn, "head-only", "frozen", "update"),
        (torch_norm, "full", "frozen", "frozen"),
        (torch_norm, "full", "update", "update"),
    ],
)
def test_the_record_states_what_happened(tiny, tiny_run, make, strategy, asked, recorded):
    record = tiny_run(strategy, backbone=net_with(tiny, make), norm_statistics=asked)
    assert record.status == "ok", record.message
    assert record.protocol["norm_statistics"] == recorded


def test_what_finish_and_prepare_do_on_purpose_is_no_movement(tiny, tiny_run):
    class Adapts(ftbench.Strategy):
        name = "adapts"

        def prepare(self, model, data):
            model.stages[0][1].running += 1

        def finish(self, model, data):
            model.stages[0][1].running += 1

    record = tiny_run(Adapts, backbone=net_with(tiny, HandNorm))
    assert record.protocol["norm_statistics"] == "frozen"


def test_validation_and_best_weights_leave_held_statistics(tiny, tiny_run):
    record = tiny_run(
        "full", backbone=net_with(tiny, HandNorm), size=30, steps=12, patience=2, validate_every=2
    )
    assert (record.status, record.protocol["norm_statistics"]) == ("ok", "frozen")
