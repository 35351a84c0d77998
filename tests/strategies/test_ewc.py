import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.recipes.optimizers import AdamW
from ftbench.strategies.ewc import EWC, EWCOptions
from ftbench.train.optimizer import build_optimizer
from tests.support import data_of


@pytest.fixture
def source(tiny):
    """The tiny source task as a strategy sees it, and a model with a new head."""
    backbone = tiny.backbone().build(pretrained=True)
    model = ftbench.Model(backbone.stages, tiny.task().head(ftbench.Offer("pooled", (8,)), seed=0))
    return model, ftbench.Source(tiny.task().source().samples, backbone.source_head)


def fisher_by_hand(model, source, labels, count):
    """Return the mean squared gradient of the source task's log-loss, one sample at a time."""
    whole = nn.Sequential(*model.stages, source.head).eval()
    shared = list(model.stages.parameters())
    total = [torch.zeros_like(p, dtype=torch.float64) for p in shared]
    for row in range(count):
        logits = whole(source.samples.inputs[row : row + 1])
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels[row : row + 1]), shared)
        for accumulated, gradient in zip(total, gradients, strict=True):
            accumulated += gradient.double() ** 2
    return [accumulated / count for accumulated in total]


def anchored_strengths(strategy, model):
    penalty = strategy.penalty(model)
    assert [id(p) for p in penalty.parameters] == [id(p) for p in model.stages.parameters()]
    return penalty.strength


@pytest.mark.parametrize("samples", [24, 10, 1000])
def test_the_empirical_fisher_is_measured_sample_by_sample_with_the_source_head(source, samples):
    model, seen = source
    strategy = EWC(EWCOptions(fisher="empirical", samples=samples, strength=7.0))
    strategy.prepare(model, data_of(seen))
    expected = fisher_by_hand(model, seen, seen.samples.targets, min(samples, 24))
    assert max(float(e.max()) for e in expected) > 1e-3
    for found, fisher in zip(anchored_strengths(strategy, model), expected, strict=True):
        torch.testing.assert_close(found.double(), 7 * fisher, rtol=1e-4, atol=1e-7)


def test_the_true_fisher_is_that_of_the_library(source):
    model, seen = source
    strategy = EWC(EWCOptions(strength=2.0))
    strategy.prepare(model, data_of(seen))
    whole = nn.Sequential(*model.stages, seen.head)
    names = [name for name, _ in whole.named_parameters() if not name.startswith("3.")]
    fisher = ftbench.diagonal_fisher(whole, seen.samples.inputs, parameters=names)
    for found, name in zip(anchored_strengths(strategy, model), names, strict=True):
        torch.testing.assert_close(found, 2 * fisher[name])


def test_the_true_fisher_draws_labels_from_the_models_own_prediction(source):
    model, seen = source
    with torch.no_grad():
        seen.head.weight.mul_(4)  # sure of itself, so that it rarely draws an unlikely label
    # The expectation over labels, exactly; each sample is there 20 times, to draw 20 labels.
    whole = nn.Sequential(*model.stages, seen.head).eval()
    shared, expected, kept = list(model.stages.parameters()), 0.0, seen.samples.inputs
    for row in range(24):
        log_probability = whole(kept[row : row + 1]).log_softmax(dim=1)[0]
        for label in range(4):
            gradients = torch.autograd.grad(-log_probability[label], shared, retain_graph=True)
            square = sum(gradient.square().sum().item() for gradient in gradients)
            expected += log_probability[label].exp().item() * square / 24
    unlikely = whole(kept).argmin(dim=1)
    many = ftbench.TensorExamples(kept.repeat(20, 1, 1, 1), unlikely.repeat(20))
    traces = {}
    for kind in ("true", "empirical"):
        strategy = EWC(EWCOptions(strength=1.0, fisher=kind))
        strategy.prepare(model, data_of(ftbench.Source(many, seen.head)))
        traces[kind] = sum(s.sum().item() for s in anchored_strengths(strategy, model))
    assert traces["true"] == pytest.approx(expected, rel=0.2)
    assert traces["empirical"] > 1.5 * expected


