import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbench.ops import mix
from tests.support import make_images, make_plan

pytestmark = pytest.mark.usefixtures("implementation")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NORMALIZE = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def reference(images, plan, normalize=None):
    """The definition in float64, pixel by pixel: (B, C, H, W)."""
    integer = images.dtype == torch.uint8
    x = images.double().numpy()
    x = x.transpose(0, 3, 1, 2) if integer else x
    result = np.empty(x.shape)
    for i, c, row, column in itertools.product(*map(range, x.shape)):
        own, other = x[i, c, row, column], x[plan.partner[i].item(), c, row, column]
        top, left, bottom, right = plan.box[i].tolist()
        weight = plan.weight[i].item()
        inside = top <= row < bottom and left <= column < right
        value = other if inside else weight * own + (1 - weight) * other
        if normalize is not None:
            mean, std = normalize[0][c], normalize[1][c]
            value = (value / 255 - mean) / std if integer else (value - mean) / std
        result[i, c, row, column] = value
    return torch.from_numpy(result)


def assert_rounded_once(found, expected, dtype):
    """Within float32 arithmetic of the float64 reference, then half a unit in the last place."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    ulp = torch.finfo(dtype).eps * 0.51
    slack = 4e-6 * expected.abs().amax() if expected.numel() else 0.0
    assert ((found.double() - expected).abs() <= ulp * expected.abs() + slack).all()


def ordered(box):
    """Return [top, left, bottom, right) with no side inside out."""
    return *map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])


@st.composite
def cases(draw):
    """Images of any dtype and layout and a plan with boxes empty, sticking out or outside."""
    batch, channels = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    dtype = draw(st.sampled_from([*DTYPES, torch.uint8]))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "strided"]))
    edge = st.integers(-3, 10)
    each = {"min_size": batch, "max_size": batch}
    plan = make_plan(
        draw(st.lists(st.integers(0, max(0, batch - 1)), **each)),
        draw(st.lists(st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0]), **each)),
        draw(st.lists(st.tuples(edge, edge, edge, edge).map(ordered), **each)),
        height,
        width,
    )
    images = make_images(batch, channels, height, width, dtype, layout, draw(st.integers(0, 99)))
    normalize = None
    if draw(st.booleans()):
        normalize = ([0.3, 0.5, 0.7, 0.1][:channels], [0.2, 0.25, 0.5, 1.5][:channels])
    return images, plan, normalize


@given(cases(), st.sampled_from([None, *DTYPES]))
def test_mixing_is_its_definition(case, dtype):
    images, plan, normalize = case
    default = torch.float32 if images.dtype == torch.uint8 else images.dtype
    kept = images.clone()
    found = mix(images, plan, normalize=normalize, dtype=dtype)
    assert_rounded_once(found, reference(images, plan, normalize), dtype or default)
    assert torch.equal(images, kept)


@given(cases(), st.sampled_from(DTYPES), st.sampled_from(["contiguous", "channels_last"]))
def test_a_kept_buffer_is_filled_and_returned(case, dtype, layout):
    images, plan, normalize = case
    expected = mix(images, plan, normalize=normalize, dtype=dtype)
    out = make_images(*expected.shape, dtype=dtype, layout=layout, seed=1)
    stride = out.stride()
    assert mix(images, plan, normalize=normalize, out=out) is out
    assert torch.equal(out, expected)
    assert out.stride() == stride


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_buffer_that_is_the_images_themselves_is_right(dtype, layout):
    images = make_images(4, 3, 5, 6, dtype, layout)
    plan = make_plan([1, 2, 3, 0], [0.3] * 4, [[1, 1, 4, 5]] * 4, 5, 6)
    expected = mix(images.clone(), plan)
    assert mix(images, plan, out=images) is images
    assert torch.equal(images, expected)


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_buffer_that_overlaps_the_images_is_right(shift):
    memory = torch.randn(7, 3, 4, 4)
    images, out = memory[2:5], memory[2 + shift : 5 + shift]
    plan = make_plan([2, 0, 1], [0.7] * 3, [[0, 0, 2, 2]] * 3, 4, 4)
    expected = mix(images.clone(), plan)
    mix(images, plan, out=out)
    assert torch.equal(out, expected)


def test_a_buffer_that_is_a_transposed_view_of_the_images_is_right():
    images = torch.randn(2, 3, 5, 5)
    plan = make_plan([1, 0], [0.7, 0.2], [[0, 0, 2, 2]] * 2, 5, 5)
    expected = mix(images.clone(), plan)
    turned = images.transpose(2, 3)
    mix(images, plan, out=turned)
    assert torch.equal(turned, expected)


def test_a_buffer_that_repeats_its_memory_is_refused():
    out = torch.zeros(1, 3, 4, 4).expand(2, 3, 4, 4)
    plan = make_plan([1, 0], [0.5, 0.5], [[0, 0, 0, 0]] * 2, 4, 4)
    with pytest.raises((RuntimeError, ValueError), match=r"out|single memory location"):
        mix(torch.randn(2, 3, 4, 4), plan, out=out)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8])
def test_an_empty_batch_gives_an_empty_batch(dtype):
    plan = make_plan([], [], [], 4, 5)
    found = mix(make_images(0, 3, 4, 5, dtype), plan, normalize=NORMALIZE)
    assert found.shape == (0, 3, 4, 5)
    assert found.dtype == (torch.float32 if dtype == torch.uint8 else dtype)


def test_a_lone_image_is_its_own_partner():
    images = make_images(1, 3, 3, 3)
    plan = make_plan([0], [0.25], [[0, 0, 2, 2]], 3, 3)
    torch.testing.assert_close(mix(images, plan), images)


def test_no_mixing_leaves_images_bit_for_bit():
    for dtype in DTYPES:
        images = make_images(3, 2, 5, 3, dtype)
        plan = make_plan([2, 0, 1], [1.0] * 3, [[0, 0, 0, 0]] * 3, 5, 3)
        assert torch.equal(mix(images, plan), images)


@pytest.mark.parametrize("box", [[0, 0, 5, 3], [-9, -9, 99, 99]])
def test_a_box_over_the_whole_image_gives_the_partner_bit_for_bit(box):
    images = make_images(3, 2, 5, 3)
    plan = make_plan([2, 0, 1], [0.3] * 3, [box] * 3, 5, 3)
    assert torch.equal(mix(images, plan), images[[2, 0, 1]])
    assert plan.label_weight.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "box", [[2, 1, 2, 4], [1, 3, 4, 3], [3, 3, 3, 3], [9, 0, 12, 4], [-5, 0, -1, 4]]
)
def test_an_empty_or_outlying_box_pastes_nothing(box):
    images = make_images(2, 1, 4, 4)
    plan = make_plan([1, 0], [0.8, 1.0], [box] * 2, 4, 4)
    expected = torch.stack([0.8 * images[0] + 0.2 * images[1], images[1]])
    torch.testing.assert_close(mix(images, plan), expected)
    assert plan.label_weight.tolist() == pytest.approx([0.8, 1.0])


def test_uint8_pixels_are_scaled_to_one_and_normalised_in_one_rounding():
    images = make_images(2, 3, 4, 4, torch.uint8)
    plan = make_plan([1, 0], [1.0, 1.0], [[0, 0, 0, 0]] * 2, 4, 4)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in NORMALIZE)
    expected = (images.permute(0, 3, 1, 2).double() / 255 - mean) / std
    assert_rounded_once(mix(images, plan, normalize=NORMALIZE), expected, torch.float32)
    found = mix(images, plan, normalize=NORMALIZE, dtype=torch.bfloat16)
    assert torch.equal(found, mix(images, plan, normalize=NORMALIZE).bfloat16())
    # Without normalize the pixels stay on their scale.
    assert torch.equal(mix(images, plan), images.permute(0, 3, 1, 2).float())


def test_half_precision_images_are_mixed_in_float32():
    # In float16 itself, 0.3 · 2048 + 0.7 · 1 rounds at each step and 60000 + 60000 overflows.
    images = torch.tensor([2048.0, 60000.0]).half().view(2, 1, 1, 1)
    plan = make_plan([1, 0], [0.3, 0.5], [[0, 0, 0, 0]] * 2, 1, 1)
    found = mix(images, plan, dtype=torch.float32).flatten()
    assert found.tolist() == pytest.approx(
        [0.3 * 2048 + 0.7 * 60000, 0.5 * 2048 + 0.5 * 60000], rel=1e-6
    )


def test_the_number_of_threads_does_not_change_a_bit():
    images = make_images(5, 3, 33, 31)
    plan = make_plan([4, 3, 2, 1, 0], [0.3, 0.1, 0.9, 1, 0], [[3, 5, 20, 30]] * 5, 33, 31)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(mix(images, plan, normalize=NORMALIZE, dtype=torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


PLAIN = make_plan([1, 0], [0.5, 0.5], [[0, 0, 1, 1]] * 2, 4, 5)
IMAGES = make_images(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (IMAGES.double(), {}, TypeError, "images have dtype torch.float64, expected float32"),
        (IMAGES.int(), {}, TypeError, "images have dtype torch.int32, expected float32"),
        (IMAGES[0], {}, ValueError, r"images have shape \(3, 4, 5\), expected \(B, C, H, W\)"),
        (
            IMAGES[0].byte(),
            {},
            ValueError,
            r"images have shape \(3, 4, 5\), expected \(B, H, W, C\)",
        ),
        (IMAGES.mT, {}, ValueError, "images are 5 × 4 pixels, the plan is for 4 × 5"),
        (IMAGES.byte(), {}, ValueError, "images are 3 × 4 pixels, the plan is for 4 × 5"),
        (IMAGES[:1], {}, ValueError, "plan is for 2 images, the batch has 1"),
        (IMAGES.to("meta"), {}, ValueError, "plan is on cpu, images on meta"),
        (IMAGES, {"dtype": torch.float64}, TypeError, "dtype is torch.float64, expected"),
        (IMAGES, {"dtype": torch.uint8}, TypeError, "dtype is torch.uint8, expected"),
        (IMAGES, {"out": IMAGES[:, :2]}, ValueError, r"out is \(2, 2, 4, 5\) .* \(2, 3, 4, 5\)"),
        (IMAGES, {"out": IMAGES.to("meta")}, ValueError, "out is .* on meta, expected .* on cpu"),
        (IMAGES.numpy(), {}, TypeError, "images are of type ndarray, expected a tensor"),
        (IMAGES, {"out": IMAGES.numpy()}, TypeError, "out is of type ndarray, expected a tensor"),
        (IMAGES, {"dtype": "float32"}, TypeError, "dtype is 'float32', expected"),
        (IMAGES.byte(), {}, ValueError, r"expected \(B, H, W, C\) for torch.uint8"),
        (
            IMAGES,
            {"out": IMAGES.double()},
            TypeError,
            "out has dtype torch.float64, expected float32",
        ),
        (
            IMAGES,
            {"out": IMAGES.half(), "dtype": torch.float32},
            TypeError,
            "out has dtype torch.float16, expected torch.float32",
        ),
        (
            IMAGES,
            {"normalize": ((0.5,), (0.5,))},
            ValueError,
            "normalize has 1 means and 1 stds, the images 3",
        ),
        (
            IMAGES,
            {"normalize": (NORMALIZE[0], (1.0,))},
            ValueError,
            "normalize has 3 means and 1 stds",
        ),
        (IMAGES, {"normalize": NORMALIZE[:1]}, ValueError, "normalize"),
        (IMAGES, {"normalize": (0.5, 0.5)}, (TypeError, ValueError), "normalize"),
        (IMAGES, {"normalize": 3}, (TypeError, ValueError), "normalize"),
        (IMAGES, {"normalize": (NORMALIZE[0], (0.2, 0.0, 0.2))}, ValueError, "normalize"),
        (IMAGES, {"normalize": ((0, float("nan"), 0), NORMALIZE[1])}, ValueError, "normalize"),
    ],
)
def test_a_malformed_argument_is_named_with_its_value_and_what_was_expected(
    images, options, error, message
):
    with pytest.raises(error, match=message):
        mix(images, PLAIN, **options)


@pytest.mark.parametrize("wrong", [-1, 2, 2**40])
def test_a_partner_outside_the_batch_is_named(wrong):
    with pytest.raises((IndexError, ValueError), match=f"partner holds {wrong}, expected 0 to 1"):
        mix(IMAGES, make_plan([0, wrong], [1, 1], [[0, 0, 0, 0]] * 2, 4, 5))
