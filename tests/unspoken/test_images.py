"""Pictures at the door: what is read, what is refused, and with which error."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unspoken.errors import InvalidInput, NotAnImage, TooLarge
from unspoken.images import decode_base64, decode_picture


def encode(image: Image.Image, *, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_a_picture_keeps_its_pixels_and_its_content_hash():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = decode_picture(encode(Image.fromarray(pixels)))
    assert picture.size_hw == (5, 7)
    assert np.array_equal(picture.pixels, pixels)
    assert len(picture.sha256) == 64


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16", "RGB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("L", (4, 4), 200)
    image = (
        image.convert("RGB").convert(mode) if mode != "I;16" else Image.new("I;16", (4, 4), 51400)
    )
    picture = decode_picture(encode(image))
    assert picture.pixels.shape == (4, 4, 3)
    assert picture.pixels.min() >= 199 or mode == "1"


def test_alpha_is_laid_over_white():
    picture = decode_picture(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 0))))
    assert picture.pixels.min() == 255


def test_sixteen_bit_values_are_scaled_to_eight():
    picture = decode_picture(encode(Image.new("I;16", (2, 2), 0x8000)))
    assert picture.pixels.max() == 128


def test_cmyk_jpeg_is_read():
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind="JPEG")
    red, green, _ = decode_picture(data).pixels[4, 4]
    assert red > 200 and green < 60


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind="PNG", save_all=True, append_images=frames[1:])
    assert tuple(decode_picture(data).pixels[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_picture(encode(image, kind="JPEG", exif=exif))
    assert picture.size_hw == ((4, 8) if orientation <= 4 else (8, 4))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 20]
)
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(NotAnImage):
        decode_picture(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_truncated_picture_is_refused(kind, tenths):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind=kind)
    with pytest.raises(NotAnImage):
        decode_picture(data[: len(data) * tenths // 10])


def test_a_bomb_is_refused_by_its_header():
    data = encode(Image.new("1", (10_000, 6_000)))
    assert len(data) < 100_000
    with pytest.raises(TooLarge):
        decode_picture(data)


def test_a_sliver_is_refused():
    with pytest.raises(TooLarge):
        decode_picture(encode(Image.new("L", (600, 1))))


def test_base64_is_strict_and_takes_a_data_url():
    assert decode_base64(base64.b64encode(b"abc").decode()) == b"abc"
    assert decode_base64("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"
    with pytest.raises(InvalidInput):
        decode_base64("not base64!")
