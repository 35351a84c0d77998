import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import MixPlan, mixed_cross_entropy

PLAIN = {"rtol": 1e-5, "atol": 1e-6}


def make_plan(partner, weight, box=None, side=8):
    return MixPlan(
        torch.tensor(partner, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(box or [[0, 0, 0, 0]] * len(partner), dtype=torch.int32).reshape(-1, 4),
        side,
        side,
    )


def ordered(box):
    """Return [top, left, bottom, right) with no side inside out."""
    return *map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])


@st.composite
def batches(draw):
    """Logits, labels, and a plan that mixes, pastes, or both."""
    rows, classes = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    edge = st.integers(-2, 10)
    each = {"min_size": rows, "max_size": rows}
    plan = make_plan(
        draw(st.lists(st.integers(0, rows - 1), **each)),
        draw(st.lists(st.floats(0, 1, width=32), **each)),
        draw(st.lists(st.tuples(edge, edge, edge, edge).map(ordered), **each)),
    )
    logits = torch.randn(rows, classes, generator=generator) * draw(st.sampled_from([0.1, 1, 20]))
    return logits, torch.randint(classes, (rows,), generator=generator), plan


def soft_targets(labels, plan, classes):
    own = F.one_hot(labels, classes).double()
    weight = plan.label_weight.double().unsqueeze(1)
    return weight * own + (1 - weight) * own[plan.partner]


smoothings = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@given(batches(), smoothings)
def test_loss_is_torchs_with_soft_targets(batch, smoothing):
    logits, labels, plan = batch
    expected = F.cross_entropy(
        logits.double(),
        soft_targets(labels, plan, logits.shape[1]),
        label_smoothing=smoothing,
    )
    found = mixed_cross_entropy(logits, labels, plan, smoothing=smoothing)
    assert found.shape == ()
    torch.testing.assert_close(found.double(), expected, **PLAIN)


@given(batches(), smoothings, st.booleans())
def test_loss_without_a_plan_is_torchs_with_labels(batch, smoothing, weighted):
    logits, labels, _ = batch
    weight = torch.linspace(0.5, 2, logits.shape[1]) if weighted else None
    torch.testing.assert_close(
        mixed_cross_entropy(logits, labels, smoothing=smoothing, class_weight=weight),
        F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing),
        **PLAIN,
    )


@given(batches(), smoothings)
def test_class_weights_of_a_mixed_batch_average_over_the_mixed_weights(batch, smoothing):
    logits, labels, plan = batch
    classes = logits.shape[1]
    weight = np.linspace(0.5, 2, classes)
    target = soft_targets(labels, plan, classes).numpy()
    log_probability = logits.double().log_softmax(dim=1).numpy()
    smoothed = (1 - smoothing) * target + smoothing / classes
    expected = -(smoothed * weight * log_probability).sum() / (target * weight).sum()
    found = mixed_cross_entropy(
        logits, labels, plan, smoothing=smoothing, class_weight=torch.tensor(weight)
    )
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(batches(), smoothings)
def test_gradients_are_torchs_with_soft_targets(batch, smoothing):
    logits, labels, plan = batch
    own, peer = logits.clone().requires_grad_(), logits.double().requires_grad_()
    mixed_cross_entropy(own, labels, plan, smoothing=smoothing).backward()
    targets = soft_targets(labels, plan, logits.shape[1])
    F.cross_entropy(peer, targets, label_smoothing=smoothing).backward()
    torch.testing.assert_close(own.grad.double(), peer.grad, **PLAIN)


def test_gradients_pass_a_numerical_check():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    plan = make_plan([1, 2, 3, 4, 0], [0.2, 0.5, 0.9, 1, 0])
    weight = torch.linspace(0.5, 2, 4)
    assert torch.autograd.gradcheck(
        lambda x: mixed_cross_entropy(x, labels, plan, smoothing=0.1, class_weight=weight), logits
    )


