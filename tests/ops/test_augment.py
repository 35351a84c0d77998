"""Views from resident bytes: what they are, whatever serves, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as torchvision

from ftbench.ops import AugmentPlan, augment, mix, sample_augment, sample_mix, views_of
from tests.ops.cases import FLOATS, each_set, normalization, out_memory

NEAR = {torch.float32: 3e-4, torch.float16: 0.15, torch.bfloat16: 1.1}  # of 255 levels


def bytes_of(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)


def plan_of(crops, flips, height, width):
    crop = torch.tensor(crops, dtype=torch.float32).reshape(-1, 4)
    return AugmentPlan(crop, torch.tensor(flips, dtype=torch.bool), height, width)


def pixel_by_pixel(store, rows, plan, size):
    """Return the views by the definition, in loops over float64 numbers."""
    found = np.zeros((len(rows), store.shape[3], *size))
    for image, row in enumerate(rows.tolist()):
        top, left, tall, wide = (float(v) for v in plan.crop[image])
        pixels = store[row].double().numpy()
        for y in range(size[0]):
            for x in range(size[1]):
                place = size[1] - 1 - x if plan.flip[image] else x
                total, value = 0.0, 0.0
                for j, down in _weights(top, tall, size[0], y, plan.height):
                    for i, across in _weights(left, wide, size[1], place, plan.width):
                        total += down * across
                        value = value + down * across * pixels[j, i]
                found[image, :, y, x] = value / total
    return torch.from_numpy(found)


def _weights(start, length, wanted, index, of):
    step = length / wanted
    centre, reach = start + step * (index + 0.5), max(step, 1.0)
    for pixel in range(max(0, math.floor(start)), min(of, math.ceil(start + length))):
        weight = 1 - abs(pixel + 0.5 - centre) / reach
        inside = min(pixel + 1, start + length) - max(pixel, start)
        if weight > 0 and inside > 0:
            yield pixel, weight * inside


@st.composite
def cases(draw):
    """A store, some of its rows, their views and the views' size."""
    height, width = draw(st.integers(1, 23)), draw(st.integers(1, 40))
    channels, batch = draw(st.sampled_from([1, 2, 3, 3, 5])), draw(st.integers(1, 3))
    size = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 7, 15, 16, 17, 33]))
    crops = []
    for _ in range(batch):
        sides = []
        for of in (height, width):
            whole = draw(st.booleans())
            if whole:
                length = draw(st.integers(1, of))
                start = draw(st.integers(0, of - length))
            else:
                length = of * draw(st.floats(0.0625, 1, width=32))
                start = (of - length) * draw(st.floats(0, 1, width=32))
            sides.append((start, length))
        (top, tall), (left, wide) = sides
        crops.append([top, left, min(tall, height - top), min(wide, width - left)])
    flips = draw(st.lists(st.booleans(), min_size=batch, max_size=batch))
    rows = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=batch, max_size=batch)))
    store = bytes_of(4, height, width, channels, seed=draw(st.integers(0, 99)))
    return store, rows, plan_of(crops, flips, height, width), size


@given(cases())
def test_a_view_is_its_definition(implementation, case):
    store, rows, plan, size = case
    found = augment(store, rows, plan, size=size)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert (found - pixel_by_pixel(store, rows, plan, size)).abs().max() < 3e-3


@pytest.mark.parametrize("sides", [(256, 256, 224, 224), (60, 90, 32, 48), (40, 30, 64, 64)])
def test_views_are_torchvisions_within_a_level(implementation, sides):
    height, width, *size = sides
    store = bytes_of(3, height, width, 3)
    plan = sample_augment(12, height, width, seed=0, step=0)
    rows = torch.arange(12) % 3
    found = augment(store, rows, plan, size=tuple(size))
    for image, crop in enumerate(plan.crop.int().tolist()):
        pixels = store[rows[image]].permute(2, 0, 1)
        expected = torchvision.resized_crop(pixels, *crop, size, antialias=True)
        if plan.flip[image]:
            expected = torchvision.horizontal_flip(expected)
        # Torchvision rounds after each side: a level away, and half a one for our own rounding.
        assert (found[image].round() - expected.float()).abs().max() <= 1


