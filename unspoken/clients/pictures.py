"""Pictures as a caller has them, as the file that is sent, and as the gateway holds them."""

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from unspoken.clients.steps import checked
from unspoken.errors import InvalidInput
from unspoken.schemas import InlineItem
from unspoken.segment_schemas import ImageReply

MAX_KNOWN_IDS = 65_536


@dataclass(frozen=True)
class File:
    """An encoded picture and the digest of its bytes."""

    encoded: bytes
    sha256: str


@dataclass(frozen=True, eq=False)
class HeldImage:
    """A picture that the gateway holds, or did when it said so.

    `file` is kept to send it again once the gateway has let it go; None where only the id is known.
    """

    id: str
    width: int
    height: int
    name: str | None
    bank_ready: bool
    """Whether any number of texts is now one matrix product."""
    file: File | None = field(repr=False)

    @classmethod
    def of(cls, reply: ImageReply, file: File | None) -> "HeldImage":
        """What the gateway said about a picture."""
        return cls(reply.id, reply.width, reply.height, reply.name, reply.bank_ready, file)


ImageSource: TypeAlias = "str | PathLike[str] | bytes | Image.Image | np.ndarray | HeldImage"
"""A path; a file's bytes; a Pillow image; (H, W, 3) RGB or (H, W) gray uint8; one that is held."""


def read_file(source: ImageSource) -> File:
    """The picture as a file. Raises InvalidInput for what is none.

    Pillow images and arrays become a PNG of their pixels as they are: an EXIF orientation that was
    not applied to them is lost, so answers are in their own pixels.
    """
    if isinstance(source, HeldImage):
        if source.file is None:
            raise InvalidInput(f"of picture {source.id} only the id is known: give the picture")
        return source.file
    encoded = _encoded(source)
    return File(encoded, hashlib.sha256(encoded).hexdigest())


def run_item(caption: str, image: ImageSource, *, key: str | None = None) -> InlineItem:
    """A captioned picture for `RunRequest(items=[...])`. Raises InvalidInput."""
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
    """Without loss and quickly: it is sent once and thrown away."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG", compress_level=1)
    except OSError:  # a mode that PNG does not know, CMYK and the like
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


class KnownIds:
    """The gateway's ids by the digest of the file, so that a picture is sent once; for threads.

    An id says all that an embedding depends on: one that is out of date is an unknown id, never
    another picture.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, sha256: str) -> str | None:
        """The id that was answered last."""
        with self._lock:
            return self._ids.get(sha256)

    def put(self, sha256: str, image_id: str) -> None:
        """Remember an id; the oldest is forgotten where there are very many."""
        with self._lock:
            self._ids[sha256] = image_id
            self._ids.move_to_end(sha256)
            while len(self._ids) > MAX_KNOWN_IDS:
                self._ids.popitem(last=False)
