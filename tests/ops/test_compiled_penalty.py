"""The compiled penalty against ½ Σ s (θ − a)² in float64: every dtype, layout and size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ftbench.ops import QuadraticPenalty
from tests.ops.cases import LAYOUTS, Memory, each_set, same_bits, strides_of

OPERATORS = torch.ops.ftbench
WIDE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
dtypes = st.sampled_from(WIDE)
BLOCK = 65536


@st.composite
def memories(draw, shape, seed, dtype=dtypes, *, positive=False):
    """A tensor of the shape, in any layout and at any offset, of random numbers."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values = (values.abs() if positive else values).to(draw(dtype))
    strides = torch.empty(shape).stride()
    if len(shape) == 4:
        strides = strides_of(draw(st.sampled_from(LAYOUTS)), *shape)
    memory = Memory(shape, strides, values.dtype, draw(st.integers(0, 17)))
    memory.tensor.copy_(values)
    return memory


@st.composite
def terms(draw, dtype=dtypes):
    """One parameter's term: its tensor, anchor, weights, strength and a gradient to add to."""
    shape = draw(
        st.sampled_from([(), (1,), (0, 3), (2, 3, 5, 4), (1, 16, 1, 1), (8, 1, 3, 3), (3, 4, 1, 7)])
        | st.integers(0, 130).map(lambda n: (n,))
    )
    seed = draw(st.integers(0, 9999))
    parameter = draw(memories(shape, seed, dtype))
    anchor = draw(st.none() | memories(shape, seed + 1, dtype))
    weights = draw(st.none() | memories(shape, seed + 2, dtype, positive=True))
    gradient = draw(st.none() | memories(shape, seed + 3, dtype))
    return parameter, anchor, weights, draw(st.sampled_from([0.0, 0.3, 2.5])), gradient


def tensor(memory):
    return None if memory is None else memory.tensor


def wide(memory):
    return memory.tensor.double().numpy()


def defined(term, scale):
    """Return the value and, given a gradient, what it becomes, its terms and its exact rounding."""
    parameter, anchor, weights, strength, gradient = term
    gap = wide(parameter) - (0 if anchor is None else wide(anchor))
    pull = (strength if weights is None else wide(weights)) * gap
    value = 0.5 * float((pull * gap).sum())
    if gradient is None:
        return value, None, None
    added = scale * pull
    return value, wide(gradient) + added, np.abs(wide(gradient)) + np.abs(added)


def precision(term):
    """Return the unit of the arithmetic: float64 if what the value is made of is, else float32."""
    memories = [m for m in term[:3] if m is not None]
    in_double = any(m.tensor.dtype == torch.float64 for m in memories)
    return torch.finfo(torch.float64 if in_double else torch.float32).eps


def listed(case):
    """Return the operator's lists."""
    return (
        [tensor(term[0]) for term in case],
        [tensor(term[1]) for term in case],
        [tensor(term[2]) for term in case],
        [term[3] for term in case],
    )


def assert_near(found, expected, magnitude, eps):
    """Check that a gradient is right within four roundings of its terms and one to its dtype."""
    info = torch.finfo(found.dtype)
    rounding = info.eps / 2 * np.maximum(np.abs(expected), info.smallest_normal)
    error = np.abs(found.double().numpy() - expected)
    assert (error <= 4 * eps * magnitude + rounding * (1 + 1e-6)).all()


@given(st.data(), st.sampled_from([1.0, 0.5, 0.0, -2.0, 1 / 3]))
def test_any_mixture_of_dtypes_and_layouts_is_the_closed_form(compiled, data, scale):
    scale = float(np.float32(scale))  # float32 arithmetic takes it so
    case = data.draw(st.lists(terms(), min_size=1, max_size=4))
    trained = [i for i, term in enumerate(case) if term[4] is not None]
    before = {i: case[i][4].buffer.clone() for i in trained}
    expected = [defined(term, scale) for term in case]
    value = sum(each[0] for each in expected)
    lists, gradients = listed(case), [tensor(case[i][4]) for i in trained]
    kept = [m.buffer.clone() for term in case for m in term[:3] if m is not None]
    first = None
    for name in each_set(compiled):
        for i in trained:
            case[i][4].buffer.copy_(before[i])
        found = OPERATORS.quadratic_value(*lists)
        returned = OPERATORS.add_quadratic_gradient_(*lists, gradients, trained, scale)
        all_double = all(term[0].tensor.dtype == torch.float64 for term in case)
        assert found.dtype == (torch.float64 if all_double else torch.float32)
        assert same_bits(found, returned), name
        assert found.item() == pytest.approx(value, rel=1e-6, abs=1e-30)
        for i in trained:
            assert_near(gradients[trained.index(i)], *expected[i][1:], precision(case[i]))
            assert case[i][4].untouched_outside()
        results = [found, *(case[i][4].buffer.clone() for i in trained)]
        first = first or results
        # Sums are added in one order by every set.
        assert all(same_bits(a, b) for a, b in zip(results, first, strict=True)), name
    after = [m.buffer for term in case for m in term[:3] if m is not None]
    assert all(same_bits(a, b) for a, b in zip(after, kept, strict=True))


