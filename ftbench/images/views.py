"""Other views of a batch of images: crops, turns, colours, each row by its own draws, no loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision and Pillow have it
_BLUR_REACH = 6  # pixels: three standard deviations of the widest blur


@dataclass(frozen=True)
class Policy:
    """What may be done to an image; zeros do nothing.

    ``scale`` is the share of the area that a crop keeps, ``ratio`` its width by its height where
    the image is square, and against the image's own otherwise. Turns are in degrees either way,
    jitters are shares either way, ``hue`` of the whole circle either way, and what is left are
    shares of the images.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    erase: float = 0.0


DRAWS = 20  # numbers in [0, 1) that a view takes


def random_views(
    images: Tensor, policy: Policy, size: tuple[int, int], draws: Tensor, white: float
) -> Tensor:
    """Return a view of each of the images (N, C, H, W), (N, C, *size) float32 in [0, ``white``].

    ``draws`` (20, N) in [0, 1) say which. Crops are resampled bilinearly, by torch's rules for
    ``align_corners=False``, without antialiasing: stored images are hardly larger than views.
    """
    views = images.float()
    whole = size == tuple(images.shape[2:])
    if not whole or _moves(policy):
        views = _sampled(views, placements(policy, images.shape, draws[:7]), size)
    if views.shape[1] == 3:
        views = _in_other_colours(views, policy, draws[7:13], white)
    else:
        views = _brightened(views, policy, draws[7:9], white)
    if policy.blur:
        views = _blurred(views, draws[13] < policy.blur, 0.1 + 1.9 * draws[14])
    if policy.erase:
        views = _erased(views, draws[15] < policy.erase, draws[16:20])
    return views


def _moves(policy: Policy) -> bool:
    geometry = (policy.flip, policy.vertical_flip, policy.rotation)
    return any(geometry) or policy.scale != (1.0, 1.0) or policy.ratio != (1.0, 1.0)


def placements(policy: Policy, shape: tuple[int, ...], draws: Tensor) -> Tensor:
    """Return for each row the matrix (N, 2, 3) from places in its view to places in its image.

    Places run from −1 to 1 along each side. A crop keeps a share of the area between the bounds of
    ``policy.scale`` and a ratio whose logarithm is uniform between its bounds (as torchvision's
    RandomResizedCrop draws them), cut to the image; it is turned about its middle.
    """
    height, width = shape[2:]
    low, high = policy.scale
    share = low + (high - low) * draws[0]
    narrow, wide = (math.log(value) for value in policy.ratio)
    ratio = torch.exp(narrow + (wide - narrow) * draws[1])
    # In shares of the image's sides.
    across, down = (share * ratio).sqrt().clamp(max=1.0), (share / ratio).sqrt().clamp(max=1.0)
    right, below = (2 * draws[2] - 1) * (1 - across), (2 * draws[3] - 1) * (1 - down)
    mirrored = torch.where(draws[4] < policy.flip, -1.0, 1.0)
    upside_down = torch.where(draws[5] < policy.vertical_flip, -1.0, 1.0)
    angle = math.radians(policy.rotation) * (2 * draws[6] - 1)
    cosine, sine = angle.cos(), angle.sin()
    # A turn is of pixels, and the sides of an image need not be equal.
    tall = down * height / width
    rows = (
        torch.stack([across * cosine * mirrored, -tall * sine * upside_down, right], dim=1),
        torch.stack(
            [across * width / height * sine * mirrored, down * cosine * upside_down, below], dim=1
        ),
    )
    return torch.stack(rows, dim=1)


