"""The operators among torch's own: schemas, shapes without data, autograd, torch.compile."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from ftbench.ops import QuadraticPenalty, mix
from tests.ops.cases import (
    DENSE,
    FLOATS,
    LAYOUTS,
    arguments,
    draw_values,
    each_set,
    in_memory,
    normalization,
    same_bits,
)
from tests.support import make_plan

pytestmark = pytest.mark.usefixtures("compiled")
OPERATORS = torch.ops.ftbench


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def plan_of(batch, height=6, width=7):
    partner = [(i + 1) % batch for i in range(batch)]
    box = [[0, 0, 0, 0], [1, 2, 4, 6]] * batch
    return make_plan(partner, [0.3] * batch, box[:batch], height, width)


def images_of(dtype, layout="contiguous", shape=(4, 3, 6, 7)):
    images = in_memory(draw_values(shape, dtype, 0), layout).tensor
    return images.permute(0, 2, 3, 1) if dtype == torch.uint8 else images


def penalty_lists():
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.randn(5, 2, generator=draw), torch.randn(7, generator=draw)]
    anchors, weights = [None, torch.ones(7)], [torch.rand(5, 2, generator=draw), None]
    return parameters, anchors, weights, [0.0, 0.5]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    "layout", [DENSE[0], *(pytest.param(x, marks=pytest.mark.deep) for x in LAYOUTS[1:])]
)
@pytest.mark.parametrize("source", [*FLOATS, torch.uint8])
def test_mixing_passes_torchs_own_check(source, layout, normalised):
    images = images_of(source, layout)
    normalize = normalization(3) if normalised else None
    taken = arguments(images, plan_of(4), normalize)
    opcheck(OPERATORS.mix, (*taken, torch.bfloat16))
    out = torch.zeros(4, 3, 6, 7, dtype=torch.float16)
    opcheck(OPERATORS.mix_into, (*taken, out))
    if source != torch.uint8:
        opcheck(OPERATORS.mix_, taken)


def test_label_weights_pass_torchs_own_check():
    plan = plan_of(4)
    opcheck(OPERATORS.label_weight, (plan.weight, plan.box, 6, 7))
    found = OPERATORS.label_weight(without_data(plan.weight), without_data(plan.box), 6, 7)
    assert (found.shape, found.dtype, found.device.type) == ((4,), torch.float32, "meta")


def test_penalties_pass_torchs_own_check():
    lists = penalty_lists()
    opcheck(OPERATORS.quadratic_value, lists)
    gradients = [torch.zeros(5, 2), torch.ones(7)]
    opcheck(OPERATORS.add_quadratic_gradient_, (*lists, gradients, [0, 1], 0.5))
    opcheck(OPERATORS.add_quadratic_gradient_, (*lists, gradients[1:], [1], 0.5))
    opcheck(OPERATORS.add_quadratic_gradient_, (*lists, [], [], 0.5))
    wide = [[t.double() for t in lists[0]], *lists[1:]]
    opcheck(OPERATORS.quadratic_value, wide)


def without_data(value):
    """Return a tensor on meta with the same strides, which ``.to`` would make dense."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


