import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ftbench.ops import QuadraticPenalty

pytestmark = pytest.mark.usefixtures("implementation")

SHAPES = [(), (1,), (7,), (3, 4), (4, 3, 2, 2)]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@st.composite
def cases(draw):
    """Parameters of any layout, with and without anchors, numbers and tensors as strengths."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    parameters, anchors, strength = [], [], []
    for shape in draw(st.lists(st.sampled_from(SHAPES), max_size=5)):
        values = torch.randn(shape, generator=generator)
        layout = draw(st.sampled_from(["plain", "channels_last", "strided"]))
        if layout == "channels_last" and len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        elif layout == "strided" and shape:
            wide = torch.randn(*shape, 2, generator=generator)
            values = wide[..., 0]
        parameters.append(values.requires_grad_(draw(st.booleans())))
        anchors.append(torch.randn(shape, generator=generator) if draw(st.booleans()) else None)
        strength.append(
            torch.rand(shape, generator=generator)
            if draw(st.booleans())
            else draw(st.sampled_from([0, 0.01, 2.5]))
        )
    return parameters, anchors, strength


def closed_form(parameters, anchors, strength):
    """½ Σ_i s_i Σ (θ_i − a_i)² and its gradients, in float64 NumPy."""
    value, gradients = 0.0, []
    for theta, anchor, factor in zip(parameters, anchors, strength, strict=True):
        gap = theta.detach().double().numpy()
        gap = gap - (0 if anchor is None else anchor.double().numpy())
        factor = np.asarray(factor, dtype=np.float64)
        value += 0.5 * (factor * gap**2).sum()
        gradients.append(torch.as_tensor(factor * gap))
    return value, gradients


@given(cases())
def test_value_is_half_the_weighted_squared_distance(case):
    expected, _ = closed_form(*case)
    value = QuadraticPenalty(*case).value()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(cases(), st.sampled_from([1.0, 0.5, 0.0, -2.0]), st.booleans())
def test_added_gradients_are_those_of_the_value(case, scale, existing):
    parameters = case[0]
    value, expected = closed_form(*case)
    trained = [p for p in parameters if p.requires_grad]
    by_autograd = [None] * len(trained)
    if trained:
        by_autograd = torch.autograd.grad(QuadraticPenalty(*case).value(), trained)
    if existing:
        for parameter in trained:
            parameter.grad = torch.ones_like(parameter)
    returned = QuadraticPenalty(*case).add_gradient_(scale)
    assert returned.dtype == torch.float32
    assert returned.shape == ()
    assert not returned.requires_grad
    assert returned.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    autograd = iter(by_autograd)
    for parameter, gradient in zip(parameters, expected, strict=True):
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        added = parameter.grad - 1 if existing else parameter.grad
        torch.testing.assert_close(added.double(), scale * gradient, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(added, scale * next(autograd), rtol=1e-4, atol=1e-5)


@given(cases())
def test_parameters_anchors_and_strengths_are_not_changed(case):
    tensors = [t for group in case for t in group if isinstance(t, torch.Tensor)]
    kept = [t.detach().clone() for t in tensors]
    penalty = QuadraticPenalty(*case)
    penalty.value()
    penalty.add_gradient_()
    assert all(torch.equal(a, b) for a, b in zip(tensors, kept, strict=True))


def test_value_passes_a_numerical_gradient_check():
    parameters = [torch.randn(3, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    rows = [p.requires_grad_() for p in parameters]
    penalty = QuadraticPenalty(rows, [torch.ones(3, 2).double(), None], [0.3, torch.rand(4)])
    # The value is float32, so that differences of it are coarse.
    assert torch.autograd.gradcheck(lambda *_: penalty.value(), rows, eps=1e-2, atol=1e-3)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_first_and_second_derivatives_pass_a_numerical_check(anchored, weighted):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5,), (), (2, 1, 2, 2)]
    rows, starts, factors = (
        [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(3)
    )
    rows[-1] = rows[-1].contiguous(memory_format=torch.channels_last)
    anchors = starts if anchored else [None] * 4
    strength = factors if weighted else [0.3, 1.5, 2.0, 0.0]

    def value(*parameters):
        return QuadraticPenalty(parameters, anchors, strength).value()

    parameters = [row.requires_grad_() for row in rows]
    assert value(*parameters).dtype == torch.float64
    assert torch.autograd.gradcheck(value, parameters)
    assert torch.autograd.gradgradcheck(value, parameters)


def test_one_call_serves_l2sp_with_its_head_term_and_ewc():
    shared, head = torch.tensor([2.0, 3.0]), torch.tensor([4.0])
    start, fisher = torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.25])
    l2sp = QuadraticPenalty([shared, head], [start, None], [0.1, 0.01])
    assert l2sp.value().item() == pytest.approx(0.1 / 2 * (1 + 4) + 0.01 / 2 * 16)
    ewc = QuadraticPenalty([shared], [start], [100 * fisher])
    assert ewc.value().item() == pytest.approx(100 / 2 * (0.5 * 1 + 0.25 * 4))


def test_a_frozen_parameter_counts_in_the_value_and_gets_no_gradient():
    frozen, trained = nn.Parameter(torch.ones(2), requires_grad=False), nn.Parameter(torch.ones(2))
    penalty = QuadraticPenalty([frozen, trained], [None, None], [1.0, 1.0])
    assert penalty.add_gradient_().item() == 2
    assert penalty.value().item() == 2
    assert frozen.grad is None
    assert trained.grad.tolist() == [1, 1]


def test_a_gradient_is_accumulated_in_place_and_keeps_its_layout():
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    for gradient in (
        torch.zeros(4, 3, 2, 2),
        torch.zeros(2, 2, 3, 4).permute(3, 2, 1, 0),
        torch.zeros(4, 3, 2, 4)[..., ::2],
    ):
        # autograd may leave a gradient of any strides
        parameter.grad = gradient
        strides = gradient.stride()
        QuadraticPenalty([parameter], [None], [0.5]).add_gradient_(2.0)
        QuadraticPenalty([parameter], [None], [0.5]).add_gradient_(2.0)
        assert parameter.grad is gradient
        assert gradient.stride() == strides
        torch.testing.assert_close(gradient, 2 * parameter.detach(), check_stride=False)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_works_on_its_own_parameters(again):
    parameter = nn.Parameter(torch.arange(3.0))
    first = QuadraticPenalty([parameter], [torch.ones(3)], [2.0])
    first.add_gradient_()
    second = again(first)
    second.parameters[0].grad = None
    assert second.add_gradient_(1).item() == first.value().item() == 2.0
    assert parameter.grad.tolist() == second.parameters[0].grad.tolist() == [-2.0, 0.0, 2.0]


def test_what_changes_between_calls_is_seen():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    penalty = QuadraticPenalty([first, second], [None, None], [1.0, 1.0])
    penalty.add_gradient_()
    first.requires_grad_(False)
    second.grad = None
    second.data = torch.full((2,), 3.0)
    assert penalty.add_gradient_().item() == 10.0
    assert first.grad.tolist() == [1.0, 1.0]
    assert second.grad.tolist() == [3.0, 3.0]


def test_a_missing_gradient_is_made_in_the_parameters_layout():
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    QuadraticPenalty([parameter], [None], [1.0]).add_gradient_()
    assert parameter.grad.stride() == parameter.stride()
    assert torch.equal(parameter.grad, parameter)


def test_training_by_added_gradients_ends_where_training_through_the_value_does():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    second = copy.deepcopy(first)
    inputs, labels = torch.randn(8, 4), torch.randint(3, (8,))
    for net, in_one_pass in ((first, True), (second, False)):
        parameters = list(net.parameters())
        anchors = [p.detach().clone() for p in parameters]
        penalty = QuadraticPenalty(parameters, anchors, [0.3] * len(parameters))
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), labels)
            (loss if in_one_pass else loss + penalty.value()).backward()
            if in_one_pass:
                penalty.add_gradient_()
            optimizer.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_large_penalty_is_summed_beyond_float32():
    # Each square is one float32; the sum of three million of them is not, but is in float64.
    parameter = torch.full((3_000_001,), 1.0 + 2.0**-13)
    expected = 0.5 * 3_000_001 * np.float32(np.float32(1.0 + 2.0**-13) ** 2).astype(np.float64)
    penalty = QuadraticPenalty([parameter], [None], [1.0])
    assert penalty.value().item() == np.float32(expected)
    assert penalty.add_gradient_().item() == np.float32(expected)


def test_the_number_of_threads_does_not_change_a_bit():
    # More than 64 K elements, so that torch may split the sum.
    parameter = torch.randn(300_001, generator=torch.Generator().manual_seed(0))
    penalty = QuadraticPenalty([parameter], [None], [0.1])
    threads = torch.get_num_threads()
    try:
        values, returned = set(), set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            values.add(penalty.value().item())
            returned.add(penalty.add_gradient_().item())
    finally:
        torch.set_num_threads(threads)
    assert len(values) == len(returned) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_any_precision_give_one_number_either_way(dtype):
    parameter = torch.tensor([300.0, -1.5, 2.0], dtype=dtype, requires_grad=True)
    penalty = QuadraticPenalty([parameter], [None], [0.1])
    expected = 0.05 * float(parameter.detach().double().square().sum())
    added = penalty.add_gradient_()
    # float16 ends at 65 504, below 300².
    assert added.item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps + 1e-6)
    assert penalty.value().item() == pytest.approx(added.item(), rel=1e-6)
    assert parameter.grad.dtype == dtype


def test_nothing_to_hold_back_costs_nothing():
    penalty = QuadraticPenalty([], [], [])
    assert penalty.value().item() == penalty.add_gradient_().item() == 0


def test_empty_parameters_add_nothing():
    empty = torch.zeros(0, 3, requires_grad=True)
    assert QuadraticPenalty([empty], [None], [1.0]).add_gradient_().item() == 0
    assert empty.grad.shape == (0, 3)


TWO = torch.zeros(2)


@pytest.mark.parametrize(
    ("anchor", "strength", "error", "message"),
    [
        (torch.zeros(3), 1.0, ValueError, r"anchors\[1\] has shape \(3,\), expected \(2,\)"),
        (torch.zeros(1, 2), 1.0, ValueError, r"anchors\[1\] has shape \(1, 2\), expected \(2,\)"),
        (TWO.to("meta"), 1.0, ValueError, r"anchors\[1\] is on meta, its parameter on cpu"),
        (TWO.int(), 1.0, TypeError, r"anchors\[1\] has dtype torch.int32"),
        (0.5, 1.0, TypeError, r"anchors\[1\]"),
        ("zero", 1.0, TypeError, r"anchors\[1\]"),
        (None, torch.ones(3), ValueError, r"strength\[1\] has shape \(3,\), expected \(2,\)"),
        (None, torch.tensor(1.0), ValueError, r"strength\[1\] has shape \(\), expected \(2,\)"),
        (None, TWO.to("meta"), ValueError, r"strength\[1\] is on meta, its parameter on cpu"),
        (None, TWO.long(), TypeError, r"strength\[1\] has dtype torch.int64"),
        (None, -1.0, ValueError, r"strength\[1\] is -1.0, expected .* at least 0"),
        (None, float("nan"), ValueError, r"strength\[1\] is nan, expected a finite number"),
        (None, float("inf"), ValueError, r"strength\[1\] is inf, expected a finite number"),
        (None, None, TypeError, r"strength\[1\]"),
        (None, "strong", TypeError, r"strength\[1\]"),
    ],
)
def test_an_element_that_does_not_fit_is_named(anchor, strength, error, message):
    with pytest.raises(error, match=message):
        QuadraticPenalty([TWO, TWO], [None, anchor], [1.0, strength])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="have 2, 1 and 2 elements; expected as many of each"):
        QuadraticPenalty([TWO, TWO], [None], [1.0, 1.0])


def test_a_model_that_swaps_its_parameters_on_conversion_can_be_converted(implementation):
    model = nn.Linear(3, 2)
    anchors = [torch.ones(2, 3), None]
    penalty = QuadraticPenalty(model.parameters(), anchors, [0.5, torch.tensor([0.25, 4.0])])
    penalty.add_gradient_()
    model.zero_grad()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    found = penalty.add_gradient_()
    assert found.dtype == torch.float64
    assert found.item() == penalty.value().item()
    weight, bias = (parameter.detach() for parameter in model.parameters())
    torch.testing.assert_close(model.weight.grad, 0.5 * (weight - 1))
    torch.testing.assert_close(model.bias.grad, torch.tensor([0.25, 4.0]).double() * bias)


@pytest.mark.parametrize("name", ["parameters", "anchors", "strength"])
def test_what_a_penalty_is_of_cannot_be_exchanged(implementation, name):
    penalty = QuadraticPenalty([nn.Parameter(torch.ones(2))], [None], [1.0])
    with pytest.raises(AttributeError):
        setattr(penalty, name, ())


def test_what_an_nn_module_gives_can_be_penalised(implementation):
    model = nn.Linear(3, 2)
    anchors = [parameter.detach() + 1.0 for parameter in model.parameters()]
    penalty = QuadraticPenalty(model.parameters(), anchors, [2.0, 0.5])
    assert penalty.value().item() == pytest.approx(0.5 * (2.0 * 6 + 0.5 * 2), rel=1e-5)


def test_an_anchor_that_would_move_with_its_parameter_is_refused():
    parameter = nn.Parameter(torch.ones(3))
    for anchor in (parameter, parameter.detach()):
        with pytest.raises(ValueError, match=r"anchors\[0\] is its parameter's own memory"):
            QuadraticPenalty([parameter], [anchor], [1.0])


@pytest.mark.parametrize("strength", [0.1, {"weight": 0.1}, torch.ones(1)])
def test_strengths_that_are_no_list_are_refused(strength):
    with pytest.raises(TypeError, match="strength is of type"):
        QuadraticPenalty([nn.Parameter(torch.ones(3))], [None], strength)
