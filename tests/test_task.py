import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.ops import MixPlan


@pytest.fixture
def data():
    return ftbench.TensorExamples(torch.arange(20.0).view(10, 2), torch.arange(10) % 3)


def test_a_batch_holds_the_rows_asked_for_in_that_order(data):
    batch = data.batch(np.array([7, 0, 7]))
    assert batch.inputs.tolist() == [[14, 15], [0, 1], [14, 15]]
    assert batch.targets.tolist() == [1, 0, 1]
    assert len(data) == 10


def test_rows_may_be_a_reversed_view(data):
    assert data.batch(np.arange(10)[::-3]).targets.tolist() == [0, 0, 0, 0]
    assert data.batch(np.arange(10)[::-3]).inputs[:, 0].tolist() == [18, 12, 6, 0]


def test_a_subset_renumbers_rows_and_shares_no_memory(data):
    chosen = data.subset(np.array([9, 1]))
    assert chosen.strata.tolist() == [0, 1]
    assert chosen.batch(np.array([1])).inputs.tolist() == [[2, 3]]
    chosen.inputs.zero_()
    assert data.inputs[9].tolist() == [18, 19]


def test_fingerprints_tell_values_shapes_types_and_order_apart():
    zeros, ones = np.zeros((2, 3)), np.ones(2)
    variants = [
        (zeros, ones), (ones, zeros), (zeros,), (zeros.reshape(3, 2), ones),
        (zeros.astype(np.float32), ones), (zeros, np.array([1.0, 2.0])),
    ]  # fmt: skip
    found = [ftbench.data_fingerprint(*arrays) for arrays in variants]
    assert len(set(found)) == len(variants)
    assert ftbench.data_fingerprint(zeros.copy(), ones.copy()) == found[0]
    assert ftbench.data_fingerprint(np.asfortranarray(zeros), ones) == found[0]
    assert len(found[0]) == 64


def test_a_head_is_drawn_from_the_seed_alone_within_its_bound(tiny):
    task = tiny.task()
    torch.manual_seed(0)
    head = task.head(400, dropout=0.0, seed=3)
    torch.manual_seed(1)
    again, other = task.head(400, dropout=0.0, seed=3), task.head(400, dropout=0.0, seed=4)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (400, 3)
    assert torch.equal(head.weight, again.weight)
    assert torch.equal(head.bias, again.bias)
    assert not torch.equal(head.weight, other.weight)
    weights = head.weight.detach()
    assert weights.abs().max() <= 1 / 20
    # A uniform's mean is 0 and its deviation bound/√3; 1,200 draws come near both.
    assert abs(weights.mean()) < 0.004
    assert weights.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.06)


def test_dropout_stands_in_front_of_the_same_head(tiny):
    bare = tiny.task().head(8, dropout=0.0, seed=3)
    dropout, linear = tiny.task().head(8, dropout=0.4, seed=3)
    assert dropout.p == 0.4
    assert torch.equal(linear.weight, bare.weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(tiny, smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    found = tiny.task().loss(logits, labels, smoothing=smoothing)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_a_mixed_batch_weighs_both_labels(tiny):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    empty = torch.zeros(2, 4, dtype=torch.int32)
    plan = MixPlan(torch.tensor([1, 0]), torch.tensor([0.75, 0.75]), empty, 8, 8)
    soft = torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75]])
    found = tiny.task().loss(logits, labels, plan=plan)
    torch.testing.assert_close(found, F.cross_entropy(logits, soft))


def test_scores_are_those_that_the_metrics_name(tiny):
    scores = tiny.task().score(torch.eye(3) * 50, torch.tensor([0, 1, 0]))
    assert set(scores) == {metric.name for metric in tiny.task.metrics}
    assert scores["accuracy"] == pytest.approx(2 / 3)


def test_a_task_has_no_source_unless_it_says_so():
    assert ftbench.Task.source(ftbench.Task.__new__(ftbench.Task)) is None


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("pool", {}),
        ("test", {}),
        ("fingerprint", {}),
        ("head", {"features": 2, "dropout": 0, "seed": 0}),
        ("loss", {"outputs": None, "targets": None}),
        ("score", {"outputs": None, "targets": None}),
    ],
)
def test_a_task_says_which_method_it_lacks(method, arguments):
    class Bare(ftbench.Task):
        name = "bare"

    with pytest.raises(NotImplementedError, match=rf"task 'bare' must define {method}\(\)"):
        getattr(Bare(), method)(**arguments)