def test_gradients_that_share_some_memory_are_each_added(compiled, threads):
    """Threads add to all gradients at once; the overlap is in other blocks of each."""
    threads(2)
    memory, size, shift = torch.zeros(4 * BLOCK), 3 * BLOCK, BLOCK + 7
    gradients = [memory[:size], memory[BLOCK - 7 :][:size], memory[shift : shift + 5]]
    parameters = [torch.ones(size), torch.full((size,), 2.0), torch.full((5,), 3.0)]
    expected = memory.clone()
    for start, parameter in zip((0, BLOCK - 7, shift), parameters, strict=True):
        expected[start : start + len(parameter)] += parameter
    none = [None] * 3
    OPERATORS.add_quadratic_gradient_(parameters, none, none, [1.0] * 3, gradients, [0, 1, 2], 1.0)
    assert torch.equal(memory, expected)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("weighted", [False, True])
def test_tensors_of_several_blocks_are_the_closed_form(compiled, threads, size, dtype, weighted):
    generator = torch.Generator().manual_seed(size)
    parameter, anchor, gradient = (torch.randn(size, generator=generator).to(dtype) for _ in "pag")
    weights = torch.rand(size, generator=generator).to(dtype) if weighted else None
    # Others before and after it, one without elements.
    lists = (
        [torch.ones(3).to(dtype), torch.ones(0).to(dtype), parameter, torch.ones(BLOCK).to(dtype)],
        [None, None, anchor, None],
        [None, None, weights, None],
        [2.0, 1.0, 0.7, 0.5],
    )
    gap = parameter.double().numpy() - anchor.double().numpy()
    pull = (0.7 if weights is None else weights.double().numpy()) * gap
    value = 0.5 * (2.0 * 3 + (pull * gap).sum() + 0.5 * BLOCK)
    results = []
    for name in each_set(compiled):
        for count in (1, 2, 4, 1):
            threads(count)
            added = gradient.clone()
            found = OPERATORS.add_quadratic_gradient_(*lists, [added], [2], 0.5)
            assert same_bits(found, OPERATORS.quadratic_value(*lists)), name
            results.append((found, added))
    assert results[0][0].item() == pytest.approx(value, rel=1e-6)
    start, added = gradient.double().numpy(), 0.5 * pull
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert_near(results[0][1], start + added, np.abs(start) + np.abs(added), eps)
    for found, added in results[1:]:
        assert same_bits(found, results[0][0])
        assert same_bits(added, results[0][1])