@given(
    cases(),
    st.sampled_from(FLOATS),
    st.sampled_from(["contiguous", "channels_last"]),
    st.sampled_from(["none", "mixup", "cutmix"]),
    st.booleans(),
    st.integers(0, 9),
)
def test_mixing_normalising_and_rounding_follow_in_one_pass(
    implementation, case, dtype, layout, mixing, normalised, step
):
    store, rows, plan, size = case
    alphas = {"mixup": (1.0, 0.0), "cutmix": (0.0, 1.0)}.get(mixing, (0.0, 0.0))
    mixed = sample_mix(
        len(rows), *size, mixup_alpha=alphas[0], cutmix_alpha=alphas[1], seed=0, step=step
    )
    normalize = normalization(store.shape[3]) if normalised else None
    out = out_memory((len(rows), store.shape[3], *size), dtype, layout)
    found = augment(
        store,
        rows,
        plan,
        size=size,
        normalize=normalize,
        mix=None if mixing == "none" else mixed,
        out=out.tensor,
    )
    assert found is out.tensor
    assert out.untouched_outside()
    expected = mix(pixel_by_pixel(store, rows, plan, size).float(), mixed)
    if normalize is not None:
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in normalize)
        expected = (expected / 255 - mean) / std
        assert ((found.float() - expected).abs() * std * 255).max() < 2 * NEAR[dtype] + 0.01
    else:
        assert (found.float() - expected).abs().max() < NEAR[dtype] + 3e-3


def test_partners_in_cycles_and_chains_are_each_mixed_with_theirs(implementation):
    store, rows = bytes_of(9, 12, 13, 3), torch.tensor([8, 1, 1, 3, 4, 0, 2])
    plan = sample_augment(7, 12, 13, seed=0, step=1)
    partner = torch.tensor([1, 2, 0, 3, 0, 4, 6])
    mixed = sample_mix(7, 10, 11, mixup_alpha=1.0, seed=0, step=0)
    mixed = type(mixed)(partner, torch.rand(7), torch.zeros(7, 4, dtype=torch.int32), 10, 11)
    alone = augment(store, rows, plan, size=(10, 11))
    found = augment(store, rows, plan, size=(10, 11), mix=mixed)
    assert (found - mix(alone, mixed)).abs().max() < 1e-3


def test_each_set_and_thread_count_gives_the_same_numbers(compiled):
    store, rows = bytes_of(5, 50, 61, 3), torch.arange(16) % 5
    plan = sample_augment(16, 50, 61, seed=0, step=0)
    mixed = sample_mix(16, 33, 35, mixup_alpha=1.0, cutmix_alpha=1.0, seed=1, step=0)
    threads, found = torch.get_num_threads(), []
    try:
        for _ in each_set(compiled):
            for count in (1, 3):
                torch.set_num_threads(count)
                found.append(augment(store, rows, plan, size=(33, 35), mix=mixed))
            assert torch.equal(found[-1], found[-2])
    finally:
        torch.set_num_threads(threads)
    assert all((each - found[0]).abs().max() < 1e-3 for each in found)


def test_a_memory_map_serves_as_the_store(implementation, tmp_path):
    store = bytes_of(6, 9, 8, 3)
    np.save(tmp_path / "store.npy", store.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "store.npy", mmap_mode="r+"))
    plan, rows = sample_augment(4, 9, 8, seed=0, step=0), torch.tensor([5, 0, 5, 2])
    of_map, of_memory = (augment(s, rows, plan, size=(5, 6)) for s in (mapped, store))
    assert torch.equal(of_map, of_memory)


def test_an_empty_batch_gives_none(implementation):
    plan = sample_augment(0, 9, 8, seed=0, step=0)
    none = torch.empty(0, dtype=torch.int64)
    found = augment(bytes_of(6, 9, 8, 3), none, plan, size=(5, 6), dtype=torch.bfloat16)
    assert found.shape == (0, 3, 5, 6)
    assert found.dtype == torch.bfloat16


def test_views_of_images_are_the_same_and_differentiable():
    store = bytes_of(4, 9, 8, 3)
    plan = sample_augment(4, 9, 8, seed=0, step=0)
    images = store.permute(0, 3, 1, 2).float().requires_grad_()
    found = views_of(images, plan, (5, 6))
    assert (found - augment(store, torch.arange(4), plan, size=(5, 6))).abs().max() < 1e-3
    found.sum().backward()
    # Each pixel of a view hands on all of its gradient.
    assert images.grad.sum().item() == pytest.approx(found.numel(), rel=1e-4)
    with pytest.raises(ValueError, match="4 images of 9 × 8"):
        views_of(images[:2], plan, (5, 6))


