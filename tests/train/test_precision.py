"""Half precision and accumulated gradients: nearly the same steps, in less memory."""

import pytest
import torch
from torch import nn

import ftbench
from ftbench.train.precision import Precision
from tests.tiny import TinyNet, TinyPlugin, TinyTask


def weights(tiny_run, **recipe):
    """Return the head's weights after training, and the record."""
    found = {}

    class Watch(ftbench.Strategy):
        name = "watch"

        def finish(self, model, data):
            found.update({n: p.detach().clone() for n, p in model.named_parameters()})

    record = tiny_run(Watch, batch_size=12, steps=4, **recipe)
    assert record.status == "ok", record.message
    return found, record


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("accumulation", [2, 3, 5, 12, 50])
def test_accumulated_steps_are_those_of_the_whole_batch(tiny_run, accumulation):
    # Dropout's draws fall on other rows where a batch comes in parts.
    class Plain(TinyNet):
        def build(self, *, pretrained):
            built = super().build(pretrained=pretrained)
            for _, stage in built.stages:
                for module in stage.modules():
                    if isinstance(module, nn.Dropout):
                        module.p = 0.0
            return built

    whole, first = weights(tiny_run, backbone=Plain)
    parts, record = weights(tiny_run, backbone=Plain, accumulation=accumulation)
    # Adam divides by the size of gradients, so that rounding shows where they are small.
    assert distance(whole, parts) < 2e-4
    assert record.protocol["forward_passes"] == min(accumulation, 12)
    assert record.protocol["final_loss"] == pytest.approx(first.protocol["final_loss"], abs=1e-4)


def test_accumulation_with_a_penalty_adds_it_once(tiny_run):
    one = tiny_run("l2sp(alpha=0.5)", batch_size=12, steps=3)
    parts = tiny_run("l2sp(alpha=0.5)", batch_size=12, steps=3, accumulation=4)
    assert parts.status == "ok"
    assert parts.scores["nll"] == pytest.approx(one.scores["nll"], abs=0.05)


def test_a_mixed_batch_is_mixed_part_by_part(tiny_run):
    record = tiny_run("full", batch_size=12, steps=3, accumulation=3, mixing="mixup")
    assert record.status == "ok"
    assert record.protocol["final_loss"] > 0


def test_a_strategy_that_refuses_accumulation_is_said_when_the_sweep_is_planned(tmp_path):
    class Refuses(ftbench.Strategy):
        name = "refuses"
        refuses = ("accumulation",)

    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin([Refuses])})
    spec = ftbench.SweepSpec(
        tasks=("tiny",),
        backbones=("tiny-net",),
        strategies=("refuses",),
        sizes=(12,),
        recipe={"accumulation": 2},
    )
    with pytest.raises(ftbench.FtbenchError, match="refuses accumulation, and recipe"):
        ftbench.run_sweep(spec, tmp_path / "out", catalogue=catalogue)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("strategy", ["full", "l2sp(alpha=0.1)", "ewc"])
def test_half_precision_trains_nearly_the_same(tiny_run, precision, strategy):
    full = tiny_run(strategy, batch_size=12, steps=6)
    half = tiny_run(strategy, batch_size=12, steps=6, precision=precision)
    assert half.status == "ok", half.message
    assert half.scores["nll"] != full.scores["nll"]
    assert half.scores["nll"] == pytest.approx(full.scores["nll"], abs=0.1)
    assert half.identity["recipe"]["precision"] == precision
    assert "precision" not in full.identity["recipe"]


def test_losses_are_taken_in_float32_and_stages_run_in_half(tiny_run):
    seen = {}

    class Task(TinyTask):
        def loss(self, outputs, targets, *, plan=None, smoothing=0.0):
            seen["outputs"] = outputs.dtype
            return super().loss(outputs, targets, plan=plan, smoothing=smoothing)

    class Watch(ftbench.Strategy):
        name = "watch"

        def objective(self, forward):
            seen["features"] = forward.features.dtype
            return forward.loss

        def finish(self, model, data):
            seen["weights"] = {p.dtype for p in model.parameters()}

    assert tiny_run(Watch, task=Task, steps=2, precision="bfloat16").status == "ok"
    assert seen == {
        "outputs": torch.float32,
        "features": torch.bfloat16,
        "weights": {torch.float32},
    }


def test_gradients_come_back_in_their_own_scale_and_add_up():
    weight = nn.Parameter(torch.tensor([2.0, 3.0]))
    precision = Precision("float16", torch.device("cpu"))
    precision.backward(weight.square().sum(), [weight])
    assert torch.allclose(weight.grad, torch.tensor([4.0, 6.0]))
    precision.backward(weight.sum(), [weight])
    assert torch.allclose(weight.grad, torch.tensor([5.0, 7.0]))


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved():
    weight = nn.Parameter(torch.tensor([1.0]))
    precision = Precision("float16", torch.device("cpu"))
    before = precision._scale
    weight.grad = torch.tensor([float("inf")])
    assert not precision.allows_step([weight])
    assert (precision._scale, precision.skipped_steps) == (before / 2, 1)
    weight.grad = torch.tensor([1.0])
    for _ in range(2_000):
        assert precision.allows_step([weight])
    assert (precision._scale, precision.skipped_steps) == (before, 1)


def test_class_weights_reach_the_loss(tiny_run):
    plain = tiny_run("head-only", steps=20)
    balanced = tiny_run("head-only", steps=20, class_weights="balanced")
    assert balanced.status == "ok"
    assert balanced.scores != plain.scores

    class Unweighted(ftbench.Task):
        name = "unweighted"

    with pytest.raises(ftbench.FtbenchError, match="has no class weights; leave out"):
        Unweighted().fitted(None, class_weights="balanced")
