"""Decode pictures: read only what is safe to read, and report clear errors for the rest.

- `read_picture` reads the header only, and pixels are decoded on first use. `decode_picture`
  decodes at once.
- JPEG, PNG and WEBP are read from every source; GIF, BMP, TIFF and AVIF from local files only.
- Metadata never reaches the decoder, and the header is checked before any pixel is decoded.
- Of an animated file, the first frame is used.
- The orientation of EXIF or XMP is applied.
- ICC profiles are not applied: values are taken as sRGB, as Pillow and OpenCV do.
- CMYK, 16-bit, palette and alpha pictures become RGB by fixed rules: alpha over white, 16-bit
  scaled to 8. Rows are converted in blocks, so that memory holds a picture at most twice.
"""

import base64
import binascii
import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, UnidentifiedImageError

from unspoken.errors import InvalidInput, NotAnImage, TooLarge
from unspoken.imaging.encoded_picture import (
    FORMATS,
    JPEG_END,
    EncodedPicture,
    read_orientation,
    strip_metadata,
)

DECODING = "exif-xmp-white-highbyte-2"
"""Version of the pixel decoding of `decode_picture`; part of the key of every cached embedding."""
MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384
MAX_ASPECT = 50
MAX_PIXELS_WITHOUT_END = 4_000_000
"""Maximum size of a JPEG without its end marker, because it is decoded several times."""
MAX_BYTES = 20 * 1024 * 1024
ONE_WHITE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
"""A PNG of one white pixel: the smallest picture that a service accepts."""

_ROWS_AT_ONCE = 256
_RESTART_INTERVAL = b"\xff\xdd"
# Bytes that are appended, one after the other, to a JPEG without its end marker.
_FILLS = (0x00, 0x55, 0xAA, 0x0F, 0xB4)
_BASE64_AT_ONCE = 1024 * 1024
"""Number of characters; a multiple of four."""
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns the picture upright."""
_TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""
# Exceptions that Pillow's readers raise for damaged files.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error, RuntimeError),
)


@dataclass(frozen=True)
class Picture:
    """An encoded file whose header was checked, and its pixels, which are decoded on first use.

    Attributes:
        encoded: The file's bytes, as sent.
        sha256: Hex digest of the file's bytes.
        size_hw: (height, width) in pixels, after EXIF orientation.
        format: Name of the file's format; empty if there are only pixels.
    """

    encoded: bytes
    sha256: str
    size_hw: tuple[int, int]
    format: str

    @classmethod
    def of_pixels(cls, pixels: np.ndarray) -> "Picture":
        """Return a picture without a file. pixels: (H, W, 3) uint8 RGB."""
        height, width = pixels.shape[:2]
        sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
        return cls(b"", sha256, (height, width), "")._with_pixels(pixels)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, kept after the first use. Raises NotAnImage."""
        return self.decode()

    def decode(self) -> np.ndarray:
        """Decode the file and do not keep the pixels. Raises NotAnImage if they are damaged."""
        if not self.format:
            return self.pixels
        formats = (self.format,)
        return _decode(strip_metadata(self.encoded, formats=formats), formats)

    @property
    def sendable(self) -> bytes:
        """The file if services accept its format; otherwise a PNG of its pixels."""
        if self.format in FORMATS:
            return self.encoded
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """Memory of the file and its decoded pixels, in bytes."""
        height, width = self.size_hw
        return len(self.encoded) + 3 * height * width

    def _with_pixels(self, pixels: np.ndarray) -> "Picture":
        self.__dict__["pixels"] = pixels  # where `cached_property` looks first
        return self


def read_picture(
    encoded: bytes,
    *,
    formats: Sequence[str] = FORMATS,
    check_size: Callable[[tuple[int, int]], None] = lambda size_hw: None,
) -> Picture:
    """Check a picture's header. Raises NotAnImage, TooLarge, and what `check_size` raises.

    Damaged pixels are found when they are decoded.

    Args:
        encoded: The file's bytes.
        formats: Accepted formats; FILE_FORMATS for a user's own files.
        check_size: Called with the header's (height, width), before the orientation is applied and
            before any pixel is decoded. It must raise its own error types, because Pillow's
            exceptions are reported as a damaged picture.
    """
    return _read(encoded, _strip(encoded, formats), formats, check_size)


def decode_picture(encoded: bytes, *, formats: Sequence[str] = FORMATS) -> Picture:
    """Check and decode a picture. Raises NotAnImage, TooLarge. For `formats` see `read_picture`."""
    stripped = _strip(encoded, formats)
    picture = _read(encoded, stripped, formats, lambda size_hw: None)
    return picture._with_pixels(_decode(stripped, formats))


def _strip(encoded: bytes, formats: Sequence[str]) -> EncodedPicture:
    if len(encoded) > MAX_BYTES:
        raise TooLarge(f"the file has {len(encoded)} bytes, at most {MAX_BYTES} are read")
    return strip_metadata(encoded, formats=formats)


