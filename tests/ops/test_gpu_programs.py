"""The GPU's kernels and their launches, done by the CPU: the numbers of the CPU's own kernels.

tests/ops/emulated compiles the same files for the CPU, where the threads of a block wait for each
other as a GPU's do: grids, shared memory, indices, boxes and arithmetic are tested without one.
test_on_gpu.py tests what this cannot: streams, the GPU's memory and its compiler.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import sample_mix
from tests.ops.cases import (
    DENSE,
    FLOATS,
    LAYOUTS,
    arguments,
    assert_defined,
    draw_values,
    in_memory,
    mix_cases,
    normalization,
    out_memory,
    plans,
    referenced,
    same_bits,
    strides_of,
)
from tests.ops.test_compiled_penalty import (
    BLOCK,
    assert_near,
    defined,
    dtypes,
    listed,
    precision,
    tensor,
    terms,
)
from tests.support import make_plan

pytestmark = [pytest.mark.deep, pytest.mark.usefixtures("compiled", "emulated")]
ON_CPU, AS_GPU = torch.ops.ftbench, torch.ops.ftbench_emulated


@given(
    mix_cases(), st.sampled_from(FLOATS), st.sampled_from(LAYOUTS), st.sampled_from([0, 0, 1, 3, 8])
)
def test_mixing_has_the_bits_of_plain_torch(case, dtype, layout, offset):
    images, plan = case
    expected = referenced(images, plan, dtype)
    out = out_memory(expected.shape, dtype, layout, offset)
    AS_GPU.mix_into(*arguments(images, plan), out.tensor)
    assert same_bits(out.tensor, expected)
    assert out.untouched_outside()


@given(mix_cases(special=False), st.sampled_from(FLOATS), st.sampled_from(LAYOUTS))
def test_normalised_mixing_is_its_definition(case, dtype, layout):
    images, plan = case
    shape = images.permute(0, 3, 1, 2).shape if images.dtype == torch.uint8 else images.shape
    normalize = normalization(shape[1])
    out = out_memory(shape, dtype, layout)
    AS_GPU.mix_into(*arguments(images, plan, normalize), out.tensor)
    assert_defined(out.tensor, images, plan, normalize)
    assert out.untouched_outside()


@given(
    mix_cases(dtypes=FLOATS, layouts=["contiguous"]),
    st.sampled_from(LAYOUTS),
    st.sampled_from([0, 0, 1, 8]),
)
def test_a_batch_overwrites_itself(case, layout, offset):
    values, plan = case
    batch = in_memory(values, layout, offset)
    AS_GPU.mix_into(*arguments(batch.tensor, plan), batch.tensor)
    assert same_bits(batch.tensor, referenced(values, plan, values.dtype))
    assert batch.untouched_outside()


@given(mix_cases(dtypes=FLOATS, layouts=["contiguous"], special=False), st.sampled_from(DENSE))
def test_a_normalised_batch_overwrites_itself(case, layout):
    values, plan = case
    normalize = normalization(values.shape[1])
    batch = in_memory(values, layout).tensor
    AS_GPU.mix_into(*arguments(batch, plan, normalize), batch)
    assert_defined(batch, values, plan, normalize)


# Eight images a thread, one ahead, packs of four or eight values.
@given(st.integers(1, 40), st.data())
def test_batches_of_every_size_are_mixed_in_place_and_apart(batch, data):
    dtype = data.draw(st.sampled_from(FLOATS))
    height, width = data.draw(st.sampled_from([(1, 1), (1, 3), (2, 4), (4, 4), (3, 5), (8, 9)]))
    plan = data.draw(plans(batch, height, width))
    values = draw_values((batch, 3, height, width), dtype, batch, special=True)
    expected = referenced(values, plan, dtype)
    own, apart = values.clone(), torch.empty_like(values)
    AS_GPU.mix_into(*arguments(own, plan), own)
    AS_GPU.mix_into(*arguments(values, plan), apart)
    assert same_bits(own, expected)
    assert same_bits(apart, expected)


@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", [*FLOATS, torch.uint8])
def test_every_size_about_a_pack_is_mixed_at_every_alignment(source, dtype, offset):
    for width in range(1, 35):
        values = draw_values((5, 3, 1, width), source, width)
        plan = make_plan([1, 2, 0, 0, 4], [0.3, 1.0, 0.0, 0.6, 0.5], [[0, 1, 1, 5]] * 5, 1, width)
        images = in_memory(values, "channels_last", offset).tensor
        if source == torch.uint8:
            images = images.permute(0, 2, 3, 1)
        expected = referenced(images, plan, dtype)
        for layout in DENSE:
            for out_offset in (0, offset):
                out = out_memory(expected.shape, dtype, layout, out_offset)
                AS_GPU.mix_into(*arguments(images, plan), out.tensor)
                assert same_bits(out.tensor, expected), (width, layout)
                assert out.untouched_outside()


# A block has 256 packs of eight images: here the last has some of either.
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", [*FLOATS, torch.uint8])
def test_the_last_of_many_blocks_is_mixed(source, dtype):
    values = draw_values((13, 3, 52, 48), source, 0)
    box = [[i, 2 * i, 52 - i, 48] for i in range(13)]
    plan = make_plan([(3 * i + 5) % 13 for i in range(13)], [0.3] * 13, box, 52, 48)
    for layout in DENSE:
        images = in_memory(values, layout).tensor
        if source == torch.uint8:
            images = values.permute(0, 2, 3, 1).contiguous()
        expected = referenced(images, plan, dtype)
        for out_layout in DENSE:
            out = out_memory(expected.shape, dtype, out_layout)
            AS_GPU.mix_into(*arguments(images, plan), out.tensor)
            assert same_bits(out.tensor, expected)
            assert out.untouched_outside()


# In place the same slice of every image is held at once: from 256 bytes of few large images to 32
# of 1024. More are mixed apart.
@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(3, 112, 112), (250, 105, 105), (300, 8, 8), (1024, 5, 8), (1025, 5, 8), (2000, 3, 4)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_of_every_size_are_mixed_in_place(dtype, batch, height, width):
    generator = torch.Generator().manual_seed(batch)
    partner = torch.randint(batch, (batch,), generator=generator)
    corners = torch.randint(-2, width + 3, (batch, 2, 2), generator=generator)
    box = corners.sort(dim=1).values.flatten(1)
    weight = torch.rand(batch, generator=generator)
    weight[::3], weight[1::5] = 1.0, 0.0
    plan = make_plan(partner.tolist(), weight.tolist(), box.tolist(), height, width)
    values = draw_values((batch, 3, height, width), dtype, batch)
    expected = referenced(values, plan, dtype)
    AS_GPU.mix_into(*arguments(values, plan), values)
    assert same_bits(values, expected)


def test_long_chains_into_cycles_are_mixed_in_place():
    """Hundreds of images: several cycles, chains into them, and some that are their own."""
    generator = torch.Generator().manual_seed(0)
    for batch in (257, 512, 1000):
        for partner in (
            torch.randperm(batch, generator=generator),
            torch.randint(batch, (batch,), generator=generator),
            torch.randint(5, (batch,), generator=generator),
            (torch.arange(batch) + 1).clamp(max=batch - 1),
            (torch.arange(batch) - 1).clamp(min=0),
            torch.cat([torch.randperm(batch // 2, generator=generator)] * 2 + [torch.arange(1)])[
                :batch
            ],
        ):
            weight = torch.rand(len(partner), generator=generator)
            values = draw_values((len(partner), 1, 2, 3), torch.float32, batch)
            box = [[0, 0, 1, 1]] * len(partner)
            plan = make_plan(partner.tolist(), weight.tolist(), box, 2, 3)
            expected = referenced(values, plan, torch.float32)
            for operator in (AS_GPU.mix_into, ON_CPU.mix_into):
                own = values.clone()
                operator(*arguments(own, plan), own)
                assert same_bits(own, expected)


def test_more_channels_than_a_gpu_can_normalise_are_refused_with_their_number():
    values = torch.zeros(1, 129, 1, 1)
    plan = make_plan([0], [1.0], [[0] * 4], 1, 1)
    with pytest.raises(ValueError, match="129 channels, expected at most 128"):
        AS_GPU.mix_into(*arguments(values, plan, normalization(129)), values)
    most = draw_values((2, 128, 3, 3), torch.float32, 0)
    plan, out = make_plan([1, 0], [0.3, 0.7], [[0, 0, 1, 1]] * 2, 3, 3), torch.empty_like(most)
    AS_GPU.mix_into(*arguments(most, plan, normalization(128)), out)
    assert_defined(out, most, plan, normalization(128))


@pytest.mark.parametrize("channels", [129, 200, 3000])
@pytest.mark.parametrize("layout", DENSE)
def test_any_number_of_channels_is_mixed_without_normalising(channels, layout):
    values = draw_values((3, channels, 2, 4), torch.bfloat16, 0)
    plan = make_plan([1, 2, 0], [0.3, 1.0, 0.6], [[0, 1, 2, 3]] * 3, 2, 4)
    images, expected = in_memory(values, layout).tensor, referenced(values, plan, torch.bfloat16)
    out = torch.empty_like(images)
    AS_GPU.mix_into(*arguments(images, plan), out)
    AS_GPU.mix_into(*arguments(images, plan), images)
    assert same_bits(out, expected)
    assert same_bits(images, expected)


@given(st.lists(terms(), min_size=1, max_size=4), st.sampled_from([1.0, 0.5, 0.0, -2.0]))
def test_penalties_are_the_closed_form_and_gradients_have_the_bits_of_the_cpu(case, scale):
    trained = [i for i, term in enumerate(case) if term[4] is not None]
    expected = [defined(term, scale) for term in case]
    before = [case[i][4].buffer.clone() for i in trained]
    lists, gradients = listed(case), [tensor(case[i][4]) for i in trained]
    value = AS_GPU.add_quadratic_gradient_(*lists, gradients, trained, scale)
    assert value == pytest.approx(sum(each[0] for each in expected), rel=1e-6, abs=1e-30)
    for i, gradient in zip(trained, gradients, strict=True):
        assert_near(gradient, *expected[i][1:], precision(case[i]))
        assert case[i][4].untouched_outside()
    added = [gradient.clone() for gradient in gradients]
    for i, buffer in zip(trained, before, strict=True):
        case[i][4].buffer.copy_(buffer)
    ON_CPU.add_quadratic_gradient_(*lists, gradients, trained, scale)
    assert all(same_bits(a, b) for a, b in zip(added, gradients, strict=True))


# A block has 65,536 elements in four shares, a thread takes 512 · 4 at a time.
@pytest.mark.parametrize("offset", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "size",
    [2047, 2048, 2049, 16383, 16384, 16385, 16387, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5],
)
def test_penalties_of_every_size_about_a_share_are_right(size, offset):
    generator = torch.Generator().manual_seed(size)
    memory = torch.randn(4, size + offset, generator=generator)
    parameter, anchor, weights, gradient = (row[offset:] for row in memory)
    case = [parameter], [anchor], [weights.abs_()], [0.0]
    here, there = gradient.clone(), memory[3].clone()[offset:]
    value = ON_CPU.add_quadratic_gradient_(*case, [here], [0], 0.5)
    found = AS_GPU.add_quadratic_gradient_(*case, [there], [0], 0.5)
    assert found == pytest.approx(value.item(), rel=1e-6)
    assert same_bits(here, there)
    gap = parameter.double().numpy() - anchor.double().numpy()
    assert found == pytest.approx(0.5 * np.sum(weights.double().numpy() * gap**2), rel=1e-6)


# Four numbers of each array are read together where all four arrays allow it.
@pytest.mark.parametrize("offset", [0, 1, 2, 4])
@pytest.mark.parametrize("size", [1, 4, 2047, 16387, BLOCK + 6])
@pytest.mark.parametrize(
    ("kept", "factors"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ],
)
def test_penalties_of_narrow_numbers_are_right_at_every_alignment(kept, factors, size, offset):
    memory = torch.randn(4, size + offset, generator=torch.Generator().manual_seed(size))
    parameter, anchor, gradient = (row.to(kept)[offset:] for row in memory[:3])
    weights = memory[3].abs().to(factors)[offset:]
    case = [parameter], [anchor], [weights], [0.0]
    here, there = (gradient.clone() for _ in range(2))
    aside = torch.cat([gradient[:1], gradient])[1:]  # where four cannot be written together
    ON_CPU.add_quadratic_gradient_(*case, [here], [0], 0.5)
    found = AS_GPU.add_quadratic_gradient_(*case, [there], [0], 0.5)
    assert AS_GPU.add_quadratic_gradient_(*case, [aside], [0], 0.5) == found
    assert same_bits(here, there)
    assert same_bits(here, aside.clone())
    gap = parameter.double().numpy() - anchor.double().numpy()
    assert found == pytest.approx(0.5 * np.sum(weights.double().numpy() * gap**2), rel=1e-6)


def test_where_a_gradient_lies_does_not_change_a_bit_of_the_value():
    generator = torch.Generator().manual_seed(0)
    parameter, anchor = torch.randn(2, BLOCK + 77, generator=generator).unbind()
    case = [parameter.clone()], [anchor.clone()], [None], [0.3]
    value = AS_GPU.add_quadratic_gradient_(*case, [], [], 1.0)
    for offset in range(5):
        gradient = torch.zeros(BLOCK + 77 + offset)[offset:]
        assert AS_GPU.add_quadratic_gradient_(*case, [gradient], [0], 1.0) == value
        assert torch.equal(gradient, 0.3 * (case[0][0] - case[1][0]))


@given(st.integers(1, 70), dtypes, st.booleans(), st.integers(0, 5))
def test_penalties_without_anchor_or_gradient_are_right(size, dtype, anchored, offset):
    generator = torch.Generator().manual_seed(size)
    parameter = torch.randn(size + offset, generator=generator).to(dtype)[offset:]
    anchor = torch.randn(size, generator=generator).to(dtype) if anchored else None
    found = AS_GPU.add_quadratic_gradient_([parameter], [anchor], [None], [0.5], [], [], 1.0)
    gap = parameter.double() - (anchor.double() if anchored else 0)
    assert found == pytest.approx(0.25 * float(gap.square().sum()), rel=1e-6, abs=1e-30)


def test_more_terms_than_a_launch_takes_are_added_by_several():
    generator = torch.Generator().manual_seed(0)
    sizes = [1 + 7 * (i % 5) for i in range(400)]
    sizes[383], sizes[384], sizes[399] = 20_000, 1, 70_000  # about the launches' ends
    parameters = [torch.randn(size, generator=generator) for size in sizes]
    anchors = [torch.randn(size, generator=generator) for size in sizes]
    gradients = [torch.ones(size) for size in sizes]
    case = parameters, anchors, [None] * 400, [0.1 + i for i in range(400)]
    found = AS_GPU.add_quadratic_gradient_(*case, gradients, list(range(400)), 1.0)
    expected = ON_CPU.quadratic_value([p.double() for p in parameters], *case[1:])
    assert found == pytest.approx(expected.item(), rel=1e-6)
    for parameter, anchor, strength, gradient in zip(*case[:2], case[3], gradients, strict=True):
        torch.testing.assert_close(gradient, 1 + strength * (parameter - anchor))


@pytest.mark.parametrize("batch", [0, 1, 255, 256, 257, 1000])
def test_label_weights_have_the_bits_of_the_cpu(batch):
    plan = sample_mix(batch, 31, 17, mixup_alpha=0.8, cutmix_alpha=1.0, seed=0, step=4)
    found = AS_GPU.label_weight(plan.weight, plan.box, 31, 17)
    assert torch.equal(found, ON_CPU.label_weight(plan.weight, plan.box, 31, 17))


def test_a_channels_last_parameter_is_added_to_a_turned_gradient():
    shape = (6, 5, 3, 3)
    values = draw_values(shape, torch.float32, 0)
    parameter = in_memory(values, "channels_last").tensor
    gradient = torch.zeros(1000).as_strided(shape, strides_of("transposed", *shape))
    value = AS_GPU.add_quadratic_gradient_([parameter], [None], [None], [2.0], [gradient], [0], 1.0)
    assert value == pytest.approx(float(values.double().square().sum()), rel=1e-6)
    assert same_bits(gradient, 2 * values)