def test_many_parameters_are_added_in_one_order_by_any_threads(compiled, threads):
    """Threads share elements, so small tensors at one end leave them unlike numbers of blocks."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1, 3, 16, 9] * 20 + [1, 70_001, 16, 4096, 3, 131_072, 9] * 8 + [5 * BLOCK]
    parameters = [torch.randn(n, generator=generator) for n in sizes]
    nothing = [None] * len(sizes)
    lists = parameters, nothing, nothing, [0.5] * len(sizes)
    for _ in each_set(compiled):
        values = set()
        for count in (1, 2, 3, 4):
            threads(count)
            values |= {OPERATORS.quadratic_value(*lists).item() for _ in range(3)}
            gradients = [torch.zeros_like(p) for p in parameters]
            OPERATORS.add_quadratic_gradient_(*lists, gradients, range(len(sizes)), 2.0)
            assert all(map(torch.equal, gradients, parameters))
        assert len(values) == 1
        expected = 0.25 * sum(p.double().square().sum().item() for p in parameters)
        assert values.pop() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("parameter", "anchor", "weights"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, None),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, None),
        (torch.float32, torch.float64, torch.float64),
        (torch.float32, None, torch.float64),
        (torch.float64, torch.float32, torch.bfloat16),
    ],
)
def test_public_penalties_of_mixed_dtypes_are_the_closed_form(
    implementation, parameter, anchor, weights
):
    generator = torch.Generator().manual_seed(0)
    theta = nn.Parameter(torch.randn(7, 5, generator=generator).to(parameter))
    start = None if anchor is None else torch.randn(7, 5, generator=generator).to(anchor)
    factor = 0.3 if weights is None else torch.rand(7, 5, generator=generator).to(weights)
    gap = theta.detach().double() - (0 if start is None else start.double())
    pull = (factor if weights is None else factor.double()) * gap
    penalty = QuadraticPenalty([theta], [start], [factor])
    value = penalty.value()
    assert same_bits(value.detach(), penalty.add_gradient_(2.0))
    assert value.dtype == (torch.float64 if parameter == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(0.5 * float((pull * gap).sum()), rel=1e-6)
    eps = torch.finfo(parameter).eps
    assert theta.grad.dtype == parameter
    torch.testing.assert_close(theta.grad.double(), 2 * pull, rtol=eps / 2 + 1e-6, atol=1e-7)
    (by_autograd,) = torch.autograd.grad(value, theta)
    torch.testing.assert_close(by_autograd.double(), pull, rtol=eps / 2 + 1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_a_bfloat16_gradient_is_rounded_once(compiled, layout):
    """1 + (2⁻⁸ + 2⁻²³) lies just above the middle of two bfloat16 numbers, 1 and 1 + 2⁻⁷."""
    shape = (1, 1, 5, 7)
    theta = torch.full(shape, 2.0**-8 + 2.0**-23)
    for name in each_set(compiled):
        gradient = Memory(shape, strides_of(layout, *shape), torch.bfloat16, fill=1).tensor
        OPERATORS.add_quadratic_gradient_([theta], [None], [None], [1.0], [gradient], [0], 1.0)
        assert gradient.unique().tolist() == [1 + 2.0**-7], name


def test_frozen_and_empty_parameters_take_their_places(compiled):
    for name in each_set(compiled):
        frozen, empty = (
            nn.Parameter(torch.ones(5), requires_grad=False),
            nn.Parameter(torch.ones(0)),
        )
        trained = nn.Parameter(torch.full((5,), 2.0))
        penalty = QuadraticPenalty([frozen, empty, trained], [None] * 3, [1.0, 1.0, 0.5])
        assert penalty.add_gradient_(3.0).item() == 0.5 * (5 + 0.5 * 20), name
        assert frozen.grad is None
        assert empty.grad.shape == (0,)
        assert trained.grad.tolist() == [3.0] * 5


def test_an_overlapping_anchor_and_parameter_are_read_as_they_are(compiled):
    """Views of one buffer, one element apart: θ and a both change nothing of it."""
    buffer = torch.arange(1000.0)
    for name in each_set(compiled):
        found = OPERATORS.quadratic_value([buffer[1:]], [buffer[:-1]], [None], [2.0])
        assert found.item() == 999, name


def test_a_value_beyond_float32_is_infinite_and_not_an_error(implementation):
    """Each square fits into float32; their sum does not, as when a run diverges."""
    parameter = nn.Parameter(torch.full((64,), 1.8e19))
    penalty = QuadraticPenalty([parameter], [None], [1.0])
    assert penalty.value().item() == float("inf")
    assert penalty.add_gradient_().item() == float("inf")
    assert same_bits(parameter.grad, parameter.detach())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_has_diverged_shows_in_the_value(implementation, bad):
    for place in (0, 17, 36):
        parameter = nn.Parameter(torch.ones(37))
        parameter.data[place] = bad
        penalty = QuadraticPenalty([parameter], [torch.zeros(37)], [1.0])
        value = penalty.add_gradient_().item()
        assert value == bad or (value != value and bad != bad)
        assert torch.equal(parameter.grad.isfinite(), torch.arange(37) != place)


@pytest.mark.parametrize("size", [16, 17, 37])
def test_a_strength_beyond_float32_is_infinite_for_every_size(implementation, size):
    parameter = nn.Parameter(torch.ones(size))
    penalty = QuadraticPenalty([parameter], [None], [1e39])
    assert penalty.value().item() == float("inf")
    assert penalty.add_gradient_().item() == float("inf")


def test_a_parameter_that_is_listed_twice_gets_both_gradients(compiled, threads):
    """Tied weights. With two threads, both terms might be added to one gradient at a time."""
    parameter = nn.Parameter(torch.ones(BLOCK))
    penalty = QuadraticPenalty([parameter, parameter], [None, None], [1.0, 2.0])
    threads(2)
    wrong = 0
    for _ in range(100):
        parameter.grad = torch.zeros(BLOCK)
        assert penalty.add_gradient_().item() == 1.5 * BLOCK
        wrong += not bool((parameter.grad == 3).all())
    assert wrong == 0


def test_adding_gradients_is_seen_by_autograd(implementation):
    """Else a graph that needs what the gradient was gives wrong numbers without a word."""
    parameter = nn.Parameter(torch.ones(5))
    parameter.grad = torch.zeros(5)
    before = parameter.grad._version
    QuadraticPenalty([parameter], [None], [1.0]).add_gradient_()
    assert parameter.grad._version > before
