"""What is learned of a row: losses and scores against torch, scikit-learn and torchmetrics."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as peers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import ftbench
from ftbench import ops
from ftbench.columns import is_taken
from ftbench.scores.ranks import areas, mean
from ftbench.targets import Classes, Labels, Numbers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchmetrics' own, at import
    import torchmetrics.functional as metrics

NAMES = ("cat", "dog", "hen", "owl", "pig", "rat", "yak")


def drawn(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator) * 2
    return logits, torch.randint(columns, (rows,), generator=generator), generator


def scored(target, outputs, targets):
    """Return the scores of outcomes made in two batches, as a run makes them."""
    half = (len(targets) + 1) // 2
    parts = [target.outcomes(outputs[:half], targets[:half])]
    if half < len(targets):
        parts.append(target.outcomes(outputs[half:], targets[half:]))
    found = target.score({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    assert list(found) == [metric.name for metric in target.metrics]
    assert all(value is None or math.isfinite(value) for value in found.values())
    return found


@given(st.integers(0, 999), st.integers(2, 120), st.integers(2, 7))
def test_class_scores_are_scikit_learns(seed, rows, classes):
    logits, labels, _ = drawn(seed, rows, classes)
    found = scored(Classes(NAMES[:classes]), logits, labels)
    chosen, truth = logits.argmax(dim=1).numpy(), labels.numpy()
    for name, average in (
        ("macro_precision", "macro"),
        ("macro_recall", "macro"),
        ("macro_f1", "macro"),
    ):
        peer = getattr(peers, f"{name[6:]}_score")(truth, chosen, average=average, zero_division=0)
        assert found[name] == pytest.approx(peer), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is predicted and not there
        assert found["balanced_accuracy"] == pytest.approx(
            peers.balanced_accuracy_score(truth, chosen)
        )
    each = peers.precision_recall_fscore_support(
        truth, chosen, labels=range(classes), zero_division=np.nan
    )
    for of, values in zip(("precision", "recall", "f1"), each, strict=False):
        for name, value in zip(NAMES[:classes], values, strict=True):
            ours = found[f"{of}:{name}"]
            if ours is None:
                assert np.isnan(value)
            elif not np.isnan(value):
                assert ours == pytest.approx(value)
    if classes > 5:
        peer = peers.top_k_accuracy_score(truth, logits.numpy(), k=5, labels=range(classes))
        assert found["top5_accuracy"] == pytest.approx(peer)
    there = [k for k in range(classes) if 0 < (truth == k).sum() < rows]
    probability = logits.softmax(dim=1).numpy()
    each = [peers.roc_auc_score(truth == k, probability[:, k]) for k in there]
    assert found["macro_auroc"] == (pytest.approx(np.mean(each)) if each else None)


def test_classes_that_the_test_rows_lack_are_missing_and_not_zero():
    logits = torch.eye(3)[torch.tensor([0, 0, 1])] * 5
    found = scored(Classes(("a", "b", "c")), logits, torch.tensor([0, 1, 1]))
    assert found["recall:c"] is found["precision:c"] is found["f1:c"] is None
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    alone = scored(Classes(("a", "b")), torch.zeros(2, 2), torch.tensor([1, 1]))
    assert alone["macro_auroc"] is None


def test_equal_logits_count_in_the_order_in_which_one_is_predicted():
    names = tuple(f"class {i}" for i in range(10))
    found = scored(Classes(names), torch.zeros(10, 10), torch.arange(10))
    assert (found["accuracy"], found["top5_accuracy"]) == (0.1, 0.5)


@given(st.integers(0, 999), st.integers(1, 40), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_prediction_alone_has_rank_0(seed, rows, dtype):
    logits, labels, _ = drawn(seed, rows, 7)
    logits = logits.round().to(dtype)  # many ties
    found = Classes(NAMES).outcomes(logits, labels)
    assert torch.equal(found["rank"] == 0, found["predicted"] == labels)


@given(st.integers(0, 999), st.integers(2, 60), st.integers(1, 4), st.booleans())
def test_areas_are_scikit_learns_with_ties(seed, rows, columns, coarse):
    draws = np.random.default_rng(seed)
    scores = (
        draws.integers(0, 4, (rows, columns)).astype(float)
        if coarse
        else draws.random((rows, columns))
    )
    positive = draws.random((rows, columns)) < 0.4
    for k, area in enumerate(areas(scores, positive)):
        if 0 < positive[:, k].sum() < rows:
            assert area == pytest.approx(peers.roc_auc_score(positive[:, k], scores[:, k]))
        else:
            assert area is None


def test_many_columns_are_ranked_in_parts(monkeypatch):
    draws = np.random.default_rng(0)
    scores, positive = draws.random((50, 30)), draws.random((50, 30)) < 0.5
    whole = areas(scores, positive)
    monkeypatch.setattr("ftbench.scores.ranks._AT_ONCE", 100)
    assert areas(scores, positive) == whole
    assert mean([None, 1.0, 0.0]) == 0.5
    assert mean([None]) is None


def test_beyond_twenty_classes_none_has_scores_of_its_own():
    names = tuple(f"class {i}" for i in range(21))
    assert not [m for m in Classes(names).metrics if ":" in m.name]
    assert len([m for m in Classes(names[:20]).metrics if m.name.startswith("f1:")]) == 20
    for metric in Classes((*NAMES, "a, b", "ünï")).metrics:
        assert not is_taken(metric.name)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_weights_are_scikit_learns_and_the_loss_torchs(smoothing):
    logits, _, _ = drawn(1, 40, 3)
    labels = torch.tensor([0] * 25 + [1] * 10 + [2] * 5)
    found = Classes(NAMES[:3]).fitted(labels, class_weights="balanced")
    from sklearn.utils.class_weight import compute_class_weight

    peer = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert found.weights == pytest.approx(tuple(peer))
    expected = F.cross_entropy(
        logits, labels, weight=torch.tensor(found.weights), label_smoothing=smoothing
    )
    assert found.loss(logits, labels, plan=None, smoothing=smoothing) == pytest.approx(
        float(expected)
    )
    assert Classes(NAMES[:3]).fitted(labels) == Classes(NAMES[:3])
    few = Classes(NAMES[:4]).fitted(labels, class_weights="balanced")
    assert few.weights[3] == 0.0


def test_class_weights_are_not_rounded_to_the_precision_of_the_logits():
    logits, labels, _ = drawn(5, 30, 3)
    target = Classes(NAMES[:3], weights=(1.003, 0.501, 3.007))
    coarse = logits.bfloat16()
    expected = F.cross_entropy(coarse.float(), labels, weight=torch.tensor(target.weights))
    found = target.loss(coarse, labels, plan=None, smoothing=0.0)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_task_weighs_its_classes_and_not_its_strata(tiny):
    class Finer(ftbench.TensorExamples):
        @property
        def strata(self):
            return np.arange(len(self)) % 7

    labels = torch.tensor([0] * 300 + [1] * 30 + [2] * 10)
    rows = Finer(torch.zeros(340, 1), labels)
    weights = Classes(NAMES[:3]).fitted(labels, class_weights="balanced").weights
    fitted = tiny.task().fitted(rows, class_weights="balanced")
    logits, _, _ = drawn(6, 340, 3)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor(weights))
    assert float(fitted.loss(logits, labels)) == pytest.approx(float(expected))
    assert float(tiny.task().loss(logits, labels)) != pytest.approx(float(expected))


def test_a_mixed_batch_weighs_each_label_by_its_share():
    logits, labels, _ = drawn(2, 8, 3)
    target = Classes(NAMES[:3], weights=(1.0, 2.0, 0.5))
    plan = ops.sample_mix(8, 4, 4, mixup_alpha=1.0, seed=0, step=0)
    share, weight = plan.label_weight, torch.tensor(target.weights)
    each = F.cross_entropy(logits, labels, reduction="none") * weight[labels]
    others = (
        F.cross_entropy(logits, labels[plan.partner], reduction="none")
        * weight[labels[plan.partner]]
    )
    above = (share * each + (1 - share) * others).sum()
    below = (share * weight[labels] + (1 - share) * weight[labels[plan.partner]]).sum()
    found = target.loss(logits, labels, plan=plan, smoothing=0.0)
    assert float(found) == pytest.approx(float(above / below), rel=1e-5)


def test_what_stays_of_classes_is_small_and_gives_the_confusion_counts():
    logits, labels, _ = drawn(3, 50, 7)
    target = Classes(NAMES)
    kept = target.kept(target.outcomes(logits, labels))
    dtypes = {name: str(values.dtype).removeprefix("torch.") for name, values in kept.items()}
    assert dtypes.pop("correct") == "bool"
    assert dtypes == {"nll": "float16", "label": "uint8", "predicted": "uint8"}
    assert torch.equal(kept["label"].long(), labels)
    assert torch.equal(kept["predicted"].long(), logits.argmax(dim=1))
    assert target.predictions(logits, labels)["log_probabilities"].dtype == torch.float16


@given(st.integers(0, 999), st.integers(2, 60), st.integers(1, 5))
def test_label_scores_are_scikit_learns_and_torchmetrics(seed, rows, labels):
    logits, _, generator = drawn(seed, rows, labels)
    truth = (torch.rand(rows, labels, generator=generator) < 0.4).to(torch.int8)
    found = scored(Labels(NAMES[:labels]), logits, truth)
    chosen, there = (logits > 0).int().numpy(), truth.numpy()
    assert found["hamming_loss"] == pytest.approx(float(np.mean(chosen != there)))
    assert found["exact_match"] == pytest.approx(float((chosen == there).all(axis=1).mean()))
    if (chosen | there).any():
        peer = peers.f1_score(there.ravel(), chosen.ravel(), zero_division=0)
        assert found["micro_f1"] == pytest.approx(peer)
    with_rows = [k for k in range(labels) if there[:, k].any()]
    each = [peers.average_precision_score(there[:, k], logits[:, k]) for k in with_rows]
    assert found["map"] == (pytest.approx(np.mean(each)) if each else None)
    if len(with_rows) == labels and labels > 1:
        peer = metrics.classification.multilabel_average_precision(logits, truth.int(), labels)
        assert found["map"] == pytest.approx(float(peer), abs=1e-5)
    assert found["bce"] == pytest.approx(
        float(F.binary_cross_entropy_with_logits(logits, truth.float())), rel=1e-5
    )


@given(st.integers(0, 999), st.integers(20, 60), st.integers(2, 5))
def test_means_over_labels_and_the_precision_of_each_are_scikit_learns(seed, rows, labels):
    logits, _, generator = drawn(seed, rows, labels)
    truth = (torch.rand(rows, labels, generator=generator) < 0.4).to(torch.int8)
    truth[0], truth[1] = 0, 1  # each label is there, and is not
    found = scored(Labels(NAMES[:labels]), logits, truth)
    chosen, there = (logits > 0).int().numpy(), truth.numpy()
    assert found["macro_f1"] == pytest.approx(
        peers.f1_score(there, chosen, average="macro", zero_division=0)
    )
    assert found["macro_auroc"] == pytest.approx(
        peers.roc_auc_score(there, logits.numpy(), average="macro")
    )
    each = peers.average_precision_score(there, logits.numpy(), average=None)
    assert [found[f"ap:{name}"] for name in NAMES[:labels]] == pytest.approx(list(each))


def test_labels_that_no_row_has_are_missing_and_not_zero():
    target = Labels(("a", "b"))
    found = scored(target, torch.tensor([[-1.0, -1.0]]), torch.tensor([[0, 0]]))
    missing = {name for name, value in found.items() if value is None}
    assert missing == {"map", "macro_auroc", "micro_f1", "macro_f1", "ap:a", "ap:b"}
    assert found["exact_match"] == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("target", [Classes(NAMES[:2]), Labels(NAMES[:2]), Numbers(NAMES[:2])])
def test_outputs_of_a_diverged_model_have_scores_that_are_not_finite(target, value):
    outputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    outputs[2, 1] = value
    truth = torch.tensor([0, 1] * 3) if isinstance(target, Classes) else torch.eye(2).repeat(3, 1)
    found = target.score(target.outcomes(outputs, truth))
    assert not all(score is None or math.isfinite(score) for score in found.values())


def test_what_stays_of_labels_is_small():
    logits, _, generator = drawn(4, 20, 3)
    truth = (torch.rand(20, 3, generator=generator) < 0.4).to(torch.int8)
    target = Labels(NAMES[:3])
    kept = target.kept(target.outcomes(logits, truth))
    dtypes = {name: str(values.dtype).removeprefix("torch.") for name, values in kept.items()}
    assert dtypes == {"loss": "float16", "label": "bool", "predicted": "bool"}
    assert torch.equal(kept["label"], truth > 0)
    assert torch.equal(kept["predicted"], logits > 0)


def test_label_losses_are_torchs_with_weights_smoothing_and_mixing():
    logits, _, generator = drawn(0, 20, 4)
    truth = (torch.rand(20, 4, generator=generator) < 0.3).to(torch.int8)
    truth[0] = 1
    found = Labels(NAMES[:4]).fitted(truth, class_weights="balanced")
    counts = truth.sum(dim=0).double()
    assert found.weights == pytest.approx(((20 - counts) / counts).tolist())
    expected = F.binary_cross_entropy_with_logits(
        logits, truth.float() * 0.9 + 0.05, pos_weight=torch.tensor(found.weights)
    )
    assert float(found.loss(logits, truth, plan=None, smoothing=0.1)) == pytest.approx(
        float(expected)
    )
    plan = ops.sample_mix(20, 4, 4, mixup_alpha=1.0, seed=0, step=0)
    share = plan.label_weight[:, None]
    mixed = share * truth + (1 - share) * truth[plan.partner]
    expected = F.binary_cross_entropy_with_logits(logits, mixed)
    found = Labels(NAMES[:4]).loss(logits, truth, plan=plan, smoothing=0.0)
    assert float(found) == pytest.approx(float(expected))


@given(st.integers(0, 999), st.integers(2, 60), st.integers(1, 3))
def test_number_scores_are_scikit_learns(seed, rows, count):
    outputs, _, generator = drawn(seed, rows, count)
    truth = torch.randn(rows, count, generator=generator) * 30 + 100
    target = Numbers(NAMES[:count]).fitted(truth)
    found = scored(target, outputs, truth)
    predicted = outputs.double() * torch.tensor(target.spreads) + torch.tensor(target.means)
    assert found["mse"] == pytest.approx(peers.mean_squared_error(truth, predicted), rel=1e-4)
    assert found["rmse"] == pytest.approx(math.sqrt(found["mse"]))
    assert found["mae"] == pytest.approx(peers.mean_absolute_error(truth, predicted), rel=1e-4)
    assert found["r2"] == pytest.approx(peers.r2_score(truth, predicted), rel=1e-3, abs=1e-3)
    if count > 1:
        each = peers.r2_score(truth, predicted, multioutput="raw_values")
        errors = peers.mean_squared_error(truth, predicted, multioutput="raw_values") ** 0.5
        assert [found[f"rmse:{n}"] for n in NAMES[:count]] == pytest.approx(list(errors), rel=1e-4)
        assert [found[f"r2:{n}"] for n in NAMES[:count]] == pytest.approx(
            list(each), rel=1e-3, abs=1e-3
        )


def test_numbers_are_learned_in_units_of_their_spread_in_the_training_rows():
    truth = torch.tensor([[10.0, 5.0], [30.0, 5.0]])
    target = Numbers(("a", "b")).fitted(truth)
    assert (target.means, target.spreads) == ((20.0, 5.0), (10.0, 1.0))
    perfect = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert float(target.loss(perfect, truth, plan=None, smoothing=0.0)) == 0.0
    assert torch.equal(target.outcomes(perfect, truth)["predicted"], truth)
    found = scored(target, perfect, truth)
    assert (found["rmse"], found["r2:a"], found["r2:b"], found["r2"]) == (0.0, 1.0, None, 1.0)
    plan = ops.sample_mix(2, 4, 4, mixup_alpha=1.0, seed=1, step=3)
    share = plan.label_weight[:, None]
    mixed = share * perfect + (1 - share) * perfect[plan.partner]
    assert float(target.loss(mixed, truth, plan=plan, smoothing=0.0)) == pytest.approx(
        0.0, abs=1e-12
    )


def test_equal_numbers_have_spread_1_whatever_their_mean_is_rounded_to():
    equal = torch.full((7,), 0.1, dtype=torch.float64)
    assert float(equal.std(correction=0)) > 0
    assert Numbers(("a",)).fitted(equal).spreads == (1.0,)


def test_numbers_refuse_class_weights():
    with pytest.raises(ftbench.FtbenchError, match=r"numbers \(a\) have no class weights; leave"):
        Numbers(("a",)).fitted(torch.tensor([1.0, 3.0]), class_weights="balanced")


def test_one_number_may_come_as_a_column_or_not():
    target = Numbers(("a",)).fitted(torch.tensor([1.0, 3.0]))
    outputs, truth = torch.tensor([[0.5], [0.5]]), torch.tensor([1.0, 3.0])
    flat = target.loss(outputs, truth, plan=None, smoothing=0.0)
    assert float(flat) == float(target.loss(outputs, truth[:, None], plan=None, smoothing=0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [Classes(NAMES[:3]), Labels(NAMES[:3]), Numbers(NAMES[:3])])
def test_half_precision_outputs_are_taken(dtype, target):
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    truth = (
        torch.tensor([0, 1, 2] * 2) if isinstance(target, Classes) else torch.eye(3).repeat(2, 1)
    )
    assert target.loss(outputs, truth, plan=None, smoothing=0.0).dtype == torch.float32
    assert scored(target, outputs, truth)
