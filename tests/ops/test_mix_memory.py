"""Where results go: into the images themselves, over parts of them, into views with gaps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import mix, serving
from tests.ops.cases import (
    DENSE,
    FLOATS,
    LAYOUTS,
    arguments,
    assert_defined,
    draw_values,
    each_set,
    in_memory,
    mix_cases,
    normalization,
    out_memory,
    plans,
    referenced,
    same_bits,
    shapes,
    strides_of,
)
from tests.support import make_plan

OPERATORS = torch.ops.ftbench


@given(
    mix_cases(dtypes=FLOATS, layouts=["contiguous"]), st.sampled_from(LAYOUTS), st.integers(0, 17)
)
def test_a_batch_overwrites_itself_and_nothing_beside_it(compiled, case, layout, offset):
    values, plan = case
    expected = referenced(values, plan, values.dtype)
    for name in each_set(compiled):
        for into_itself in (False, True):
            batch = in_memory(values, layout, offset)
            if into_itself:
                OPERATORS.mix_into(*arguments(batch.tensor, plan), batch.tensor)
            else:
                OPERATORS.mix_(*arguments(batch.tensor, plan))
            assert same_bits(batch.tensor, expected), name
            assert batch.untouched_outside(), name


@given(mix_cases(dtypes=FLOATS, layouts=["contiguous"], special=False), st.sampled_from(LAYOUTS))
def test_a_normalised_batch_overwrites_itself(compiled, case, layout):
    values, plan = case
    normalize = normalization(values.shape[1])
    for _ in each_set(compiled):
        batch = in_memory(values, layout)
        OPERATORS.mix_(*arguments(batch.tensor, plan, normalize))
        assert_defined(batch.tensor, values, plan, normalize)
        assert batch.untouched_outside()


@st.composite
def overlapping(draw):
    """Images and a result in one buffer, ``shift`` elements apart, each in a layout of its own."""
    shape = draw(shapes())
    plan = draw(plans(shape[0], *shape[2:]))
    size = torch.Size(shape).numel()
    shift = draw(st.integers(-size, size) | st.sampled_from([0, 1, -1, size - 1, 1 - size]))
    layouts = draw(st.sampled_from(DENSE)), draw(st.sampled_from(DENSE))
    return shape, plan, shift, layouts, draw(st.sampled_from(FLOATS)), draw(st.integers(0, 99))


@given(overlapping())
def test_a_result_that_overlaps_the_images_anywhere_is_right(compiled, case):
    shape, plan, shift, (layout, out_layout), dtype, seed = case
    values = draw_values(shape, dtype, seed)
    expected = referenced(values, plan, dtype)
    size = values.numel()
    for name in each_set(compiled):
        buffer = torch.zeros(3 * size, dtype=dtype)
        images = buffer.as_strided(shape, strides_of(layout, *shape), size)
        images.copy_(values)
        out = buffer.as_strided(shape, strides_of(out_layout, *shape), size + shift)
        OPERATORS.mix_into(*arguments(images, plan), out)
        assert same_bits(out, expected), name


@pytest.mark.parametrize("shift", [-9, -2, 0, 2, 10])
def test_a_result_of_another_dtype_over_the_same_bytes_is_right(compiled, shift):
    plan = make_plan([1, 2, 0], [0.3, 1.0, 0.7], [[0, 0, 3, 4]] * 3, 9, 70)
    for source, dtype in [
        (torch.uint8, torch.float32),
        (torch.uint8, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float16),
    ]:
        values = draw_values((3, 3, 9, 70), source, 0)
        images = values.permute(0, 2, 3, 1).contiguous() if source == torch.uint8 else values
        expected = referenced(images, plan, dtype)
        for name in each_set(compiled):
            memory = torch.zeros(16 * values.numel(), dtype=torch.uint8)
            middle = 8 * values.numel() // 64 * 64
            here = memory[middle:].view(source)[: values.numel()].view(images.shape)
            here.copy_(images)
            start = middle + shift * expected.element_size()
            out = memory[start:].view(dtype)[: values.numel()].view(expected.shape)
            OPERATORS.mix_into(*arguments(here, plan), out)
            assert same_bits(out, expected), (name, source, dtype)


def test_a_result_that_is_a_turned_view_of_the_images_is_right(compiled):
    plan = make_plan([1, 2, 0], [0.3, 1.0, 0.7], [[0, 0, 3, 4]] * 3, 6, 6)
    values = draw_values((3, 3, 6, 6), torch.float32, 0)
    expected = referenced(values, plan, torch.float32)
    for name in each_set(compiled):
        for turn in (lambda x: x.mT, lambda x: x.transpose(0, 1), lambda x: x.permute(1, 0, 3, 2)):
            images = values.clone()
            out = turn(images)
            OPERATORS.mix_into(*arguments(images, plan), out)
            assert same_bits(out, expected), name


def test_numbers_that_are_not_aligned_to_their_own_size_are_mixed(compiled):
    """As they come from a file that is mapped into memory."""
    plan = make_plan([1, 0], [0.3, 0.9], [[0, 0, 3, 4]] * 2, 9, 41)
    for dtype in FLOATS:
        values = draw_values((2, 3, 9, 41), dtype, 0)
        expected = referenced(values, plan, dtype)
        raw = values.flatten().view(torch.uint8).numpy().tobytes()
        images = torch.frombuffer(bytearray(b"." + raw), dtype=dtype, offset=1).view(values.shape)
        room = bytearray(len(raw) + 1)
        out = torch.frombuffer(room, dtype=dtype, offset=1).view(values.shape)
        assert out.data_ptr() % out.element_size() != 0
        for name in each_set(compiled):
            out.zero_()
            OPERATORS.mix_into(*arguments(images, plan), out)
            assert same_bits(out.clone(), expected), name


def test_only_the_box_is_written_where_the_rest_stays(compiled):
    """CutMix in place moves the box's bytes; a NaN outside it keeps its payload."""
    values = torch.zeros(2, 1, 8, 40)
    values.view(torch.int32)[:, :, 7] = 0x7FC0_1234
    plan = make_plan([1, 0], [1.0, 1.0], [[0, 0, 4, 20]] * 2, 8, 40)
    for name in each_set(compiled):
        batch = values.clone()
        OPERATORS.mix_(*arguments(batch, plan))
        assert torch.equal(batch.view(torch.int32), values.view(torch.int32)), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "repeated", ["stride 0", "overlapping rows"], ids=lambda name: name.replace(" ", "-")
)
def test_a_result_whose_elements_share_memory_is_refused(compiled, repeated, dtype):
    plan = make_plan([1, 0], [0.5, 0.5], [[0] * 4] * 2, 4, 5)
    images, room = torch.randn(2, 3, 4, 5), torch.zeros(400, dtype=dtype)
    strides = (60, 20, 0, 1) if repeated == "stride 0" else (60, 20, 2, 1)
    for _ in each_set(compiled):
        with pytest.raises((RuntimeError, ValueError), match=r"single memory location|out"):
            OPERATORS.mix_into(*arguments(images, plan), room.as_strided((2, 3, 4, 5), strides))
    assert not room.any()


