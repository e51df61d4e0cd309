"""Generated decompression bombs and malformed pictures: some must be refused, others accepted."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from unspoken.imaging.images import MAX_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6


def chunk(kind: bytes, content: bytes = b"", *, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def header(width: int, height: int, *, depth: int = 8, colour: int = RGB) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND")


def pixels(raw: bytes = b"\0" * 13 * 4) -> bytes:
    """Return an IDAT chunk; by default of 4 x 4 RGB."""
    return chunk(b"IDAT", zlib.compress(raw, 9))


def squeezed_zeros(megabytes: int) -> bytes:
    """Return zlib-compressed zeros, without holding all of them in memory."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


SMALL = header(4, 4)
GOOD_PNG = png(SMALL, pixels())


def segment(code: int, content: bytes = b"") -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2) + content


def encode(kind: str, *, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_with(*segments: bytes) -> bytes:
    plain = encode("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def jpeg_of_size(width: int, height: int, *, frame: int = 0xC0) -> bytes:
    """Return a JPEG whose frame header declares a wrong size or kind."""
    plain = bytearray(encode("JPEG"))
    at = plain.index(b"\xff\xc0")
    plain[at + 1] = frame
    plain[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(plain)


def jpeg_of_scans(count: int) -> bytes:
    """Return a grey progressive JPEG that repeats its last scan `count` times."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    plain = buffer.getvalue()[:-2]
    return plain + plain[plain.rindex(b"\xff\xda") :] * count + b"\xff\xd9"


def exif_of_tags(count: int, *, size: int) -> bytes:
    """Return an EXIF directory in which every tag claims almost all of `size` bytes."""
    tags = (struct.pack(">HHII", tag, 7, size - 200, 100) for tag in range(count))
    tiff = b"MM\0*" + struct.pack(">IH", 8, count) + b"".join(tags)
    return tiff.ljust(size, b"\0")


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def canvas(width: int, height: int) -> bytes:
    """Return a VP8X chunk: the header of an extended, animated WEBP."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff_chunk(b"VP8X", b"\x02\0\0\0" + sides)


def half(encoded: bytes) -> bytes:
    return encoded[: len(encoded) // 2]


REFUSED: Mapping[str, Callable[[], bytes]] = {
    # formats that are not accepted here
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "svg": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "pdf": lambda: b"%PDF-1.7\n",
    "gif": lambda: (
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
    ),
    "bmp": lambda: encode("BMP"),
    "tiff": lambda: encode("TIFF"),
    "ico": lambda: encode("ICO"),
    "jpeg-2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 64,
    "avif": lambda: b"\0\0\0\x1cftypavif" + b"\0" * 64,
    "fits": lambda: b"SIMPLE  =                    T" + b" " * 4000,
    "zip": lambda: b"PK\x03\x04" + b"\0" * 64,
    "zeros": lambda: bytes(1_000_000),
    # PNG
    "png-alone": lambda: SIGNATURE,
    "png-no-width": lambda: png(header(0, 4), pixels()),
    "png-no-height": lambda: png(header(4, 0), pixels()),
    "png-vast": lambda: png(header(2**31 - 1, 2**31 - 1), pixels()),
    "png-negative": lambda: png(header(2**32 - 1, 4), pixels()),
    "png-60-megapixels": lambda: png(
        header(10_000, 6_000, depth=1, colour=GREY), pixels(bytes(6_000 * 1_251))
    ),
    "png-long-side": lambda: png(header(16_385, 400, depth=1, colour=GREY), pixels(bytes(400))),
    "png-sliver": lambda: png(header(600, 1, colour=GREY), pixels(bytes(601))),
    "png-cut": lambda: half(encode("PNG")),
    "png-no-pixels": lambda: png(SMALL),
    "png-no-zlib": lambda: png(SMALL, chunk(b"IDAT", b"not zlib at all")),
    "png-too-few-rows": lambda: png(header(400, 400), pixels()),
    "png-bad-checksum": lambda: png(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0), crc=1), pixels()
    ),
    "png-bad-depth": lambda: png(header(4, 4, depth=7), pixels()),
    "png-bad-colour": lambda: png(header(4, 4, colour=5), pixels()),
    "png-length-lies": lambda: SIGNATURE + SMALL + struct.pack(">I4s", 2**31 - 1, b"IDAT"),
    "png-300-000-chunks": lambda: png(SMALL, chunk(b"tEXt") * 300_000, pixels()),
    "png-300-000-pieces": lambda: png(SMALL, chunk(b"IDAT") * 300_000, pixels()),
    # JPEG
    "jpeg-alone": lambda: b"\xff\xd8\xff",
    "jpeg-cut": lambda: half(encode("JPEG")),
    "jpeg-no-frame": lambda: b"\xff\xd8" + segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\xff\xd9",
    "jpeg-vast": lambda: jpeg_of_size(65_535, 65_535),
    "jpeg-no-size": lambda: jpeg_of_size(0, 0),
    "jpeg-lossless": lambda: jpeg_of_size(64, 48, frame=0xC3),
    "jpeg-no-tables": lambda: encode("JPEG").replace(b"\xff\xdb", b"\xff\xfe"),
    "jpeg-20-000-scans": lambda: jpeg_of_scans(20_000),
    "jpeg-500-000-comments": lambda: jpeg_with(segment(0xFE) * 500_000),
    "jpeg-of-fill-bytes": lambda: b"\xff\xd8" + b"\xff" * 2_000_000 + b"\0",
    "jpeg-polyglot": lambda: b"\xff\xd8\xff\xe0<script>alert(1)</script>",
    # WEBP
    "webp-alone": lambda: riff(),
    "webp-cut": lambda: half(encode("WEBP")),
    "webp-vast": lambda: riff(canvas(16_384, 16_384)),
    "webp-no-frame": lambda: riff(canvas(16, 16), riff_chunk(b"ANIM", bytes(6))),
    "webp-empty-frame": lambda: riff(riff_chunk(b"VP8 ")),
    "webp-length-lies": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\x7f",
    "webp-300-000-chunks": lambda: riff(canvas(16, 16), riff_chunk(b"XMP ") * 300_000),
    "over-20-mib": lambda: GOOD_PNG + bytes(MAX_BYTES),
}
"""Pictures that must be refused with a 4xx."""

BORNE: Mapping[str, Callable[[], bytes]] = {
    "png-text-of-100-mb": lambda: png(
        SMALL, chunk(b"zTXt", b"k\0\0" + squeezed_zeros(100)), pixels()
    ),
    "png-profile-of-100-mb": lambda: png(
        SMALL, chunk(b"iCCP", b"k\0\0" + squeezed_zeros(100)), pixels()
    ),
    "png-65-535-tags": lambda: png(
        SMALL, chunk(b"eXIf", exif_of_tags(65_535, size=1_000_000)), pixels()
    ),
    "png-pixels-of-100-mb": lambda: png(SMALL, chunk(b"IDAT", squeezed_zeros(100))),
    "png-10-000-frames": lambda: png(
        SMALL, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), pixels(), chunk(b"fdAT") * 10_000
    ),
    "jpeg-5-000-tags": lambda: jpeg_with(
        *(segment(0xE1, b"Exif\0\0" + exif_of_tags(5_000, size=65_000)) for _ in range(20))
    ),
    "jpeg-10-000-comments": lambda: jpeg_with(segment(0xFE) * 10_000),
    "jpeg-after-the-end": lambda: encode("JPEG") + bytes(1_000_000),
}
"""Good pictures with a bomb in data that is not needed: accepted with 200, the bomb is ignored."""