def _read(
    encoded: bytes,
    stripped: EncodedPicture,
    formats: Sequence[str],
    check_size: Callable[[tuple[int, int]], None],
) -> Picture:
    with _translate_pillow_errors(formats):
        image = _open(stripped)
        check_size((image.height, image.width))
        _check_header(image)
        width, height = image.size
    is_turned = _orientation(image, stripped) in _TURNED
    return Picture(
        encoded=encoded,
        sha256=hashlib.sha256(encoded).hexdigest(),
        size_hw=(width, height) if is_turned else (height, width),
        format=stripped.format,
    )


def _decode(stripped: EncodedPicture, formats: Sequence[str]) -> np.ndarray:
    with _translate_pillow_errors(formats):
        image = _open(stripped)
        if stripped.format == "JPEG" and not stripped.content.endswith(JPEG_END):
            image = _complete(image, stripped.content)
        image.load()
        orientation = _orientation(image, stripped)
        upright = image.transpose(_TRANSPOSES[orientation]) if orientation > 1 else image
        return _to_rgb(upright)


def _open(stripped: EncodedPicture) -> Image.Image:
    """Open a file: Pillow reads its header and decodes no pixel."""
    return Image.open(io.BytesIO(stripped.content), formats=[stripped.format])


def _orientation(image: Image.Image, stripped: EncodedPicture) -> int:
    if stripped.format == "AVIF":  # Pillow reports AVIF's own rotation as EXIF
        return read_orientation(image.info.get("exif", b"")) or 1
    return stripped.orientation


def _complete(image: Image.Image, content: bytes) -> Image.Image:
    """Return a JPEG that lacks its end marker with one, if all of its pixels are present.

    Missing pixels are decoded from the appended bytes; the pixels of a complete picture do not
    depend on them. Any other picture is returned unchanged, and is later found to be truncated.
    """
    # In such pictures no pixel shows that later scans, or data after a restart marker, are missing.
    in_parts = "progressive" in image.info or _RESTART_INTERVAL in content
    if in_parts or image.width * image.height > MAX_PIXELS_WITHOUT_END:
        return image
    data = content.rstrip(b"\xff")  # remove half of an end marker

    def decode(filler: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data + filler + JPEG_END), formats=["JPEG"])

    pixels = decode(b"").tobytes()
    if all(decode(bytes((fill,)) * 64).tobytes() == pixels for fill in _FILLS):
        return decode(b"")
    return image


@contextmanager
def _translate_pillow_errors(formats: Sequence[str]) -> Iterator[None]:
    """Translate Pillow's exceptions into NotAnImage and TooLarge."""
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooLarge(f"the picture is a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise NotAnImage(f"not a picture in one of {', '.join(formats)}") from error
    except _DAMAGE as error:
        raise NotAnImage(f"the picture is damaged: {error}") from error


def decode_base64(text: str) -> bytes:
    """Decode strict base64, with an optional 'data:...;base64,' prefix.

    Raises InvalidInput, TooLarge.
    """
    if len(text) > MAX_BYTES * 4 // 3 + 128:
        raise TooLarge(f"the picture is over {MAX_BYTES} bytes")
    if text.startswith("data:"):
        _, _, text = text.partition(",")
    try:
        # Decode in pieces, because a single call would hold the GIL for 0.2 s.
        pieces = [
            _decode_piece(
                text[start : start + _BASE64_AT_ONCE], is_last=start + _BASE64_AT_ONCE >= len(text)
            )
            for start in range(0, len(text), _BASE64_AT_ONCE)
        ]
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"image.base64 is not base64: {error}") from error
    return b"".join(pieces)


def _decode_piece(text: str, *, is_last: bool) -> bytes:
    if not is_last and "=" in text:
        raise ValueError("padding before the end")
    return base64.b64decode(text, validate=True)


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise NotAnImage(f"the picture has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise TooLarge(
            f"the picture has {width} x {height} pixels, at most {MAX_PIXELS} and "
            f"{MAX_SIDE_PX} a side are read"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise TooLarge(f"the picture's sides are {width} x {height}, over {MAX_ASPECT} : 1")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return the pixels as (H, W, 3) uint8, read-only."""
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, height)
        is_whole = bottom - top == height
        rows = image if is_whole else image.crop((0, top, width, bottom))
        pixels[top : top + _ROWS_AT_ONCE] = _rows_to_rgb(rows)
    pixels.flags.writeable = False
    return pixels


def _rows_to_rgb(rows: Image.Image) -> np.ndarray:
    """Convert any mode to RGB, or to (h, w, 1) grey: alpha over white, 16-bit by its high byte."""
    if rows.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(rows).astype(np.int64)
        grey: np.ndarray = np.clip(values >> 8, 0, 255).astype(np.uint8)[:, :, None]
        return grey
    if rows.mode in ("RGBA", "LA", "PA") or "transparency" in rows.info:
        rgba = rows.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        rows = Image.alpha_composite(white, rgba)
    return np.asarray(rows if rows.mode == "RGB" else rows.convert("RGB"))
