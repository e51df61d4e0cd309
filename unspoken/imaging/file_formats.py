"""Detect picture formats by their first bytes, and check formats read from local files only.

GIF, BMP, TIFF and AVIF are read from a user's own files; services refuse them. Before a decoder
reads such a file, this module refuses content that would make it slow or large:

- a TIFF whose tags claim more bytes than the file has, or whose tiles are larger than pictures
- an AVIF whose frame is larger than a picture
- long run-length coding in a BMP

Of a GIF only the first frame is kept, without comments.
"""

import struct

from unspoken.errors import NotAnImage, TooLarge
from unspoken.imaging.avif_size import check_coded_size

FILE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that are read from files."""
FILE_ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp"),
    *("gif", "bmp", "dib", "tif", "tiff", "avif"),
)
"""File name endings of these formats, in lower case."""
MAX_GIF_BLOCKS = 200_000
MAX_RLE_BYTES = 1024 * 1024
MAX_TIFF_TAGS = 512
MAX_TILE_SIDE = 4096
MAX_CODED_PIXELS = 42_000_000
"""Maximum size of an AVIF's frame: the largest picture, and the padding that its coding adds."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    *((magic, "GIF") for magic in (b"GIF87a", b"GIF89a")),
    (b"BM", "BMP"),
    *((magic, "TIFF") for magic in (b"II*\0", b"MM\0*")),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    *((magic, "SVG or XML") for magic in (b"<svg", b"<?xml")),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
}
_TIFF_UNITS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def name_format(encoded: bytes) -> str:
    """Return the format that the first bytes show, supported or not; "" for an unknown one."""
    for magic, name in _MAGIC:
        if encoded.startswith(magic):
            return name
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WEBP"
    if encoded[4:8] == b"ftyp":
        size = min(int.from_bytes(encoded[:4], "big"), 256)
        brands = [encoded[8:12], *(encoded[at : at + 4] for at in range(16, size, 4))]
        # The main brand may be the general one (HEIF); the compatible brands then name the coding.
        named = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return next((name for name in named if name != "HEIF"), named[0] if named else "")
    return ""


def check_file(encoded: bytes, name: str) -> bytes:
    """Return the bytes of a GIF, BMP, TIFF or AVIF for a decoder. Raises NotAnImage, TooLarge."""
    match name:
        case "GIF":
            return _first_frame(encoded)
        case "BMP":
            _check_bmp(encoded)
        case "TIFF":
            _check_tiff(encoded)
        case "AVIF":
            check_coded_size(encoded, max_pixels=MAX_CODED_PIXELS)
    return encoded


# ---- GIF -------------------------------------------------------------------------------------


def _first_frame(encoded: bytes) -> bytes:
    """Return a GIF of the first frame and its control block, without comments."""
    if len(encoded) < 13:
        raise NotAnImage("the picture is damaged: the GIF has no header")
    at = 13 + _table_bytes(encoded[10])
    kept, blocks_left = [encoded[:at]], MAX_GIF_BLOCKS
    while at < len(encoded):
        start, kind = at, encoded[at]
        if kind == 0x2C and at + 10 <= len(encoded):  # an image
            at, _ = _skip_blocks(encoded, at + 11 + _table_bytes(encoded[at + 9]), blocks_left)
            return b"".join((*kept, encoded[start:at], b";"))
        if kind != 0x21:  # not an extension
            break
        at, blocks_left = _skip_blocks(encoded, at + 2, blocks_left)
        if encoded[start + 1 : start + 2] == b"\xf9":
            kept[1:] = [encoded[start:at]]
    raise NotAnImage("the picture is damaged: the GIF has no frame")


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(encoded: bytes, at: int, blocks_left: int) -> tuple[int, int]:
    """Return the end of a chain of blocks, and how many more blocks may follow."""
    while at < len(encoded) and encoded[at]:
        at += 1 + encoded[at]
        blocks_left -= 1
        if blocks_left < 0:
            raise TooLarge(f"the picture has over {MAX_GIF_BLOCKS} blocks")
    return at + 1, blocks_left


# ---- BMP and TIFF ----------------------------------------------------------------------------


def _check_bmp(encoded: bytes) -> None:
    (compression,) = struct.unpack_from("<I", encoded.ljust(34, b"\0"), 30)
    if compression in (1, 2) and len(encoded) > MAX_RLE_BYTES:
        raise TooLarge(f"a BMP with run-length coding is read up to {MAX_RLE_BYTES} bytes")


def _check_tiff(encoded: bytes) -> None:
    """Check the first directory, because a decoder reads the content of all its tags."""
    order = "<" if encoded.startswith(b"II") else ">"
    try:
        (at,) = struct.unpack_from(f"{order}I", encoded, 4)
        (num_tags,) = struct.unpack_from(f"{order}H", encoded, at)
        if num_tags > MAX_TIFF_TAGS:
            raise TooLarge(f"the picture has over {MAX_TIFF_TAGS} tags")
        claimed = 0
        for entry in range(at + 2, at + 2 + 12 * num_tags, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", encoded, entry)
            claimed += count * _TIFF_UNITS.get(kind, 1)
            if tag in (_TILE_WIDTH, _TILE_LENGTH):
                (side,) = struct.unpack_from(
                    order + ("H" if kind == 3 else "I"), encoded, entry + 8
                )
                if side > MAX_TILE_SIDE:
                    raise TooLarge(f"the picture has tiles of {side} px, at most {MAX_TILE_SIDE}")
    except struct.error as error:
        raise NotAnImage("the picture is damaged: the TIFF ends within its directory") from error
    if claimed > len(encoded):
        raise TooLarge("the picture's tags claim more bytes than the file has")
