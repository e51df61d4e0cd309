"""Bodies of requests with a picture, for the gateway's client and the clients of single services.

A picture is sent as the file of a multipart form, whose bytes need no base64. A request about a
cached image is JSON.

A module of its own because the two clients share it and do not import each other.
"""

import json
from collections.abc import Mapping
from typing import Any

from unspoken.wire.segment import SegmentQuestion


def picture_form(encoded: bytes, fields: Mapping[str, object]) -> dict[str, Any]:
    """Return httpx's arguments for a form with a picture. Fields that are not text become JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    return {"files": {"image": ("image", encoded)}, "data": texts}


def image_form(encoded: bytes, *, name: str | None) -> dict[str, Any]:
    """Return httpx's arguments for `POST /images`."""
    return picture_form(encoded, {} if name is None else {"name": name})


def segment_body(image: bytes | str, question: SegmentQuestion) -> dict[str, Any]:
    """Return httpx's arguments for `POST /segment` about a file, or an image known by id or name.

    Fields that have their defaults are not sent.
    """
    asked = question.model_dump(mode="json", exclude_defaults=True, exclude={"image"})
    asked = {"queries": [], **asked}
    if isinstance(image, str):
        return {"json": {**asked, "image": {"id": image}}}
    return picture_form(image, asked)