class TestDraws:
    def test_they_are_a_function_of_seed_and_step(self):
        first, again, other = (sample_augment(64, 90, 80, seed=3, step=step) for step in (7, 7, 8))
        assert torch.equal(first.crop, again.crop)
        assert torch.equal(first.flip, again.flip)
        assert not torch.equal(first.crop, other.crop)

    def test_they_have_torchvisions_distribution(self):
        ours = sample_augment(4000, 100, 160, seed=0, step=0).crop.double()
        image = torch.zeros(3, 100, 160)
        theirs = torch.tensor([_torchvisions(image) for _ in range(4000)], dtype=torch.float64)
        for of in (
            lambda c: c[:, 2] * c[:, 3],
            lambda c: c[:, 3] / c[:, 2],
            lambda c: c[:, 0] / (100 - c[:, 2] + 1),
            lambda c: c[:, 1] / (160 - c[:, 3] + 1),
        ):
            fits = (ours[:, 2] < 100) & (ours[:, 3] < 160)
            fit_theirs = (theirs[:, 2] < 100) & (theirs[:, 3] < 160)
            assert ks_2samp(of(ours[fits]), of(theirs[fit_theirs])).pvalue > 1e-3

    def test_crops_are_whole_pixels_inside_and_flips_their_share(self):
        plan = sample_augment(5000, 37, 53, scale=(0.01, 1.0), flip=0.3, seed=0, step=0)
        assert torch.equal(plan.crop, plan.crop.round())
        top, left, tall, wide = plan.crop.unbind(1)
        assert tall.min() >= 1
        assert wide.min() >= 1
        assert (top + tall).max() == 37
        assert (left + wide).max() == 53
        assert plan.flip.float().mean().item() == pytest.approx(0.3, abs=0.03)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"scale": (0.0, 1.0)}, "scale"),
            ({"scale": (0.5, 1.5)}, "1 at most"),
            ({"ratio": (2.0, 1.0)}, "ratio"),
            ({"flip": 1.5}, "flip"),
            ({"batch_size": -1}, "batch_size"),
            ({"height": 0}, "positive"),
        ],
    )
    def test_wrong_options_are_named(self, options, says):
        wanted = {"batch_size": 2, "height": 9, "width": 8, "seed": 0, "step": 0, **options}
        with pytest.raises(ValueError, match=says):
            sample_augment(**wanted)


def _torchvisions(image):
    params = v2.RandomResizedCrop(8).make_params([image])
    return [params["top"], params["left"], params["height"], params["width"]]


STORE, ROWS = bytes_of(4, 9, 8, 3), torch.tensor([0, 3])
PLAN = plan_of([[0, 0, 9, 8], [1, 2, 3, 4]], [True, False], 9, 8)
GOOD = {"store": STORE, "rows": ROWS, "plan": PLAN, "size": (5, 6)}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"store": STORE.float()}, TypeError, "store has dtype torch.float32"),
        ({"store": [1]}, TypeError, "store is of type list"),
        ({"store": STORE[0]}, ValueError, r"expected \(N, H, W, C\)"),
        ({"store": STORE.permute(0, 2, 1, 3)}, ValueError, "contiguous"),
        ({"rows": ROWS.int()}, TypeError, "rows have dtype torch.int32"),
        ({"rows": [0, 3]}, TypeError, "rows are of type list"),
        ({"rows": ROWS[None]}, ValueError, "rows have shape"),
        ({"rows": torch.tensor([0, 4])}, IndexError, "rows holds 4, expected 0 to 3"),
        ({"rows": torch.tensor([-1, 0])}, IndexError, "rows holds -1"),
        ({"rows": ROWS[:1]}, ValueError, "2 images, 1 rows"),
        ({"plan": None}, TypeError, "expected an AugmentPlan"),
        ({"plan": plan_of([[0, 0, 8, 9]] * 2, [True, False], 8, 9)}, ValueError, "9 × 8"),
        ({"size": (0, 6)}, ValueError, "both positive"),
        ({"dtype": torch.float64}, TypeError, "float64"),
        ({"out": torch.empty(2, 3, 5, 7)}, ValueError, r"expected \(2, 3, 5, 6\)"),
        ({"out": torch.empty(2, 3, 5, 6, dtype=torch.uint8)}, TypeError, "uint8"),
        ({"out": torch.empty(1, 3, 5, 6).expand(2, -1, -1, -1)}, ValueError, "single memory"),
        ({"normalize": ((0.5,), (0.5,))}, ValueError, "1 means"),
        ({"mix": 3}, TypeError, "expected a MixPlan"),
        ({"mix": sample_mix(2, 9, 8, seed=0, step=0)}, ValueError, "views have"),
        ({"mix": sample_mix(3, 5, 6, seed=0, step=0)}, ValueError, "3 images, the batch has 2"),
    ],
)
def test_what_is_wrong_is_named(best_or_plain, changes, error, says):
    if "single memory" in says and best_or_plain == "reference":
        error, says = RuntimeError, "single memory"
    with pytest.raises(error, match=says):
        augment(**{**GOOD, **changes})


