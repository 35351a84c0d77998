"""Every instruction set mixes as plain torch does: bit for bit, or within roundings if normalised.

The tests take the operators of torch.ops.ftbench themselves; the public function has test_mix.py.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    referenced,
    same_bits,
)
from tests.support import make_plan

OPERATORS = torch.ops.ftbench
dtypes = st.sampled_from(FLOATS)
offsets = st.integers(0, 17)


def shape_of(images):
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).shape
    return images.shape


@given(mix_cases(), dtypes)
def test_a_new_batch_has_the_bits_of_plain_torch(compiled, case, dtype):
    images, plan = case
    kept, expected = images.clone(), referenced(images, plan, dtype)
    for name in each_set(compiled):
        found = OPERATORS.mix(*arguments(images, plan), dtype)
        assert same_bits(found, expected), name
        last = images.dtype != torch.uint8 and images.is_contiguous(
            memory_format=torch.channels_last
        )
        assert found.is_contiguous() or (
            last and found.is_contiguous(memory_format=torch.channels_last)
        )
    assert same_bits(images, kept)


@given(mix_cases(), dtypes, st.sampled_from(LAYOUTS), offsets)
def test_a_kept_buffer_has_the_bits_of_plain_torch_and_nothing_beside_it_changes(
    compiled, case, dtype, layout, offset
):
    images, plan = case
    expected = referenced(images, plan, dtype)
    for name in each_set(compiled):
        out = out_memory(expected.shape, dtype, layout, offset)
        OPERATORS.mix_into(*arguments(images, plan), out.tensor)
        assert same_bits(out.tensor, expected), name
        assert out.untouched_outside(), name


@given(mix_cases(special=False), dtypes, st.sampled_from(LAYOUTS), offsets)
def test_a_normalised_batch_is_its_definition_within_float32_roundings(
    compiled, case, dtype, layout, offset
):
    images, plan = case
    normalize = normalization(shape_of(images)[1])
    assert_defined(referenced(images, plan, dtype, normalize), images, plan, normalize)
    for _ in each_set(compiled):
        out = out_memory(shape_of(images), dtype, layout, offset)
        OPERATORS.mix_into(*arguments(images, plan, normalize), out.tensor)
        assert_defined(out.tensor, images, plan, normalize)
        assert out.untouched_outside()


@given(mix_cases(), dtypes, st.sampled_from(DENSE), offsets, st.booleans())
def test_writing_past_the_caches_changes_no_bit(compiled, case, dtype, layout, offset, normalised):
    images, plan = case
    shape = shape_of(images)
    taken = arguments(images, plan, normalization(shape[1]) if normalised else None)
    usual = compiled.last_cache_bytes()
    for name in each_set(compiled):
        cached, past = (out_memory(shape, dtype, layout, offset) for _ in range(2))
        OPERATORS.mix_into(*taken, cached.tensor)
        try:
            compiled.set_last_cache_bytes(1)
            OPERATORS.mix_into(*taken, past.tensor)
        finally:
            compiled.set_last_cache_bytes(usual)
        assert same_bits(past.tensor, cached.tensor), name
        assert past.untouched_outside(), name


@given(mix_cases(dtypes=[torch.uint8], layouts=["channels_last"]), dtypes, st.booleans())
def test_bytes_become_planes_or_pixels_alike(compiled, case, dtype, normalised):
    """The fused way from (B, H, W, 3) to planes, and the plain one to channels_last."""
    images, plan = case
    images = images[..., :3].contiguous()
    shape = shape_of(images)
    taken = arguments(images, plan, normalization(shape[1]) if normalised else None)
    for name in each_set(compiled):
        planes, pixels = (out_memory(shape, dtype, layout).tensor for layout in DENSE)
        OPERATORS.mix_into(*taken, planes)
        OPERATORS.mix_into(*taken, pixels)
        assert same_bits(planes, pixels), name


# Whole vectors and tails of every set: 16 and 32 lanes, three and six vectors of pixels.
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.uint8])
def test_every_width_to_two_hundred_is_right(compiled, source, dtype, normalised):
    for width in range(1, 201):
        values = draw_values((2, 3, 2, width), source, width)
        if source == torch.uint8:
            values = values.permute(0, 2, 3, 1).contiguous()
        box = [1, width // 3, 2, width // 3 + width // 2]
        plan = make_plan([1, 0], [0.3, 1.0], [box, box], 2, width)
        normalize = normalization(3) if normalised else None
        for name in each_set(compiled):
            for layout in DENSE:
                out = out_memory((2, 3, 2, width), dtype, layout)
                OPERATORS.mix_into(*arguments(values, plan, normalize), out.tensor)
                if normalised:
                    assert_defined(out.tensor, values, plan, normalize)
                else:
                    assert same_bits(out.tensor, referenced(values, plan, dtype)), (name, width)
                assert out.untouched_outside()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("past", [False, True])
def test_two_bytes_images_mixed_at_once_have_the_bits_of_one(compiled, dtype, past):
    """Partners in a row are taken two at a time; a box that hardly matters keeps them apart."""
    normalize, weights = normalization(3), [0.3, 0.8, 0.45, 0.0, 0.6]
    usual = compiled.last_cache_bytes()
    try:
        compiled.set_last_cache_bytes(1 if past else usual)
        for width in [1, 5, 15, 16, 17, 31, 32, 33, 48, 95, 96, 97, 111, 129, 192, 193]:
            images = draw_values((5, 3, 2, width), torch.uint8, width).permute(0, 2, 3, 1)
            images = images.contiguous()
            shape = (5, 3, 2, width)
            # In the last row and column; those pixels are then checked by themselves.
            boxes = [[1, width - 1, 2, width]] * 5
            for layout, name in itertools.product(DENSE, each_set(compiled)):
                two, one = (out_memory(shape, dtype, layout) for _ in range(2))
                plan = make_plan([1, 2, 3, 4, 0], weights, [[0, 0, 0, 0]] * 5, 2, width)
                boxed = make_plan([1, 2, 3, 4, 0], weights, boxes, 2, width)
                OPERATORS.mix_into(*arguments(images, plan, normalize), two.tensor)
                OPERATORS.mix_into(*arguments(images, boxed, normalize), one.tensor)
                assert_defined(two.tensor, images, plan, normalize)
                one.tensor[:, :, 1, width - 1] = two.tensor[:, :, 1, width - 1]
                assert same_bits(two.tensor, one.tensor), (name, layout, width)
                assert two.untouched_outside()
    finally:
        compiled.set_last_cache_bytes(usual)


@pytest.mark.parametrize("channels", [1000, 1025, 5000])
def test_more_channels_than_fit_in_a_tile_are_mixed(compiled, channels):
    values = draw_values((3, channels, 2, 3), torch.float32, 0)
    plan = make_plan([2, 0, 1], [0.3, 0.6, 1.0], [[0, 0, 1, 2]] * 3, 2, 3)
    expected = referenced(values, plan, torch.float32)
    for name in each_set(compiled):
        for layout in DENSE:
            images = in_memory(values, layout).tensor
            for other in DENSE:
                out = out_memory(values.shape, torch.float32, other)
                OPERATORS.mix_into(*arguments(images, plan), out.tensor)
                assert same_bits(out.tensor, expected), (name, layout, other)
                assert out.untouched_outside()


def test_images_of_many_tiles_are_mixed(compiled):
    """A tile is some thousand values, so that these images have several of them, cut in rows."""
    generator = torch.Generator().manual_seed(0)
    for source, channels in ((torch.float32, 1), (torch.bfloat16, 3), (torch.uint8, 3)):
        values = draw_values((5, channels, 191, 193), source, 1)
        partner = torch.randperm(5, generator=generator).tolist()
        box = [[0, 0, 0, 0], [7, 11, 180, 190], [-5, 60, 400, 61], [100, -3, 101, 500], [0] * 4]
        plan = make_plan(partner, [0.3, 1.0, 0.0, 0.7, 0.2], box, 191, 193)
        images = values.permute(0, 2, 3, 1) if source == torch.uint8 else values
        for dtype in FLOATS:
            expected = referenced(images, plan, dtype)
            for name in each_set(compiled):
                for layout in DENSE:
                    out = out_memory(values.shape, dtype, layout)
                    OPERATORS.mix_into(*arguments(images, plan), out.tensor)
                    assert same_bits(out.tensor, expected), (name, source, dtype, layout)


def test_expanded_and_repeated_images_may_be_mixed(compiled):
    one = draw_values((1, 3, 5, 7), torch.float32, 0)
    plan = make_plan([1, 2, 0], [0.3, 0.6, 1.0], [[0, 0, 1, 2]] * 3, 5, 7)
    images = one.expand(3, 3, 5, 7)
    for name in each_set(compiled):
        found = OPERATORS.mix(*arguments(images, plan), torch.float32)
        assert same_bits(found, referenced(images, plan, torch.float32)), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", [torch.float32, torch.uint8])
def test_weights_whose_products_are_subnormal_are_rounded_like_any_other(compiled, source, dtype):
    """One set's instruction for bfloat16 takes subnormal numbers for zero."""
    values = torch.zeros(2, 1, 1, 48)
    values[0] = 1.0
    images = values.permute(0, 2, 3, 1).byte() if source == torch.uint8 else values
    tiny = 2.0**-130
    plan = make_plan([1, 0], [tiny, 1.0], [[0] * 4] * 2, 1, 48)
    expected = referenced(images, plan, dtype)
    for name in each_set(compiled):
        found = OPERATORS.mix(*arguments(images, plan), dtype)
        assert same_bits(found, expected), name


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.uint8])
def test_threads_and_repetition_change_no_bit(compiled, threads, source):
    values = draw_values((6, 3, 67, 129), source, 0)  # enough for threads: 155,574 values
    images = values.permute(0, 2, 3, 1).contiguous() if source == torch.uint8 else values
    box = [[3, 5, 60, 100], [0] * 4, [0, 0, 67, 129], [10, 0, 11, 129], [-2, 64, 90, 65], [0] * 4]
    plan = make_plan([1, 2, 0, 4, 4, 3], [0.3, 0.1, 0.9, 1, 0, 0.5], box, 67, 129)
    for name in each_set(compiled):
        for dtype in FLOATS:
            for normalize in (None, normalization(3)):
                results = []
                for count in (1, 2, 4, 1):
                    threads(count)
                    results.append(OPERATORS.mix(*arguments(images, plan, normalize), dtype))
                assert all(same_bits(each, results[0]) for each in results), (name, dtype)
                if dtype == source:
                    for count in (1, 2, 4):
                        threads(count)
                        batch = images.clone()
                        OPERATORS.mix_(*arguments(batch, plan, normalize))
                        assert same_bits(batch, results[0]), (name, count)


@given(mix_cases(special=False), dtypes)
def test_sets_that_fuse_multiplication_agree_in_every_bit_when_normalised(compiled, case, dtype):
    images, plan = case
    taken = arguments(images, plan, normalization(shape_of(images)[1]))
    found = {name: OPERATORS.mix(*taken, dtype) for name in each_set(compiled)}
    found.pop("baseline")
    results = list(found.values())
    assert all(same_bits(each, results[0]) for each in results[1:])
