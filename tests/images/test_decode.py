"""One file → one RGB image, whatever it was; resized to the pixel as torchvision does."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as peers

from ftbench.images.decode import (
    UnreadableError,
    content_hash,
    decoding,
    read_image,
    read_noted,
    resized,
)
from ftbench.preprocessing import Preprocessing

RNG = np.random.default_rng(0)


def picture(width=23, height=17):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    buffer.seek(0)
    return buffer


@pytest.fixture
def odd(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "TGA"])
def test_a_picture_is_the_same_in_every_lossless_format(form):
    image = picture()
    found = read_image(saved(image, form, **({"lossless": True} if form == "WEBP" else {})))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(image))
    assert content_hash(found) == content_hash(image)


def test_the_hash_tells_pictures_of_equal_bytes_and_other_shape_apart():
    flat = Image.fromarray(np.zeros((2, 6, 3), dtype=np.uint8))
    tall = Image.fromarray(np.zeros((6, 2, 3), dtype=np.uint8))
    assert content_hash(flat) != content_hash(tall)


def test_a_photograph_on_its_side_is_turned_upright():
    image = picture(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    found = read_image(saved(image, "PNG", exif=exif))
    assert np.array_equal(np.asarray(found), np.rot90(np.asarray(image), -1))


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))  # red
    pixels = np.asarray(read_image(saved(image, "TIFF")))
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    found = np.asarray(read_image(saved(Image.fromarray(values), "PNG")))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((2, 2), 70_000, dtype=np.int32), "32-bit integers"),
        (np.full((2, 2), -1, dtype=np.int32), "32-bit integers"),
        (np.full((2, 2), 0.5, dtype=np.float32), "numbers with fractions"),
    ],
)
def test_numbers_of_unknown_range_are_refused(values, said):
    with pytest.raises(UnreadableError, match=said):
        read_image(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P with transparency"])
def test_what_is_transparent_shows_white(mode):
    if mode == "P with transparency":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([9, 9, 9, 200, 0, 0])
        image.putpixel((1, 0), 1)
        file = saved(image, "PNG", transparency=0)
    else:
        file = saved(Image.new("RGBA", (2, 1), (9, 9, 9, 0)).convert(mode), "PNG")
    assert np.asarray(read_image(file))[0, 0].tolist() == [255, 255, 255]


def test_one_colour_that_stands_for_clear_shows_white():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    found = np.asarray(read_image(saved(image, "PNG", transparency=(1, 2, 3))))
    assert found[0].tolist() == [[255, 255, 255], [4, 5, 6]]


# Of which Pillow warns: too short for its entries, and an entry beyond its end.
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\x01\x12" * 9,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0" + b"\xff" * 8,
    ],
)
def test_damaged_exif_does_not_cost_the_image(exif):
    assert read_image(saved(picture(14, 12), "JPEG", exif=exif)).size == (14, 12)


def test_a_palette_and_black_and_white_become_rgb():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert np.asarray(read_image(saved(image, "PNG")))[0, 0].tolist() == [10, 20, 30]
    assert (
        np.asarray(read_image(saved(Image.new("1", (2, 1), 1), "PNG")))[0, 0].tolist() == [255] * 3
    )


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_noted(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if form == "WEBP" else {}
    file = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    found, note = read_noted(file)
    assert np.asarray(found)[0, 0].tolist() == [255, 0, 0]
    assert note == "the first of 3 frames"


def test_files_that_are_no_images_say_why(odd, tmp_path):
    good = saved(picture(200, 200), "JPEG").getvalue()
    for path, said in (
        (odd("empty.png", b""), "an empty file"),
        (odd("text.png", b"no picture at all"), "no image that Pillow knows"),
        (odd("cut.jpg", good[: len(good) // 2]), "damaged: "),
        (odd("header.png", b"\x89PNG\r\n\x1a\n" + b"x" * 40), "damaged: |no image"),
        (tmp_path / "gone.png", "cannot be read: No such file"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(UnreadableError, match=said):
            read_image(path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "TGA", "PPM"])
def test_no_damage_raises_anything_else(form):
    whole = bytearray(saved(picture(64, 64), form).getvalue())
    for _ in range(60):
        broken = bytearray(whole)
        for place in RNG.integers(0, len(broken), 8):
            broken[place] = RNG.integers(0, 256)
        del broken[RNG.integers(len(broken) // 2, len(broken)) :]
        with decoding(), contextlib.suppress(UnreadableError):
            assert read_image(io.BytesIO(bytes(broken))).mode == "RGB"


def test_an_image_beyond_a_gigapixel_is_refused_before_it_is_decoded(odd, monkeypatch):
    monkeypatch.setattr("ftbench.images.decode.MOST_PIXELS", 1_000)
    with decoding(), pytest.raises(UnreadableError, match="pixels"):
        read_image(saved(picture(40, 40), "PNG"))
    with decoding(), pytest.raises(UnreadableError, match="pixels"):
        read_image(saved(picture(100, 100), "PNG"))


def test_pillows_own_limit_is_as_before_afterwards():
    before = Image.MAX_IMAGE_PIXELS
    with decoding():
        assert before < Image.MAX_IMAGE_PIXELS
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (57, 33), (31, 90), (40, 40), (20, 20)])
@pytest.mark.parametrize("side", [32, 33, 40])
def test_resizing_is_torchvisions_to_the_pixel(interpolation, size, side):
    image = picture(*size)
    wanted = Preprocessing((side, side), side, interpolation=interpolation)
    mode = peers.InterpolationMode(interpolation)
    expected = peers.center_crop(peers.resize(image, side, mode), [side, side])
    assert np.array_equal(resized(image, wanted), np.asarray(expected))


def test_squashing_keeps_all_of_the_image_and_one_channel_is_grey():
    image = picture(60, 30)
    wanted = Preprocessing((20, 20), 20, squash=True, interpolation="bicubic")
    expected = image.resize((20, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(resized(image, wanted), np.asarray(expected))
    grey = resized(image, Preprocessing((30, 30), 30, mean=(0.5,), std=(0.5,)))
    assert grey.shape == (30, 30, 1)
    expected = image.convert("L").crop((15, 0, 45, 30))
    assert np.array_equal(grey[..., 0], np.asarray(expected))
