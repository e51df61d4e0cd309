"""What of an encoded file reaches a decoder: only what its pixels need.

Metadata is where small files grow large or slow: a directory of 65 535 EXIF tags, five million
comments, text that unpacks to gigabytes. So a JPEG or PNG is taken apart here by length fields
alone, and put together again without it; EXIF is read for its orientation and for nothing else.
A WEBP, whose metadata libwebp leaves alone, is only counted.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from unspoken.errors import NotAnImage, TooLarge

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_SCANS = 64
"""Of a progressive JPEG: each is a pass over the whole picture, however few bytes it has."""
MAX_SEGMENTS = 65_536
"""Segments of a JPEG, chunks of a PNG or WEBP."""
MAX_TAGS = 512

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Zeros after 0xff and restarts (d0 to d7) are part of a scan's data. Of fill bytes the last counts.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_TEM, _SOI, _EOI, _SOS, _COM = 0x01, 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_ORIENTATION = 0x0112
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}


class EncodedPicture(NamedTuple):
    """`format`: one of FORMATS; `content`: what the pixels need; `orientation`: EXIF's, 1 to 8."""

    format: str
    content: bytes
    orientation: int


def strip_metadata(encoded: bytes) -> EncodedPicture:
    """Take a JPEG, PNG or WEBP apart; one that is cut short is left so, for its decoder to say.

    Raises NotAnImage for anything else, TooLarge for parts without number.
    """
    if encoded.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(encoded)
    if encoded.startswith(_PNG_SIGNATURE):
        return _strip_png(encoded)
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return _read_webp(encoded)
    raise NotAnImage(f"not a picture in one of {', '.join(FORMATS)}")


def _strip_jpeg(encoded: bytes) -> EncodedPicture:
    """JFIF and Adobe segments stay, since the colours hang on them; what follows the end goes."""
    kept, orientation = [encoded[:2]], 1
    num_scans, at, in_scan = 0, 2, False
    for _ in range(MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(encoded, at)
        if in_scan:
            kept.append(encoded[at : marker.start() if marker else None])
        if marker is None:
            return EncodedPicture("JPEG", b"".join(kept), orientation)
        code, at, in_scan = marker[1][0], marker.end(), False
        if code == _EOI:
            kept.append(b"\xff\xd9")
            return EncodedPicture("JPEG", b"".join(kept), orientation)
        if code in (_TEM, _SOI):
            continue
        start, at = at, at + max(2, int.from_bytes(encoded[at : at + 2], "big"))
        segment = encoded[start:at]
        if code == _APP1 and orientation == 1 and segment[2:8] == b"Exif\0\0":
            orientation = read_orientation(segment[2:])
        if code == _COM or (_APP0 < code <= _APP15 and code != _APP14):
            continue
        kept += (bytes((0xFF, code)), segment)
        if code == _SOS:
            in_scan, num_scans = True, num_scans + 1
            if num_scans > MAX_SCANS:
                raise TooLarge(f"the picture has over {MAX_SCANS} scans")
    raise TooLarge(f"the picture has over {MAX_SEGMENTS} segments")


def _strip_png(encoded: bytes) -> EncodedPicture:
    """The first frame of an animation is the picture itself; the other frames go."""
    kept, orientation = [_PNG_SIGNATURE], 1
    for kind, start, end in _chunks(encoded, at=8, byte_order="big", tail=4):
        if kind == b"eXIf" and orientation == 1:
            orientation = read_orientation(encoded[start + 8 : end - 4])
        if kind in _PNG_PIXELS:
            kept.append(encoded[start:end])
        if kind == b"IEND":
            break
    return EncodedPicture("PNG", b"".join(kept), orientation)


def _read_webp(encoded: bytes) -> EncodedPicture:
    orientation = 1
    for kind, start, end in _chunks(encoded, at=12, byte_order="little", tail=0):
        if kind == b"EXIF" and orientation == 1:
            orientation = read_orientation(encoded[start + 8 : end])
    return EncodedPicture("WEBP", encoded, orientation)


def _chunks(
    encoded: bytes, *, at: int, byte_order: str, tail: int
) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk; the last one may end beyond the file.

    byte_order: 'big' for PNG, where the length stands first; 'little' for RIFF, where the kind does
    and content of odd length is followed by a zero. tail: bytes of a checksum.
    """
    for _ in range(MAX_SEGMENTS):
        head = encoded[at : at + 8]
        if len(head) < 8:
            return
        if byte_order == "big":
            size, kind = struct.unpack(">I4s", head)
            end = at + 8 + size + tail
        else:
            kind, size = struct.unpack("<4sI", head)
            end = at + 8 + size + size % 2
        yield kind, at, end
        at = end
    raise TooLarge(f"the picture has over {MAX_SEGMENTS} chunks")


def read_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory, 1 to 8; 1 where there is none that can be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_tags,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * min(num_tags, MAX_TAGS), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION and kind in _WHOLE_NUMBERS:
                (value,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # it ends too early
        return 1
    return 1
