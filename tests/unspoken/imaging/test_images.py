"""Decoding of pictures: accepted formats, refused files and their errors."""

import base64
import io
import struct
import time
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from unspoken.errors import InvalidInput, NotAnImage, TooLarge
from unspoken.imaging.file_formats import FILE_FORMATS
from unspoken.imaging.images import Picture, decode_base64, decode_picture, read_picture


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FILE_FORMATS)
def test_the_header_tells_the_size_that_the_decoded_upright_picture_has(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if kind in ("GIF", "BMP") else {"exif": exif}
    encoded = encode(Image.new("RGB", (50, 30), "red"), kind=kind, **options)
    picture = read_picture(encoded, formats=FILE_FORMATS)
    turned = bool(options) and orientation > 4
    assert picture.size_hw == picture.pixels.shape[:2] == ((50, 30) if turned else (30, 50))
    assert picture == decode_picture(encoded, formats=FILE_FORMATS)


def test_damaged_pixels_are_found_when_they_are_decoded_and_not_before():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cut = encode(Image.fromarray(noise), kind="JPEG")[:9000]
    picture = read_picture(cut)
    assert picture.size_hw == (300, 400) and picture.sendable == cut
    for _ in range(2):
        with pytest.raises(NotAnImage, match="damaged"):
            _ = picture.pixels
    with pytest.raises(NotAnImage, match="damaged"):
        picture.decode()


def test_pixels_are_decoded_once_and_counted_whether_decoded_or_not():
    encoded = encode(Image.new("RGB", (8, 4), "red"))
    picture = read_picture(encoded)
    assert picture.num_bytes == len(encoded) + 4 * 8 * 3
    assert picture.pixels is picture.pixels
    assert picture.decode() is not picture.pixels
    assert picture.num_bytes == len(encoded) + picture.pixels.nbytes


def test_a_picture_of_pixels_alone_is_sent_as_a_png_of_them():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Picture.of_pixels(pixels)
    assert picture.size_hw == (5, 7) and picture.decode() is pixels
    assert np.array_equal(decode_picture(picture.sendable).pixels, pixels)
    assert picture.sha256 != Picture.of_pixels(255 - pixels).sha256


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


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></x:xmpmeta>'
)
UPRIGHT_KINDS = {
    "jpeg xmp": lambda image: encode(image, kind="JPEG", xmp=XMP),
    "webp xmp": lambda image: encode(image, kind="WEBP", xmp=XMP),
    "png xmp": lambda image: encode(image, pnginfo=text_chunk("XML:com.adobe.xmp", XMP.decode())),
    "png packed xmp": lambda image: encode(
        image, pnginfo=text_chunk("XML:com.adobe.xmp", XMP.decode(), zip=True)
    ),
    "png raw profile": lambda image: encode(
        image, pnginfo=text_chunk("Raw profile type exif", raw_profile())
    ),
    "png packed raw profile": lambda image: encode(
        image, pnginfo=text_chunk("Raw profile type exif", raw_profile(), zip=True)
    ),
    "avif exif": lambda image: encode(image, kind="AVIF", exif=turned_exif()),
    "tiff": lambda image: encode(image, kind="TIFF", exif=turned_exif()),
}


def text_chunk(keyword, text, **options):
    info = PngImagePlugin.PngInfo()
    if keyword.startswith("XML"):
        info.add_itxt(keyword, text, **options)
    else:
        info.add_text(keyword, text, **options)
    return info


def turned_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def raw_profile():
    content = turned_exif().tobytes()
    return f"\nexif\n{len(content):8}\n{content.hex()}\n"


@pytest.mark.parametrize("kind", UPRIGHT_KINDS)
def test_orientation_is_applied_wherever_pillow_reads_it(kind):
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    data = UPRIGHT_KINDS[kind](Image.fromarray(pixels))
    ours = decode_picture(data, formats=FILE_FORMATS).pixels
    pillows = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert ours.shape == (64, 32, 3)
    assert np.array_equal(ours, pillows)


def test_exif_counts_before_xmp():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encode(Image.new("RGB", (8, 4)), kind="JPEG", xmp=XMP, exif=exif)
    assert decode_picture(data).size_hw == (4, 8)


def test_text_that_unpacks_to_much_is_not_unpacked():
    bomb = text_chunk("Raw profile type exif", "0" * 50_000_000, zip=True)
    assert decode_picture(encode(Image.new("RGB", (8, 4)), pnginfo=bomb)).size_hw == (4, 8)


def test_line_ends_before_a_jpeg_do_not_matter():
    data = encode(Image.new("RGB", (8, 4)), kind="JPEG")
    assert decode_picture(b"\r\n" + data).size_hw == (4, 8)


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (8, 8)])
@pytest.mark.parametrize("options", [{}, {"quality": 10}, {"subsampling": 0}])
@pytest.mark.parametrize("flat", [False, True])
def test_a_jpeg_without_its_end_is_read_where_its_pixels_are_all_there(size, options, flat):
    image = Image.new("RGB", size, "red") if flat else Image.effect_noise(size, 90)
    data = encode(image, kind="JPEG", **options)
    whole = decode_picture(data).pixels
    for end in (-1, -2):
        assert np.array_equal(decode_picture(data[:end]).pixels, whole)
    for cut in (len(data) * 3 // 4, len(data) - (6 if not flat else len(data) // 4)):
        with pytest.raises(NotAnImage):
            decode_picture(data[:cut])


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_in_parts_without_its_end_is_refused(options):
    data = encode(Image.effect_noise((64, 48), 90), kind="JPEG", **options)
    with pytest.raises(NotAnImage):
        decode_picture(data[:-2])


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_read_from_files_and_sent_as_png(kind):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:30, 20:40] = (255, 0, 0)
    data = encode(Image.fromarray(pixels), kind=kind)
    with pytest.raises(NotAnImage, match=f"it is {kind}"):
        decode_picture(data)
    picture = decode_picture(data, formats=FILE_FORMATS)
    assert (picture.format, picture.encoded) == (kind, data)
    assert np.abs(picture.pixels.astype(int) - pixels).mean() <= 4
    sent = decode_picture(picture.sendable)
    assert np.array_equal(sent.pixels, picture.pixels)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *product(
            ["RGB", "L", "RGBA", "CMYK", "I;16", "1"],
            ["raw", "tiff_lzw", "tiff_deflate", "packbits"],
        ),
        *product(["RGB", "L", "CMYK"], ["jpeg"]),
    ],
)
def test_every_common_tiff_is_read(mode, compression):
    data = encode(Image.new(mode, (40, 30)), kind="TIFF", compression=compression)
    assert decode_picture(data, formats=FILE_FORMATS).size_hw == (30, 40)