@pytest.mark.parametrize("size", [(4, 3, 6, 7), (4, 1, 6, 7), (4, 3, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("layout", [*LAYOUTS, "cropped channels_last"])
@pytest.mark.parametrize("source", [*FLOATS, torch.uint8])
def test_shapes_without_data_are_those_of_the_result(source, layout, size):
    if layout.startswith("cropped ch"):
        shape = (*size[:2], size[2] + 1, size[3] + 2)
        images = images_of(source, "channels_last", shape)
        images = images[:, 1:, 2:] if source == torch.uint8 else images[:, :, 1:, 2:]
    else:
        images = images_of(source, layout, size)
    plan = plan_of(size[0], *size[2:])
    for dtype in FLOATS:
        taken = (*arguments(images, plan), dtype)
        found = OPERATORS.mix(*taken)
        meta = OPERATORS.mix(*(without_data(t) for t in taken))
        with FakeTensorMode() as mode:
            fake = OPERATORS.mix(
                *(mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in taken)
            )
        for each in (meta, fake):
            assert (each.shape, each.dtype) == (found.shape, found.dtype)
            assert each.stride() == found.stride()
        assert meta.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_value_without_data_has_the_dtype_of_the_result(dtype):
    parameters, anchors, weights, strength = penalty_lists()
    parameters = [p.to(dtype) for p in parameters]
    found = OPERATORS.quadratic_value(parameters, anchors, weights, strength)
    there = [
        [None if t is None else t.to("meta") for t in g] for g in (parameters, anchors, weights)
    ]
    gradients = [torch.zeros_like(p) for p in there[0]]
    for meta in (
        OPERATORS.quadratic_value(*there, strength),
        OPERATORS.add_quadratic_gradient_(*there, strength, gradients, [0, 1], 1.0),
    ):
        assert (meta.shape, meta.dtype, meta.device.type) == ((), found.dtype, "meta")


def test_shapes_may_be_symbols():
    plan = plan_of(4)

    def both(images, partner, weight, box):
        doubled = OPERATORS.mix(images * 2, partner, weight, box, [], [], torch.float32)
        return doubled + images.shape[0]

    traced = make_fx(both, tracing_mode="symbolic")(images_of(torch.float32), *arguments(
        images_of(torch.float32), plan
    )[1:4])  # fmt: skip
    for shape in ((4, 3, 6, 7), (5, 2, 9, 8), (2, 3, 33, 16)):
        images = images_of(torch.float32, shape=shape)
        taken = arguments(images, plan_of(shape[0], *shape[2:]))[:4]
        assert same_bits(traced(*taken), both(*taken))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("source", [torch.float32, torch.uint8])
def test_operators_are_compiled_whole(source, layout, dynamic):
    def step(images, partner, weight, box):
        mean, std = normalization(3)
        mixed = OPERATORS.mix(images, partner, weight, box, mean, std, torch.float32)
        again = mixed * 2
        OPERATORS.mix_(again, partner, weight, box, [], [])
        out = torch.empty_like(again)
        OPERATORS.mix_into(again, partner, weight, box, [], [], out)
        return again + out, OPERATORS.quadratic_value([out], [again], [None], [0.5])

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (4, 6):
        images = images_of(source, layout, (batch, 3, 6, 7))
        taken = arguments(images, plan_of(batch))[:4]
        for found, expected in zip(compiled(*taken), step(*taken), strict=True):
            assert same_bits(found, expected)
            assert found.stride() == expected.stride()


def test_added_gradients_are_compiled_whole():
    lists = penalty_lists()

    def step(gradients):
        scaled = [g * 2 for g in gradients]
        value = OPERATORS.add_quadratic_gradient_(*lists, scaled, [0, 1], 0.5)
        return value, *scaled

    given = [torch.ones(5, 2), torch.ones(7)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(given), step(given), strict=True):
        assert same_bits(found, expected)


def test_modes_see_the_public_penalty():
    """Some of its tensors are held in C++, but it is called through the dispatcher."""
    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    parameter = nn.Parameter(torch.ones(3))
    with Watching():
        QuadraticPenalty([parameter], [None], [1.0]).add_gradient_()
    assert "ftbench.add_quadratic_gradient_.default" in seen
    assert parameter.grad.tolist() == [1.0, 1.0, 1.0]


def test_public_mixing_is_compiled_whole(implementation):
    plan, images = plan_of(4), images_of(torch.float32)

    def step(images):
        mixed = mix(images * 2, plan, normalize=normalization(3), dtype=torch.bfloat16)
        kept = torch.empty(images.shape)
        return mix(images, plan, out=kept) + 1, mixed

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(images), step(images), strict=True):
        torch.testing.assert_close(found, expected)


# torch 2.11 instantiates the function itself while it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_public_penalty_is_compiled_whole(implementation):
    parameter = nn.Parameter(torch.linspace(-1, 1, 37))
    penalty = QuadraticPenalty([parameter], [torch.ones(37)], [0.5])
    compiled = torch.compile(lambda: penalty.value() * 2, fullgraph=True, backend="aot_eager")
    found, expected = compiled(), penalty.value() * 2
    torch.testing.assert_close(found, expected)
    (mine,), (theirs,) = (torch.autograd.grad(v, parameter) for v in (found, expected))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("into", ["itself", "a kept buffer"])
def test_overwriting_what_a_graph_needs_is_seen_by_autograd(implementation, into):
    """Else the graph gives the gradient of what is there now, without a word."""
    plan, images = plan_of(4), images_of(torch.float32)
    kept = images.clone()
    weight = torch.ones(4, 3, 6, 7, requires_grad=True)
    loss = (weight * kept).sum()
    mix(kept if into == "itself" else images, plan, out=kept)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_mixing_is_differentiable_in_the_images(implementation):
    plan = plan_of(3, 2, 3)
    images = torch.randn(3, 2, 2, 3, requires_grad=True)
    mixed = mix(images, plan, normalize=normalization(2))
    mixed.backward(torch.ones_like(mixed))
    delta = torch.randn(3, 2, 2, 3) / 64
    with torch.no_grad():
        change = mix(images + delta, plan, normalize=normalization(2)) - mixed
    assert float((images.grad * delta).sum()) == pytest.approx(float(change.sum()), abs=1e-4)


def test_a_graph_through_the_bare_operator_says_that_it_has_no_gradient():
    images = images_of(torch.float32).requires_grad_()
    mixed = OPERATORS.mix(*arguments(images, plan_of(4)), torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((RuntimeError, UserWarning), match=r"autograd|require"):
            mixed.sum().backward()


def test_a_leaf_that_needs_a_gradient_is_not_overwritten(implementation):
    plan = plan_of(4)
    for images, out in (
        (images_of(torch.float32), torch.zeros(4, 3, 6, 7, requires_grad=True)),
        (leaf := images_of(torch.float32).clone().requires_grad_(), leaf),
    ):
        kept = out.detach().clone()
        with pytest.raises(RuntimeError, match="leaf Variable"):
            mix(images, plan, out=out)
        assert torch.equal(out, kept)


def test_negated_views_and_inference_tensors_are_read_as_what_they_stand_for(compiled):
    images, plan = images_of(torch.float32), plan_of(4)
    for name in each_set(compiled):
        expected = OPERATORS.mix(*arguments(-images, plan), torch.float32)
        found = OPERATORS.mix(*arguments(torch._neg_view(images), plan), torch.float32)
        assert same_bits(found, expected), name
        with torch.inference_mode():
            batch = images.clone()
            OPERATORS.mix_(*arguments(batch, plan))
            assert same_bits(batch, -expected), name