@pytest.fixture(params=["reference", "best"])
def best_or_plain(request, monkeypatch):
    from ftbench.ops import serving

    if request.param == "reference":
        plain = serving.Implementation("reference", "the tests ask for it")
        monkeypatch.setattr(serving, "implementation", lambda: plain)
    return request.param


@pytest.mark.parametrize(
    ("crop", "flip", "error", "says"),
    [
        ([[0, 0, 10, 8]], [True], ValueError, "within 9 × 8"),
        ([[0, 1, 9, 8]], [True], ValueError, "within 9 × 8"),
        ([[-1, 0, 9, 8]], [True], ValueError, "within 9 × 8"),
        ([[0, 0, 0, 8]], [True], ValueError, "within 9 × 8"),
        ([[0, 0, float("nan"), 8]], [True], ValueError, "within 9 × 8"),
        ([[0, 0, 9, 8]], [True, False], ValueError, r"expected \(2, 4\)"),
    ],
)
def test_plans_that_leave_the_image_are_refused(crop, flip, error, says):
    with pytest.raises(error, match=says):
        plan_of(crop, flip, 9, 8)
    with pytest.raises(TypeError, match=r"plan\.flip has dtype torch.int64"):
        AugmentPlan(torch.ones(1, 4), torch.ones(1, dtype=torch.int64), 9, 8)


@pytest.mark.deep
@given(cases(), st.sampled_from(FLOATS), st.booleans(), st.integers(0, 9))
def test_the_gpus_program_makes_the_same_views(emulated, case, dtype, last, step):
    store, rows, plan, size = case
    mixed = sample_mix(len(rows), *size, mixup_alpha=1.0, cutmix_alpha=1.0, seed=0, step=step)
    layout = "channels_last" if last else "contiguous"
    out = out_memory((len(rows), store.shape[3], *size), dtype, layout)
    mean, std = normalization(store.shape[3])
    torch.ops.ftbench_emulated.augment_into(
        store, rows, plan.crop, plan.flip, mixed.partner, mixed.weight, mixed.box, mean, std,
        out.tensor,
    )  # fmt: skip
    expected = augment(store, rows, plan, size=size, normalize=(mean, std), mix=mixed)
    scale = torch.tensor(std).view(1, -1, 1, 1) * 255
    assert ((out.tensor.float() - expected) * scale).abs().max() < 2 * NEAR[dtype] + 0.01
    assert out.untouched_outside()


def test_the_operator_passes_torchs_own_checks(compiled):
    from torch.library import opcheck

    mixed = sample_mix(2, 5, 6, mixup_alpha=1.0, seed=0, step=0)
    for plan in ((None, None, None), (mixed.partner, mixed.weight, mixed.box)):
        opcheck(
            torch.ops.ftbench.augment_into.default,
            (STORE, ROWS, PLAN.crop, PLAN.flip, *plan, [], [], torch.empty(2, 3, 5, 6)),
        )


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mixing", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_a_gpu_makes_the_same_views(compiled, dtype, mixing):
    store, rows = bytes_of(7, 60, 71, 3), torch.arange(16) % 7
    plan = sample_augment(16, 60, 71, seed=0, step=0)
    mixed = sample_mix(16, 33, 35, mixup_alpha=mixing[0], cutmix_alpha=mixing[1], seed=0, step=0)
    options = {"size": (33, 35), "normalize": normalization(3), "dtype": dtype}
    here = augment(store, rows, plan, mix=mixed, **options)
    there = augment(store.cuda(), rows.cuda(), plan.to("cuda"), mix=mixed.to("cuda"), **options)
    scale = torch.tensor(options["normalize"][1]).view(1, -1, 1, 1) * 255
    apart = (there.cpu().float() - here.float()).abs() * scale
    assert apart.max() < 2 * NEAR[dtype] + 0.01
