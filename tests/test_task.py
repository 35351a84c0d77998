import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.cli import sweeping
from ftbench.ops import MixPlan
from ftbench.run import run_one
from ftbench.sweep import expand
from ftbench.task import pool_strata
from tests.support import tiny_sweep
from tests.tiny import TinyPlugin


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
    wide = ftbench.Offer("pooled", (400,))
    head = task.head(wide, seed=3)
    torch.manual_seed(1)
    again, other = task.head(wide, seed=3), task.head(wide, seed=4)
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
    task = tiny.task()
    scores = task.score(task.outcomes(torch.eye(3) * 50, torch.tensor([0, 1, 0])))
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
        ("head", {"offer": ftbench.Offer("pooled", (2,)), "seed": 0}),
        ("loss", {"outputs": None, "targets": None}),
        ("outcomes", {"outputs": None, "targets": None}),
        ("score", {"outcomes": {}}),
    ],
)
def test_a_task_says_which_method_it_lacks(method, arguments):
    class Bare(ftbench.Task):
        name = "bare"

    with pytest.raises(NotImplementedError, match=rf"task 'bare' must define {method}\(\)"):
        getattr(Bare(), method)(**arguments)


# Labels and rows that are not what a task must have: named when a sweep is planned.


class Rows:
    """Examples that are no TensorExamples, with strata of the test."""

    def __init__(self, strata, rows=60):
        self.strata, self.rows = strata, rows

    def __len__(self):
        return self.rows


IMAGES, LABELS = torch.zeros(60, 1, 8, 8), torch.arange(60) % 3
INTEGERS = r"expected \(60,\) integers, one class for each of its 60 rows"
POOLS = {
    "one-hot": (
        ftbench.TensorExamples(IMAGES, F.one_hot(LABELS)),
        rf"pool\(\) has targets of shape \(60, 3\) and dtype torch.int64; {INTEGERS}; .*argmax",
    ),
    "soft": (
        ftbench.TensorExamples(IMAGES, F.one_hot(LABELS).float()),
        rf"targets of shape \(60, 3\) and dtype torch.float32; {INTEGERS}; .*argmax\(dim=1\)",
    ),
    "a column": (
        ftbench.TensorExamples(IMAGES, LABELS[:, None]),
        rf"targets of shape \(60, 1\) and dtype torch.int64; {INTEGERS}",
    ),
    "floats": (
        ftbench.TensorExamples(IMAGES, LABELS.float()),
        rf"targets of shape \(60,\) and dtype torch.float32; {INTEGERS}",
    ),
    "bfloat16": (
        ftbench.TensorExamples(IMAGES, LABELS.bfloat16()),
        rf"targets of shape \(60,\) and dtype torch.bfloat16; {INTEGERS}",
    ),
    "short integers": (
        ftbench.TensorExamples(IMAGES, LABELS.int()),
        r"targets of dtype torch.int32; expected torch.int64, so convert them with .long\(\)",
    ),
    "bools": (ftbench.TensorExamples(IMAGES, LABELS > 1), r"dtype (torch\.)?bool; expected"),
    "strings": (
        ftbench.TensorExamples(IMAGES, ["a", "b", "c"] * 20),
        r"targets are a list, expected a tensor \(N,\) int64",
    ),
    "an array": (
        ftbench.TensorExamples(IMAGES, LABELS.numpy()),
        r"targets are a ndarray, expected a tensor",
    ),
    "from 1": (
        ftbench.TensorExamples(IMAGES, LABELS + 1),
        r"targets of pool\(\) hold 3; expected classes 0 to 2, so number them from 0",
    ),
    "negative": (ftbench.TensorExamples(IMAGES, LABELS - 1), r"hold -1; expected classes 0 to 2"),
    "one class": (
        ftbench.TensorExamples(IMAGES, torch.ones(60, dtype=torch.int64)),
        r"every row of pool\(\) is of class 1; classification needs rows of two classes",
    ),
    "empty": (
        ftbench.TensorExamples(IMAGES[:0], LABELS[:0]),
        r"pool\(\) holds no rows; it must return at least one",
    ),
    "one-hot strata": (
        Rows(np.eye(60)),
        rf"strata of shape \(60, 60\) and dtype float64; {INTEGERS}; .*argmax",
    ),
    "strata of strings": (Rows(np.array(["a"] * 60)), rf"strata of .*dtype <U1; {INTEGERS}"),
    "strata of another length": (Rows(np.arange(59)), rf"strata of shape \(59,\) .*{INTEGERS}"),
    "strata of floats": (Rows(np.arange(60.0)), rf"strata of .*dtype float64; {INTEGERS}"),
}


@pytest.mark.parametrize("case", POOLS)
def test_a_pool_that_is_not_usable_is_named_when_a_sweep_is_planned(tiny, tmp_path, case):
    examples, message = POOLS[case]

    class Odd(tiny.Task):
        def pool(self):
            return examples

        def fingerprint(self):
            return "fixed"

    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=Odd)})
    with pytest.raises(ftbench.FtbenchError, match=rf"task 'tiny'.*{message}"):
        ftbench.run_sweep(tiny_sweep(), tmp_path / "out", catalogue=catalogue)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ["pool", "test"])
@pytest.mark.parametrize(("inputs", "targets"), [(60, 50), (50, 60), (1, 0)])
def test_rows_without_a_label_are_named_when_a_sweep_is_planned(
    tiny, tmp_path, role, inputs, targets
):
    def uneven(self):
        return ftbench.TensorExamples(IMAGES[:inputs], LABELS[:targets])

    odd = type("Odd", (tiny.Task,), {role: uneven, "fingerprint": lambda self: "fixed"})
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=odd)})
    message = (
        rf"task 'tiny' of tiny: .*inputs hold {inputs} rows and targets {targets} rows; expected"
    )
    with pytest.raises(ftbench.FtbenchError, match=message):
        ftbench.run_sweep(tiny_sweep(), tmp_path / "out", catalogue=catalogue)