@pytest.mark.parametrize("layout", [*LAYOUTS, "cropped channels_last"])
def test_a_new_result_lies_in_memory_as_that_of_plain_torch(compiled, monkeypatch, layout):
    values = draw_values((2, 3, 8, 10), torch.float32, 0)
    if layout.startswith("cropped ch"):
        images = in_memory(values, "channels_last").tensor[:, :, 1:7, 2:9]
    else:
        images = in_memory(values, layout).tensor
    plan = make_plan([1, 0], [0.5, 0.5], [[0] * 4] * 2, *images.shape[2:])
    found = mix(images, plan)
    monkeypatch.setattr(serving, "operators", lambda device: None)
    expected = mix(images, plan)
    assert found.stride() == expected.stride()
    assert same_bits(found, expected)


def test_a_result_may_be_a_part_of_a_larger_buffer(compiled):
    """Two batches into one, as when a loader fills halves."""
    values = draw_values((4, 3, 9, 33), torch.uint8, 0).permute(0, 2, 3, 1).contiguous()
    plan = make_plan([1, 0], [0.3, 0.9], [[0, 0, 3, 4]] * 2, 9, 33)
    for name in each_set(compiled):
        whole = out_memory((4, 3, 9, 33), torch.bfloat16, "channels_last")
        OPERATORS.mix_into(*arguments(values[:2], plan), whole.tensor[:2])
        OPERATORS.mix_into(*arguments(values[2:], plan), whole.tensor[2:])
        for part in (slice(0, 2), slice(2, 4)):
            expected = referenced(values[part], plan, torch.bfloat16)
            assert same_bits(whole.tensor[part], expected), name
        assert whole.untouched_outside()