def test_of_an_animation_with_comments_the_first_frame_is_read():
    frames = [Image.new("P", (40, 30), colour) for colour in range(5)]
    frames[0].putpalette([200, 0, 0] + [0] * 765)
    data = encode(
        frames[0], kind="GIF", save_all=True, append_images=frames[1:], comment=b"x" * 5000
    )
    assert tuple(decode_picture(data, formats=FILE_FORMATS).pixels[0, 0]) == (200, 0, 0)


def test_a_heic_picture_is_named():
    heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(NotAnImage, match="it is HEIC: convert it first"):
        decode_picture(heic, formats=FILE_FORMATS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 100, "subsampling": "4:4:4"},
        {"subsampling": "4:0:0"},
        {"tile_rows": 1, "tile_cols": 1},
        {"exif": Image.Exif(), "xmp": b"<x/>"},
        {"save_all": True, "duration": 100},
    ],
    ids=["plain", "full", "grey", "tiles", "metadata", "animation"],
)
def test_every_kind_of_avif_is_read(mode, options):
    frames = [Image.effect_noise((64, 48), 90).convert(mode) for _ in range(3)]
    more = {"append_images": frames[1:]} if "save_all" in options else {}
    data = encode(frames[0], kind="AVIF", **options, **more)
    assert decode_picture(data, formats=FILE_FORMATS).size_hw == (48, 64)


def avif_that_says_64(side):
    """Return a picture whose frame is larger than its container says."""
    data = bytearray(encode(Image.new("L", (side, side)), kind="AVIF", speed=10, quality=1))
    place = data.find(b"ispe")
    data[place + 8 : place + 16] = struct.pack(">II", 64, 64)
    return bytes(data)


def avif_of_two_sizes():
    """Return a small picture whose item continues with the stream of a huge one."""
    small, vast = (
        encode(Image.new("L", (side, side)), kind="AVIF", speed=10, quality=1)
        for side in (64, 6600)
    )
    more = vast[vast.index(b"mdat") + 4 :]
    data = bytearray(small + more)
    for place in (small.index(b"mdat") - 4, small.index(b"iloc") + 22):
        (size,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, size + len(more))
    return bytes(data)


def gif_of_comments(size):
    head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * (size // 256) + b"\0"
    return head + comment + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


def tiff_of_tags(count, *, size):
    tags = (struct.pack("<HHII", tag, 7, size - 100, 50) for tag in range(count))
    content = b"II*\0" + struct.pack("<IH", 8, count) + b"".join(tags)
    return content.ljust(size, b"\0")


def tiff_of_tile(side):
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (322, 4, side), (323, 4, side)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)


FILE_BOMBS = {
    "gif of tiny blocks": lambda: (
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xfe" + b"\x01x" * 5_000_000 + b"\0;"
    ),
    "gif vast": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "gif without a frame": lambda: b"GIF89a\x01\0\x01\0\0\0\0;",
    "tiff of tags": lambda: tiff_of_tags(400, size=10_000_000),
    "tiff of 65 535 tags": lambda: tiff_of_tags(65_535, size=10_000_000),
    "tiff of vast tiles": lambda: tiff_of_tile(65_536),
    "tiff cut": lambda: b"II*\0\x08\0\0\0\x20\0",
    "bmp of runs": lambda: (
        encode(Image.new("P", (4000, 4000)), kind="BMP")[:30]
        + struct.pack("<I", 1)
        + b"\x01\x01" * 5_000_000
    ),
    "avif whose frame is vast": lambda: avif_that_says_64(6600),
    "avif of two sizes": avif_of_two_sizes,
    "avif of nothing": lambda: b"\0\0\0\x1cftypavif" + bytes(64),
    "avif of other parts": lambda: encode(Image.new("RGB", (64, 48)), kind="AVIF").replace(
        b"av01", b"zzzz"
    ),
    "avif cut": lambda: encode(Image.effect_noise((64, 48), 90), kind="AVIF")[:-300],
    "bmp of nothing": lambda: b"BM" + bytes(60),
}


@pytest.mark.parametrize("name", FILE_BOMBS)
def test_a_bomb_in_a_file_is_refused_at_once(name):
    data = FILE_BOMBS[name]()
    start_s = time.process_time()
    expected = TooLarge if "avif" in name and ("vast" in name or "two" in name) else InvalidInput
    with pytest.raises(expected):
        decode_picture(data, formats=FILE_FORMATS)
    assert time.process_time() - start_s < 1


def test_a_gif_of_comments_is_read_at_once():
    data = gif_of_comments(15_000_000)
    start_s = time.process_time()
    assert decode_picture(data, formats=FILE_FORMATS).size_hw == (1, 1)
    assert time.process_time() - start_s < 1