def test_examples_may_be_stratified_by_more_than_the_classes(tiny):
    class Finer(tiny.Task):
        def pool(self):
            return Rows(np.arange(60) % 7)

    class Unstratified(tiny.Task):
        def pool(self):
            return Rows(np.zeros(60, dtype=np.uint8))

    assert pool_strata(Finer()).values.max() == 6
    assert pool_strata(Unstratified()).values.tolist() == [0] * 60


def test_a_task_with_a_loss_of_its_own_may_label_as_it_likes(tiny):
    class Ignores(tiny.Task):
        def pool(self):
            return ftbench.TensorExamples(IMAGES, LABELS - 1)  # -1: no label

        def loss(self, outputs, targets, *, plan=None, smoothing=0.0):
            return F.cross_entropy(outputs, targets, ignore_index=-1)

    assert pool_strata(Ignores()).values.min() == -1


def nothing_to_test(tiny, **methods):
    def test(self):
        return ftbench.TensorExamples(IMAGES[:0], LABELS[:0])

    return type("Odd", (tiny.Task,), {"test": test, "fingerprint": lambda self: "x", **methods})


def test_an_empty_test_set_is_refused_when_a_sweep_is_planned(tiny, tmp_path):
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=nothing_to_test(tiny))})
    with pytest.raises(ftbench.FtbenchError, match=r"task 'tiny': test\(\) holds no rows; it mus"):
        ftbench.run_sweep(tiny_sweep(), tmp_path / "out", catalogue=catalogue)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_an_empty_test_set_as_well(tiny, tmp_path, monkeypatch):
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=nothing_to_test(tiny))})
    monkeypatch.setattr(sweeping, "load_catalogue", lambda: catalogue)
    changes = {"tasks": ["tiny"], "backbones": ["tiny-net"], "sizes": [12], "strategies": ["full"]}
    with pytest.raises(ftbench.FtbenchError, match=r"task 'tiny': test\(\) holds no rows"):
        sweeping.sweep(
            None, changes, tmp_path, retry=None, workers="0", shard=None, dry_run=True, quick=False
        )


def test_a_test_set_that_cannot_be_had_is_named_when_a_sweep_is_planned(tiny, tmp_path):
    def test(self):
        raise OSError("no such file")

    plugin = TinyPlugin(task=nothing_to_test(tiny, test=test))
    catalogue = ftbench.load_catalogue(extra={"tiny": plugin})
    with pytest.raises(ftbench.FtbenchError, match=r"task 'tiny' of tiny: OSError: no such file"):
        ftbench.run_sweep(tiny_sweep(), tmp_path / "out", catalogue=catalogue)


def test_planning_asks_the_test_set_for_its_length_and_nothing_else(tiny):
    class Closed:
        def __len__(self):
            return 30

    task = nothing_to_test(tiny, test=lambda self: Closed())
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=task)})
    assert len(expand(tiny_sweep(), catalogue)) == 2


def test_a_run_by_itself_says_that_there_is_nothing_to_score(tiny, tiny_run, tiny_spec):
    def fixed(self):
        return "x"

    planned = TinyPlugin(task=type("Odd", (tiny.Task,), {"fingerprint": fixed}))
    spec = tiny_spec(ftbench.load_catalogue(extra={"tiny": planned}))
    emptied = ftbench.load_catalogue(extra={"tiny": TinyPlugin(task=nothing_to_test(tiny))})
    record = run_one(spec, emptied, device="cpu")
    assert (record.status, record.scores) == ("failed", {})
    assert record.message.startswith("task 'tiny': test() holds no rows")

    class Forgets(tiny.Task):
        def source(self):
            source = super().source()
            return ftbench.SourceTask(
                source.name, source.samples, source.held_out.subset(np.arange(0))
            )

    assert tiny_run(task=Forgets).message.startswith("task 'tiny': source().held_out holds no rows")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            F.one_hot(LABELS[:6]),
            r"labels are a tensor of shape \(6, 3\) and dtype torch.int64; e.*",
        ),
        (LABELS[:6].float(), r"labels are .*dtype torch.float32; expected \(N,\) torch.int64"),
        (LABELS[:6].int(), r"labels are .*dtype torch.int32; expected \(N,\) torch.int64"),
        (LABELS[:5], r"there are 5 labels for 6 rows of inputs"),
        (["a"] * 6, r"labels are a list; expected \(N,\) torch.int64"),
    ],
)
@pytest.mark.parametrize("method", ["loss", "outcomes"])
def test_loss_and_score_name_labels_that_are_no_classes(tiny, method, labels, message):
    with pytest.raises(ftbench.FtbenchError, match=rf"task 'tiny': {message}"):
        getattr(tiny.task(), method)(torch.zeros(6, 3), labels)


@pytest.mark.parametrize("logits", [torch.zeros(6, 3, 2), torch.zeros(6), (torch.zeros(6, 3),)])
@pytest.mark.parametrize("method", ["loss", "outcomes"])
def test_loss_and_score_name_a_head_that_gives_no_logits(tiny, method, logits):
    with pytest.raises(ftbench.FtbenchError, match=r"'tiny': the head returned a .*; expected log"):
        getattr(tiny.task(), method)(logits, LABELS[:6])


def test_a_test_label_outside_the_classes_is_named_by_the_score(tiny):
    with pytest.raises(ftbench.FtbenchError, match=r"labels hold 3; expected classes 0 to 2"):
        tiny.task().outcomes(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]))