def _sampled(images: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    shape = [len(images), images.shape[1], *size]
    grid = F.affine_grid(matrices, shape, align_corners=False)
    # What a turn brings in from outside is mirrored: a black corner would tell of the turn.
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _in_other_colours(views: Tensor, policy: Policy, draws: Tensor, white: float) -> Tensor:
    views = _brightened(views, policy, draws[:2], white)
    if policy.saturation:
        factor = _factor(policy.saturation, draws[2])
        views = _blend(views, grey(views), factor, white)
    if policy.hue:
        views = turned_hue(views / white, policy.hue * (2 * draws[3] - 1)) * white
    if policy.grayscale:
        chosen = (draws[4] < policy.grayscale).view(-1, 1, 1, 1)
        views = torch.where(chosen, grey(views), views)
    return views


def _brightened(views: Tensor, policy: Policy, draws: Tensor, white: float) -> Tensor:
    """Return views of other brightness, then of other contrast."""
    if policy.brightness:
        views = _blend(views, torch.zeros_like(views), _factor(policy.brightness, draws[0]), white)
    if policy.contrast:
        mean = grey(views).mean(dim=(1, 2, 3), keepdim=True)
        views = _blend(views, mean, _factor(policy.contrast, draws[1]), white)
    return views


def _factor(jitter: float, draws: Tensor) -> Tensor:
    return (1 + jitter * (2 * draws - 1)).view(-1, 1, 1, 1)


def _blend(views: Tensor, others: Tensor, factor: Tensor, white: float) -> Tensor:
    """Return ``factor`` of the views and the rest of others, in range: torchvision's definition."""
    return (factor * views + (1 - factor) * others).clamp(0, white)


def grey(views: Tensor) -> Tensor:
    """Return the brightness of RGB views (N, 3, H, W) as (N, 1, H, W); grey ones as they are."""
    if views.shape[1] != 3:
        return views
    red, green, blue = views.unbind(dim=1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(1)


def turned_hue(views: Tensor, turns: Tensor) -> Tensor:
    """Return RGB views (N, 3, H, W) in [0, 1] with hues turned by shares (N,) of the circle.

    In HSV: a colour of hue h, saturation s and value v has the channels
    v − v·s·max(0, min(k, 4 − k, 1)) with k = (n + 6h) mod 6 and n = 5, 3, 1.
    """
    value, which = views.max(dim=1)
    span = value - views.min(dim=1).values
    red, green, blue = views.unbind(dim=1)
    safe = torch.where(span > 0, span, 1.0)
    hue = torch.where(
        which == 0,
        (green - blue) / safe,
        torch.where(which == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns.view(-1, 1, 1)
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue) % 6
        channels.append(value - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _blurred(views: Tensor, chosen: Tensor, sigma: Tensor) -> Tensor:
    """Return the chosen rows after a Gaussian of ``sigma`` (N,) pixels, edges mirrored."""
    rows, channels, height, width = views.shape
    reach = min(_BLUR_REACH, height - 1, width - 1)
    places = torch.arange(-reach, reach + 1, device=views.device, dtype=views.dtype)
    kernel = torch.exp(-0.5 * (places / sigma.view(-1, 1)) ** 2)
    kernel = torch.where(chosen.view(-1, 1), kernel, (places == 0).to(views.dtype))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = views.reshape(1, rows * channels, height, width)
    padded = F.pad(flat, (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel[:, None, None, :], groups=rows * channels)
    down = F.conv2d(across, kernel[:, None, :, None], groups=rows * channels)
    return down.view_as(views)


def _erased(views: Tensor, chosen: Tensor, draws: Tensor) -> Tensor:
    """Return the chosen rows with a box in their mean colour: 2 to 33 % of the area.

    Zhong et al. 2020 (AAAI); the ratio of its sides is between 0.3 and 3.3.
    """
    _, _, height, width = views.shape
    share = 0.02 + 0.31 * draws[0]
    ratio = torch.exp(math.log(0.3) + math.log(11) * draws[3])
    tall = (share * ratio).sqrt().clamp(max=1.0)
    wide = (share / ratio).sqrt().clamp(max=1.0)
    top, left = draws[1] * (1 - tall), draws[2] * (1 - wide)
    down = (torch.arange(height, device=views.device) + 0.5) / height
    across = (torch.arange(width, device=views.device) + 0.5) / width
    in_rows = (down >= top[:, None]) & (down < (top + tall)[:, None])
    in_columns = (across >= left[:, None]) & (across < (left + wide)[:, None])
    inside = chosen[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    colour = views.mean(dim=(2, 3), keepdim=True)
    return torch.where(inside[:, None], colour, views)
