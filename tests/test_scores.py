import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ftbench import scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchmetrics' own, at import
    import torchmetrics.functional.classification as peers


def scored(logits, labels):
    """Return the scores of the outcomes of two batches, as a run makes them."""
    half = (len(labels) + 1) // 2
    parts = [scores.class_outcomes(logits[:half], labels[:half])]
    if half < len(labels):
        parts.append(scores.class_outcomes(logits[half:], labels[half:]))
    return scores.classification_scores({n: torch.cat([p[n] for p in parts]) for n in parts[0]})


def predictions(seed, rows, classes, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * spread
    return logits, torch.randint(classes, (rows,), generator=generator)


@given(
    st.integers(0, 999), st.integers(1, 200), st.integers(2, 12), st.sampled_from([0.1, 1.0, 8.0])
)
@example(103, 2, 2, 8.0)  # one of the two is 1 in float32
def test_scores_agree_with_torchmetrics(seed, rows, classes, spread):
    logits, labels = predictions(seed, rows, classes, spread)
    found = scored(logits, labels)
    # A probability that rounds to 1 has a bin of its own there.
    probability = logits.double().softmax(dim=1).clamp(max=1 - 1e-12)
    peer = {
        "accuracy": peers.multiclass_accuracy(logits, labels, classes, average="micro"),
        "macro_f1": peers.multiclass_f1_score(logits, labels, classes, average="macro"),
        "nll": torch.nn.functional.cross_entropy(logits, labels),
        "ece": peers.multiclass_calibration_error(
            probability, labels, classes, n_bins=15, norm="l1"
        ),
    }
    assert found.keys() == peer.keys()
    assert found == pytest.approx({k: float(v) for k, v in peer.items()}, rel=1e-5, abs=1e-6)


def test_scores_agree_with_scikit_learn():
    logits, labels = predictions(0, 300, 5, 2.0)
    chosen, probability = logits.argmax(dim=1), logits.double().softmax(dim=1)
    found = scored(logits, labels)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, chosen))
    report = sklearn.metrics.classification_report(labels, chosen, output_dict=True)
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(labels, probability))


def test_scores_are_plain_floats_that_json_can_hold():
    found = scored(*predictions(1, 20, 3, 1.0))
    assert {type(value) for value in found.values()} == {float}


def test_macro_f1_by_hand_weighs_rare_classes_like_common_ones():
    logits = torch.eye(3)[[0, 0, 0, 0, 1, 0]] * 9
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    expected = (2 * (4 / 5) / (4 / 5 + 1) + 1 + 0) / 3
    assert scored(logits, labels)["macro_f1"] == pytest.approx(expected)


def test_confident_right_predictions_have_no_loss_and_no_calibration_error():
    logits = torch.eye(4)[[0, 1, 2, 3]] * 1000
    found = scored(logits, torch.arange(4))
    assert found == pytest.approx({"accuracy": 1, "macro_f1": 1, "nll": 0, "ece": 0})


def test_uniform_predictions_have_the_entropy_of_the_classes_as_loss():
    found = scored(torch.zeros(10, 8), torch.arange(10) % 8)
    assert found["nll"] == pytest.approx(math.log(8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_computed_in_float64_from_logits_of_any_precision(dtype):
    logits, labels = predictions(3, 100, 4, 3.0)
    coarse = logits.to(dtype)
    found = scored(coarse, labels)
    assert found["nll"] == pytest.approx(
        sklearn.metrics.log_loss(labels, coarse.double().softmax(dim=1)), rel=1e-12
    )


def test_logits_far_apart_give_a_large_finite_loss():
    found = scored(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]))
    assert found["nll"] == pytest.approx(2000)


def test_calibration_error_weighs_bins_by_their_rows():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    correct = np.array([True, True, True, False, False])
    expected = 4 / 5 * abs(0.75 - 0.95) + 1 / 5 * 0.55
    assert scores.expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_over_and_under_confidence_in_one_bin_cancel_but_not_across_bins():
    confidence = np.array([0.9, 0.9, 0.6, 0.6])
    correct = np.array([True, False, True, True])
    assert scores.expected_calibration_error(confidence, correct) == pytest.approx(0.4)
    assert scores.expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0)


@given(
    st.lists(st.tuples(st.floats(1e-9, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 20),
)
@example([(0.5, True), (0.4, False)], 2)
def test_calibration_error_is_the_definition_with_bins_closed_on_the_right(rows, bins):
    expected = 0.0
    for b in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[b : b + 2]
        inside = [(c, right) for c, right in rows if low < c <= high]
        if inside:
            confidence, accuracy = np.mean([c for c, _ in inside]), np.mean([r for _, r in inside])
            expected += len(inside) / len(rows) * abs(accuracy - confidence)
    confidences = np.array([c for c, _ in rows])
    correct = np.array([right for _, right in rows])
    found = scores.expected_calibration_error(confidences, correct, bins=bins)
    assert found == pytest.approx(expected, abs=1e-9)
