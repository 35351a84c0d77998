"""Views of a batch: each operation is torchvision's, and draws are spread as they should be."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as peers

from ftbench import rng
from ftbench.images.views import (
    DRAWS,
    Policy,
    _blurred,
    grey,
    placements,
    random_views,
    turned_hue,
)

IMAGES = torch.rand(5, 3, 24, 30, generator=torch.Generator().manual_seed(0))


def half(rows=5, **given):
    """Return draws of ½, which change nothing, and others by their places."""
    draws = torch.full((DRAWS, rows), 0.5)
    for place, value in given.items():
        draws[int(place[1:])] = value
    return draws


def test_nothing_to_do_changes_nothing():
    views = random_views(IMAGES, Policy(), (24, 30), half(), 1.0)
    assert torch.equal(views, IMAGES)


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_are_torchvisions(name, draw):
    place = {"brightness": 7, "contrast": 8, "saturation": 9}[name]
    found = random_views(IMAGES, Policy(**{name: 0.4}), (24, 30), half(**{f"d{place}": draw}), 1.0)
    factor = 1 + 0.4 * (2 * draw - 1)
    expected = getattr(peers, f"adjust_{name}")(IMAGES, factor)
    assert torch.allclose(found, expected, atol=1e-5)
    large = random_views(
        IMAGES * 255, Policy(**{name: 0.4}), (24, 30), half(**{f"d{place}": draw}), 255.0
    )
    assert torch.allclose(large / 255, expected, atol=1e-5)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hues_are_torchvisions(turn):
    expected = peers.adjust_hue(IMAGES, turn)
    assert torch.allclose(turned_hue(IMAGES, torch.full((5,), turn)), expected, atol=1e-5)
    flat = torch.full((1, 3, 2, 2), 0.3)
    assert torch.allclose(turned_hue(flat, torch.tensor([turn])), flat)


def test_grey_is_torchvisions_and_a_share_of_the_rows():
    assert torch.allclose(grey(IMAGES), peers.rgb_to_grayscale(IMAGES), atol=1e-6)
    draws = half()
    draws[11] = torch.tensor([0.0, 0.9, 0.05, 0.5, 0.2])
    found = random_views(IMAGES, Policy(grayscale=0.1), (24, 30), draws, 1.0)
    assert [bool((row[0] == row[1]).all()) for row in found] == [True, False, True, False, False]


def test_mirrored_rows_are_mirrored():
    draws = half()
    draws[4] = torch.tensor([0.0, 0.9, 0.0, 0.9, 0.9])
    draws[5] = torch.tensor([0.9, 0.0, 0.0, 0.9, 0.9])
    found = random_views(IMAGES, Policy(flip=0.5, vertical_flip=0.5), (24, 30), draws, 1.0)
    expected = [IMAGES[0].flip(2), IMAGES[1].flip(1), IMAGES[2].flip(1, 2), IMAGES[3], IMAGES[4]]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("angle", [-30.0, 10.0, 90.0])
@pytest.mark.parametrize("size", [(24, 24), (24, 30), (30, 24)])
def test_turns_are_torchvisions_inside_the_image(angle, size):
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    draw = 0.5 + angle / 360
    found = random_views(images, Policy(rotation=180.0), size, half(1, d6=draw), 1.0)
    # What comes in from outside is mirrored here, and black there.
    expected = peers.rotate(images, angle, peers.InterpolationMode.BILINEAR)
    inside = peers.rotate(torch.ones_like(images), angle, peers.InterpolationMode.BILINEAR) > 0.999
    assert inside.float().mean() > 0.5
    assert torch.allclose(found[inside], expected[inside], atol=1e-4)


def test_crops_are_resized_as_torchvision_does_without_antialiasing():
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    # A quarter of the area, of ratio 1, in the upper left corner.
    policy = Policy(scale=(0.25, 0.25))
    found = random_views(images, policy, (16, 16), half(1, d2=0.0, d3=0.0), 1.0)
    expected = peers.resized_crop(images, 0, 0, 20, 20, [16, 16], antialias=False)
    inside = (..., slice(1, -1), slice(1, -1))  # at a crop's edge torchvision sees nothing outside
    assert torch.allclose(found[inside], expected[inside], atol=1e-5)


def test_crops_keep_shares_and_ratios_between_the_bounds_and_lie_inside():
    rows = 4_000
    draws = torch.from_numpy(rng.uniforms(DRAWS * rows, 0, "views").reshape(DRAWS, rows)).float()
    policy = Policy(scale=(0.3, 0.8), ratio=(3 / 4, 4 / 3), flip=0.3)
    for shape in ((rows, 3, 50, 50), (rows, 3, 40, 60)):
        matrix = placements(policy, shape, draws[:7])
        across, down = matrix[:, 0, 0].abs(), matrix[:, 1, 1].abs()
        share = across * down
        uncut = (across < 1) & (down < 1)
        assert float(share[uncut].min()) >= 0.3 - 1e-5
        assert float(share.max()) <= 0.8 + 1e-5
        ratio = across / down
        assert 0.74 < float(ratio[uncut].min()) < 0.77
        assert 1.3 < float(ratio[uncut].max()) < 1.34
        assert float((matrix[:, 0, 2].abs() + across).max()) <= 1 + 1e-5
        assert float((matrix[:, 1, 2].abs() + down).max()) <= 1 + 1e-5
        assert abs(float((matrix[:, 0, 0] < 0).float().mean()) - 0.3) < 0.03
    square = placements(policy, (rows, 3, 50, 50), draws[:7])
    assert abs(float((square[:, 0, 0] * square[:, 1, 1]).abs().mean()) - 0.55) < 0.01


def test_blur_is_a_gaussian_where_it_is_chosen():
    sigma = torch.tensor([1.3, 0.7, 2.0, 1.0, 0.2])
    chosen = torch.tensor([True, False, True, True, True])
    found = _blurred(IMAGES, chosen, sigma)
    assert torch.allclose(found[1], IMAGES[1], atol=1e-6)
    for row in (0, 2, 3, 4):
        expected = peers.gaussian_blur(IMAGES[row], [13, 13], [float(sigma[row])] * 2)
        assert torch.allclose(found[row], expected, atol=1e-5)


def test_erased_boxes_have_their_share_of_the_area_and_the_images_mean():
    rows = 400
    images = torch.rand(rows, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    draws = torch.from_numpy(rng.uniforms(DRAWS * rows, 1, "views").reshape(DRAWS, rows)).float()
    found = random_views(images, Policy(erase=0.5), (40, 40), draws, 1.0)
    changed = (found != images).all(dim=1)
    share = changed.flatten(1).float().mean(dim=1)
    assert abs(float((share > 0).float().mean()) - 0.5) < 0.08
    hit = share[share > 0]
    assert float(hit.min()) > 0.005
    assert float(hit.max()) < 0.36
    row = int(torch.argmax(share))
    colours = found[row][:, changed[row]]
    assert torch.allclose(
        colours, images[row].mean(dim=(1, 2))[:, None].expand_as(colours), atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_at_once_gives_images_of_the_size_in_range(channels):
    policy = Policy((0.6, 1.0), (3 / 4, 4 / 3), 0.5, 0.5, 15.0, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, 0.2)
    stored = torch.randint(0, 256, (9, channels, 50, 50), dtype=torch.uint8)
    draws = torch.from_numpy(rng.uniforms(DRAWS * 9, 2, "views").reshape(DRAWS, 9)).float()
    found = random_views(stored, policy, (32, 32), draws, 255.0)
    assert found.shape == (9, channels, 32, 32)
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 255
    assert np.unique(found[:, 0].flatten(1).numpy(), axis=0).shape[0] == 9


def test_a_row_has_its_view_whoever_is_beside_it():
    policy = Policy(scale=(0.5, 1.0), rotation=20.0, brightness=0.3, hue=0.1, blur=0.5, erase=0.5)
    draws = torch.from_numpy(rng.uniforms(DRAWS * 5, 3, "views").reshape(DRAWS, 5)).float()
    whole = random_views(IMAGES, policy, (24, 30), draws, 1.0)
    for row in range(5):
        alone = random_views(IMAGES[row : row + 1], policy, (24, 30), draws[:, row : row + 1], 1.0)
        assert torch.allclose(alone[0], whole[row], atol=1e-5)
