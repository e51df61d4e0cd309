"""Pictures of a caller, the encoded files that are sent, and the gateway's cached images."""

import base64
import hashlib
import io
import threading
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from cachetools import LRUCache
from PIL import Image

from unspoken.client.calls import checked
from unspoken.errors import InvalidInput
from unspoken.wire.runs import InlineItem
from unspoken.wire.segment import ImageReply

MAX_KNOWN_IDS = 65_536


@dataclass(frozen=True)
class File:
    """An encoded picture and the sha256 of its bytes."""

    encoded: bytes
    sha256: str


@dataclass(frozen=True, eq=False)
class ImageRef:
    """A cached image of the gateway; the gateway may have removed it since.

    `file` is kept to send the picture again in that case. It is None if only the id is known.
    """

    id: str
    width: int
    height: int
    name: str | None
    bank_ready: bool
    """True once the mask bank is built: any number of texts then takes one matrix product."""
    file: File | None = field(repr=False)

    @classmethod
    def of(cls, reply: ImageReply, file: File | None) -> "ImageRef":
        """Build from the gateway's reply about a picture."""
        return cls(reply.id, reply.width, reply.height, reply.name, reply.bank_ready, file)


ImageSource: TypeAlias = "str | PathLike[str] | bytes | Image.Image | np.ndarray | ImageRef"
"""A path; a file's bytes; a Pillow image; (H, W, 3) RGB or (H, W) gray uint8; a cached image."""


def read_file(source: ImageSource) -> File:
    """Return the picture as an encoded file. Raises InvalidInput if it is not a picture.

    Pillow images and arrays are encoded as PNG. An EXIF orientation that was not applied to them is
    lost, so answers are in the coordinates of their pixels.
    """
    if isinstance(source, ImageRef):
        if source.file is None:
            raise InvalidInput(f"only the id of picture {source.id} is known: send the picture")
        return source.file
    encoded = _encoded(source)
    return File(encoded, hashlib.sha256(encoded).hexdigest())


def run_item(caption: str, image: ImageSource, *, key: str | None = None) -> InlineItem:
    """Return a captioned picture for `RunRequest(items=[...])`. Raises InvalidInput."""
    text = base64.b64encode(read_file(image).encoded).decode("ascii")
    return checked(InlineItem, {"caption": caption, "image": {"base64": text}, "key": key})


def _encoded(source: "str | PathLike[str] | bytes | Image.Image | np.ndarray") -> bytes:
    match source:
        case bytes():
            return source
        case Image.Image():
            return _png(source)
        case np.ndarray():
            is_gray_or_rgb = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
            if source.dtype != np.uint8 or not is_gray_or_rgb or not source.size:
                raise InvalidInput(
                    "an array must be (H, W, 3) RGB or (H, W) gray of uint8, "
                    f"got {source.shape} of {source.dtype}"
                )
            return _png(Image.fromarray(source))
        case str() | PathLike():
            try:
                return Path(source).read_bytes()
            except (OSError, ValueError) as error:
                raise InvalidInput(f"cannot read {source}: {error}") from error
    raise InvalidInput(
        f"a picture is a path, bytes, a Pillow image or an array, got {type(source).__name__}"
    )


def _png(image: Image.Image) -> bytes:
    """Encode a picture as PNG: lossless, and with fast compression because it is sent only once."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG", compress_level=1)
    except OSError:  # a mode that PNG does not support, such as CMYK
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


class KnownIds:
    """A cache of the gateway's ids by file digest, so that a picture is sent once. Thread-safe.

    An id depends on everything that an embedding depends on. Therefore an outdated id is unknown to
    the gateway, and never refers to another picture.
    """

    def __init__(self) -> None:
        self._ids: LRUCache[str, str] = LRUCache(MAX_KNOWN_IDS)
        self._lock = threading.Lock()

    def get(self, sha256: str) -> str | None:
        """Return the last known id; None if there is none."""
        with self._lock:
            return self._ids.get(sha256)

    def put(self, sha256: str, image_id: str) -> None:
        """Remember an id; the least recently used is dropped if there are over MAX_KNOWN_IDS."""
        with self._lock:
            self._ids[sha256] = image_id