def test_the_partners_label_is_scored_under_the_samples_own_prediction():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    loss = mixed_cross_entropy(logits, torch.tensor([0, 2]), make_plan([1, 1], [0.25, 1.0]))
    log_probability = logits.log_softmax(dim=1)
    expected = -(
        0.25 * log_probability[0, 0] + 0.75 * log_probability[0, 2] + log_probability[1, 2]
    )
    torch.testing.assert_close(loss, expected / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_scored_in_float32(dtype):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    plan = make_plan([5, 4, 3, 2, 1, 0], [0.123] * 6)
    found = mixed_cross_entropy(logits, labels, plan, smoothing=0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, mixed_cross_entropy(logits.float(), labels, plan, smoothing=0.1), rtol=0, atol=0
    )


def test_float64_logits_keep_their_precision():
    logits, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = mixed_cross_entropy(logits, labels)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels), rtol=1e-14, atol=0)


def test_logits_far_apart_give_a_large_finite_loss():
    logits = torch.tensor([[0.0, 1e4], [1e4, 0.0]])
    loss = mixed_cross_entropy(logits, torch.tensor([0, 0]), make_plan([1, 0], [0.5, 0.5]))
    assert loss.item() == pytest.approx(5e3)


def test_labels_and_logits_are_not_changed():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    kept = logits.clone(), labels.clone()
    mixed_cross_entropy(logits, labels, make_plan([1, 2, 0], [0.5] * 3), smoothing=0.1)
    assert torch.equal(logits, kept[0])
    assert torch.equal(labels, kept[1])


LOGITS, LABELS = torch.randn(3, 3), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        (LOGITS[0], LABELS, {}, r"logits have shape \(3,\) and labels \(3,\), expected \(N, K\)"),
        (LOGITS, LABELS[:2], {}, r"labels \(2,\), expected \(N, K\) and \(N,\)"),
        (LOGITS.long(), LABELS, {}, "logits have dtype torch.int64, expected a floating-point one"),
        (LOGITS, F.one_hot(LABELS), {}, r"labels \(3, 3\), expected"),
        (LOGITS, LABELS, {"smoothing": -0.1}, "smoothing is -0.1, expected a number from 0 to 1"),
        (LOGITS, LABELS, {"smoothing": 1.5}, "smoothing is 1.5"),
        (LOGITS, LABELS, {"smoothing": float("nan")}, "smoothing is nan"),
        (
            LOGITS,
            LABELS,
            {"class_weight": torch.ones(2)},
            r"class_weight has shape \(2,\), expected \(3,\)",
        ),
        (LOGITS, LABELS, {"plan": make_plan([0, 1], [1, 1])}, "plan is for 2 samples, not 3"),
        # Indexing would take bytes for a mask, wrap negative numbers, or read foreign memory.
        (LOGITS, LABELS.byte(), {}, "labels have dtype torch.uint8"),
        (LOGITS, LABELS.bool(), {}, "labels have dtype torch.bool"),
        (LOGITS, LABELS.float(), {}, "labels have dtype torch.float32"),
        (LOGITS, LABELS.to("meta"), {}, "labels are on meta"),
        (LOGITS, LABELS, {"plan": make_plan([0, 1, 2], [1] * 3).to("meta")}, "plan is on meta"),
        (LOGITS, LABELS + 1, {}, "labels hold 3, expected 0 to 2"),
        (LOGITS, LABELS - 1, {}, "labels hold -1, expected 0 to 2"),
    ],
)
def test_a_malformed_argument_is_named_with_its_value_and_what_was_expected(
    logits, labels, options, message
):
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        mixed_cross_entropy(logits, labels, **options)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_partner_outside_the_batch_is_named(wrong):
    with pytest.raises((IndexError, ValueError), match=f"partner holds {wrong}, expected 0 to 2"):
        mixed_cross_entropy(LOGITS, LABELS, make_plan([0, 1, wrong], [0.5] * 3))