def test_the_penalty_is_zero_at_the_start_and_follows_the_formula_after(source):
    model, seen = source
    strategy = EWC(EWCOptions(fisher="empirical", strength=50.0))
    strategy.prepare(model, data_of(seen))
    assert strategy.penalty(model).value().item() == 0
    fisher = fisher_by_hand(model, seen, seen.samples.targets, 24)
    torch.manual_seed(0)
    expected = 0.0
    with torch.no_grad():
        for parameter, f in zip(model.stages.parameters(), fisher, strict=True):
            gap = torch.randn_like(parameter)
            parameter += gap
            expected += 25 * float((f * gap.double() ** 2).sum())
    assert strategy.penalty(model).value().item() == pytest.approx(expected, rel=1e-3)


def test_measuring_the_fisher_leaves_the_model_as_it_was(source):
    model, seen = source
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    EWC().prepare(model, data_of(seen))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_a_source_it_is_refused_with_a_way_out(source):
    model, _ = source
    with pytest.raises(ftbench.FtbenchError, match=r"ewc needs a source task.*; l2sp holds"):
        EWC().prepare(model, data_of())


def test_a_run_without_a_source_fails_with_that_message(tiny, tiny_run):
    class Alone(tiny.Task):
        def source(self):
            return None

    record = tiny_run("ewc(fisher_data='source')", task=Alone)
    assert (record.status, record.scores) == ("failed", {})
    assert "ewc(fisher_data='source') needs a source task" in record.message


def test_without_a_source_the_fisher_is_of_the_source_head_on_the_training_inputs(tiny, tiny_run):
    class Alone(tiny.Task):
        def source(self):
            return None

    record = tiny_run("ewc", task=Alone)
    assert record.status == "ok"
    assert record.protocol["remark"] == (
        "its Fisher is of the source head's predictions on the training inputs"
    )
    assert tiny_run("ewc").protocol["remark"] == ""
    # The source's own samples can be left aside, too.
    alike = tiny_run("ewc(fisher_data='training')")
    assert alike.scores["accuracy"] == record.scores["accuracy"]
    assert alike.protocol["remark"] == record.protocol["remark"]


def test_without_source_and_head_or_with_labels_that_nobody_has_it_fails(tiny, tiny_run):
    class Alone(tiny.Task):
        def source(self):
            return None

    class Headless(tiny.Backbone):
        def build(self, *, pretrained):
            return dataclasses.replace(super().build(pretrained=pretrained), source_head=None)

    record = tiny_run("ewc", task=Alone, backbone=Headless)
    assert "the weights bring no head" in record.message
    record = tiny_run("ewc(fisher='empirical')", task=Alone)
    assert "needs labels of the source task" in record.message


def test_only_the_head_takes_weight_decay(source):
    model, _ = source
    optimizer = build_optimizer(model, EWC(), 0.5, AdamW())
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert [id(p) for p in decayed] == [id(model.head.weight)]


@pytest.mark.slow
def test_letters_are_kept_better_than_by_full_fine_tuning(tmp_path):
    # A rate at which full fine-tuning forgets, and a pull that holds against it.
    recipe = {"steps": 40, "batch_size": 32, "learning_rate": 1e-3}
    strategies = ("full", "ewc(strength=100.0)")
    spec = ftbench.SweepSpec(
        strategies=strategies, sizes=(50,), seeds=(0,), device="cpu", recipe=recipe
    )
    ftbench.run_sweep(spec, tmp_path)
    results = ftbench.load_results(tmp_path).set_index("strategy_name")
    kept = results["source_accuracy_after"]
    assert results.loc["full", "source_accuracy_before"] > 0.9
    assert kept["ewc"] > kept["full"] + 0.1
    assert results.loc["ewc", "accuracy"] > results.loc["full", "accuracy"] - 0.1


def test_a_source_without_samples_is_an_error_that_names_it(tiny, tiny_run):
    class Forgets(tiny.Task):
        def source(self):
            source = super().source()
            none = source.samples.subset(np.arange(0))
            return ftbench.SourceTask(source.name, none, source.held_out)

    record = tiny_run("ewc", task=Forgets)
    assert record.status == "failed"
    assert record.message.startswith("ewc needs source samples: the task's source().samples holds")
    assert not record.traceback
