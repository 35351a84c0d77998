"""One file → one image in RGB, whatever it was; and that image at the size of the store."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ftbench.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]

MOST_PIXELS = 10**9
"""An image with more is refused: 3 GB once decoded. Pillow's own limit is 0.18 · 10⁹."""
_WHITE = (255, 255, 255, 255)


_DECODERS = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff")


class UnreadableError(Exception):
    """A file is no image that can be used; the message says why, to follow the file's name.

    ``passing`` where that may be over the next time: no permission, no memory, a disk that fails.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def decoders() -> str:
    """Return the versions of what decodes: others may find other pixels in the same file."""
    return " ".join(f"{name} {features.version(name)}" for name in ("pil", *_DECODERS))


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Let Pillow open large images, and keep its warnings of odd files to itself.

    Both are settings of the process, so this goes around all threads that decode.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_image(file: Path | IO[bytes]) -> Image.Image:
    """Return a file's image in mode RGB, upright; UnreadableError where it holds none.

    Of several frames the first is taken. What is transparent shows white. 16-bit grey is scaled to
    8 bits, not clipped. Whatever a damaged file makes Pillow raise is UnreadableError.
    """
    with decoding():
        image, _ = read_noted(file)
    return image


def read_noted(file: Path | IO[bytes]) -> tuple[Image.Image, str]:
    """Return a file's image as :func:`read_image` does, and what a user may want to know of it.

    For threads, with :func:`decoding` around all of them.
    """
    if isinstance(file, Path):
        _refuse_no_file(file)
    try:
        with Image.open(file) as opened:
            return as_rgb(opened)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"larger than {MOST_PIXELS:.0e} pixels".replace("+", "")) from error
    except UnidentifiedImageError as error:
        raise UnreadableError("no image that Pillow knows") from error
    # Its decoders raise OSError, SyntaxError, ValueError, struct.error, KeyError, IndexError, …
    except Exception as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> UnreadableError:
    """Return what an error of reading means: damage, or what may be over the next time."""
    if isinstance(error, MemoryError):
        return UnreadableError("cannot be read: not enough memory", passing=True)
    # What decoders find wrong has no number; the system's errors have.
    if isinstance(error, OSError) and error.errno is not None:
        return UnreadableError(f"cannot be read: {error.strerror}", passing=True)
    reason = str(error).strip().partition("\n")[0]
    return UnreadableError(f"damaged: {reason or type(error).__name__}")


def _refuse_no_file(path: Path) -> None:
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise unreadable(error) from error
    if path.is_dir():
        raise UnreadableError("a folder")
    if empty:
        raise UnreadableError("an empty file")


def as_rgb(opened: Image.Image) -> tuple[Image.Image, str]:
    """Return an open image in mode RGB, upright, and a note on what was left of it."""
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise UnreadableError(f"{width} × {height} pixels are more than {MOST_PIXELS:,}")
    frames = int(getattr(opened, "n_frames", 1) or 1)
    note = f"the first of {frames} frames" if frames > 1 else ""
    opened.load()
    upright = ImageOps.exif_transpose(opened)
    return _in_colour(upright), note


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode == "F":
        raise UnreadableError(
            "numbers with fractions, whose range nobody knows; save it as 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return _from_integers(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, _WHITE), clear).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as RGB: 65,535 becomes 255, where Pillow would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise UnreadableError("32-bit integers, whose range nobody knows; save it as 8 or 16 bits")
    grey = ((values + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def content_hash(image: Image.Image) -> str:
    """Return the SHA-256 of an RGB image's size and pixels: the same in every file format."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def resized(image: Image.Image, wanted: Preprocessing) -> Pixels:
    """Return an RGB image as the store holds it, (R, R, C) with R = ``wanted.resize``.

    The shorter side is resized to R and the middle taken, as torchvision's Resize and CenterCrop
    do to the pixel; or all of it is resized where ``wanted.squash``.
    """
    side = wanted.resize
    method = getattr(Image.Resampling, wanted.interpolation.upper())
    if wanted.channels == 1:
        image = image.convert("L")
    width, height = image.size
    if wanted.squash:
        width, height = side, side
    elif width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    if image.size != (width, height):
        image = image.resize((width, height), method)
    left, top = round((width - side) / 2), round((height - side) / 2)
    pixels: Pixels = np.array(image.crop((left, top, left + side, top + side)))
    return pixels.reshape(side, side, wanted.channels)
