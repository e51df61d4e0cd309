"""Strip metadata from an encoded picture before a decoder reads it.

Metadata can make a small file large or slow to read: a directory of 65 535 EXIF tags, five million
comments, text that decompresses to gigabytes. This module splits a JPEG or PNG by its length fields
only, and joins it again without metadata. From EXIF and XMP it reads only the orientation, as
Pillow does. The chunks of a WEBP are only counted, because libwebp ignores its metadata.
`unspoken.imaging.file_formats` checks the formats that are read from local files only.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from unspoken.errors import NotAnImage, TooLarge
from unspoken.imaging.file_formats import check_file, name_format

FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats that are read from every source; services read no other format."""
MAX_SCANS = 64
"""Maximum scans of a progressive JPEG: each is a pass over the whole picture, even if tiny."""
MAX_SEGMENTS = 65_536
"""Maximum number of segments of a JPEG, or chunks of a PNG or WEBP."""
MAX_TAGS = 512
MAX_TEXT_BYTES = 256 * 1024
"""Maximum size of a PNG's EXIF or XMP text, after decompression."""

JPEG_END = b"\xff\xd9"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Zeros after 0xff and restarts (d0 to d7) do not match, because they are part of a scan's data. Of
# several fill bytes (ff), only the last one is part of a match.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_TEM, _SOI, _EOI, _SOS, _COM = 0x01, 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_ORIENTATION = 0x0112
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class EncodedPicture(NamedTuple):
    """A picture without metadata: `content` has only the parts that a decoder of its pixels needs.

    `orientation` is 1 to 8, from EXIF, or from XMP if EXIF has none.
    """

    format: str
    content: bytes
    orientation: int


@dataclass
class _Orientation:
    """Collects the first EXIF and the first XMP orientation of a file; EXIF takes precedence."""

    exif: int | None = None
    xmp: int | None = None

    @property
    def value(self) -> int:
        return self.exif or self.xmp or 1

    def add_exif(self, exif: bytes) -> None:
        if self.exif is None:
            self.exif = read_orientation(exif)

    def add_xmp(self, xmp: bytes) -> None:
        found = _XMP_ORIENTATION.search(xmp) if self.xmp is None else None
        if found is not None:
            self.xmp = int(found[1])


def strip_metadata(encoded: bytes, *, formats: Sequence[str] = FORMATS) -> EncodedPicture:
    """Return a picture without metadata. A truncated picture is returned truncated.

    The decoder then reports the truncation. Raises NotAnImage for a format that is not in
    `formats`, TooLarge for too many parts.
    """
    content = trim_start(encoded)
    name = name_format(content)
    if name not in formats:
        found = f"; it is {name}: convert it first" if name else ""
        raise NotAnImage(f"not a picture in one of {', '.join(formats)}{found}")
    match name:
        case "JPEG":
            return _strip_jpeg(content)
        case "PNG":
            return _strip_png(content)
        case "WEBP":
            return _read_webp(content)
    return EncodedPicture(name, check_file(content, name), 1)


def trim_start(encoded: bytes) -> bytes:
    """Remove line breaks before a JPEG, which some servers send."""
    trimmed = encoded[:16].lstrip(b"\r\n") + encoded[16:]
    return trimmed if trimmed.startswith(b"\xff\xd8\xff") else encoded


def _strip_jpeg(encoded: bytes) -> EncodedPicture:
    """Keep JFIF and Adobe segments, which define the colours; drop data after the end marker."""
    kept, orientation = [encoded[:2]], _Orientation()
    num_scans, at, in_scan = 0, 2, False
    for _ in range(MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(encoded, at)
        if in_scan:
            kept.append(encoded[at : marker.start() if marker else None])
        if marker is None:
            return EncodedPicture("JPEG", b"".join(kept), orientation.value)
        code, at, in_scan = marker[1][0], marker.end(), False
        if code == _EOI:
            kept.append(JPEG_END)
            return EncodedPicture("JPEG", b"".join(kept), orientation.value)
        if code in (_TEM, _SOI):
            continue
        start, at = at, at + max(2, int.from_bytes(encoded[at : at + 2], "big"))
        segment = encoded[start:at]
        if code == _APP1:
            _read_app1(segment[2:], orientation)
        if code == _COM or (_APP0 < code <= _APP15 and code != _APP14):
            continue
        kept += (bytes((0xFF, code)), segment)
        if code == _SOS:
            in_scan, num_scans = True, num_scans + 1
            if num_scans > MAX_SCANS:
                raise TooLarge(f"the picture has over {MAX_SCANS} scans")
    raise TooLarge(f"the picture has over {MAX_SEGMENTS} segments")


def _read_app1(content: bytes, orientation: _Orientation) -> None:
    if content.startswith(b"Exif\0\0"):
        orientation.add_exif(content)
    elif content.startswith(_XMP_HEAD):
        orientation.add_xmp(content)


def _strip_png(encoded: bytes) -> EncodedPicture:
    """Keep the first frame of an animation, which is the picture itself; drop the others."""
    kept, orientation = [_PNG_SIGNATURE], _Orientation()
    for kind, start, end in _chunks(encoded, at=8, byte_order="big", tail=4):
        if kind == b"eXIf":
            orientation.add_exif(encoded[start + 8 : end - 4])
        elif kind in _PNG_TEXTS and end - start < MAX_TEXT_BYTES:
            _read_text(kind, encoded[start + 8 : end - 4], orientation)
        if kind in _PNG_PIXELS:
            kept.append(encoded[start:end])
        if kind == b"IEND":
            break
    return EncodedPicture("PNG", b"".join(kept), orientation.value)


def _read_text(kind: bytes, content: bytes, orientation: _Orientation) -> None:
    """Read XMP, or the EXIF that ImageMagick and ExifTool write as hexadecimal text."""
    keyword, _, text = content.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        return
    if kind == b"zTXt":
        text = _unpack(text[1:])
    elif kind == b"iTXt":
        packed, rest = text[:1] == b"\1", text[2:].split(b"\0", 2)
        text = _unpack(rest[-1]) if packed else rest[-1]
    if keyword == b"XML:com.adobe.xmp":
        orientation.add_xmp(text)
        return
    with suppress(ValueError):  # the text is not hexadecimal
        orientation.add_exif(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))


def _unpack(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _read_webp(encoded: bytes) -> EncodedPicture:
    orientation = _Orientation()
    for kind, start, end in _chunks(encoded, at=12, byte_order="little", tail=0):
        if kind == b"EXIF":
            orientation.add_exif(encoded[start + 8 : end])
        elif kind == b"XMP ":
            orientation.add_xmp(encoded[start + 8 : end])
    return EncodedPicture("WEBP", encoded, orientation.value)


def _chunks(
    encoded: bytes, *, at: int, byte_order: str, tail: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of each chunk; the last one may end beyond the file.

    Args:
        byte_order: 'big' for PNG, where the length precedes the kind; 'little' for RIFF, where the
            kind precedes the length and content of odd length is followed by a zero.
        tail: Number of bytes of a chunk's checksum.
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


def read_orientation(exif: bytes) -> int | None:
    """Return tag 0x0112 of the first directory, 1 to 8; None if it cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_tags,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * min(num_tags, MAX_TAGS), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION and kind in _WHOLE_NUMBERS:
                (value,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else None
    except struct.error:  # the data ends too early
        return None
    return None
