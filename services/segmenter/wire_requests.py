"""Read requests about images, as JSON or as a form; the same models validate both."""

import json
from typing import NamedTuple

from fastapi import Request

from unspoken.errors import InvalidInput
from unspoken.http.app import in_decode_pool
from unspoken.http.json_bodies import check_elements
from unspoken.http.uploads import Upload, read_upload, validated
from unspoken.http.url_fetch import Fetcher, fetch_url
from unspoken.imaging.images import decode_base64
from unspoken.wire.segment import ImageRequest, SegmentImage, SegmentQuestion, SegmentRequest

MAX_FIELDS = 16
_JSON_FIELDS = ("queries", "output", "nms_iou", "independent")


class Asked(NamedTuple):
    """The image of a request: the file itself, its URL, or the id of a cached image."""

    encoded: bytes | None
    image_id: str | None
    name: str | None
    url: str | None = None


async def read_question(request: Request, fetcher: Fetcher | None) -> tuple[Asked, SegmentQuestion]:
    """Read the body of `POST /segment`, and fetch the image if the body has a URL."""
    upload = await read_upload(request, max_fields=MAX_FIELDS)
    asked, question = await in_decode_pool(_question, upload)
    return await _fetched(asked, fetcher), question


async def read_image(request: Request, fetcher: Fetcher | None) -> Asked:
    """Read the body of `POST /images`. Raises InvalidInput for an id, as it needs no encoding."""
    upload = await read_upload(request, max_fields=MAX_FIELDS)
    return await _fetched(await in_decode_pool(_image, upload), fetcher)


async def _fetched(asked: Asked, fetcher: Fetcher | None) -> Asked:
    if asked.url is None:
        return asked
    return asked._replace(encoded=await fetch_url(fetcher, asked.url), url=None)


def _question(upload: Upload) -> tuple[Asked, SegmentQuestion]:
    if upload.body is not None:
        asked = validated(SegmentRequest, upload.body)
        return _asked(asked.image), asked
    upload.refuse_unknown(
        ("image_id", "name", "method", *_JSON_FIELDS), hints=SegmentQuestion.field_hints
    )
    written: dict[str, object] = {
        name: _json_field(name, value) for name in _JSON_FIELDS if (value := upload.last(name))
    }
    if (method := upload.last("method")) is not None:
        written["method"] = method
    image = _form_image(upload)
    # Validate as JSON, like a body, because pydantic validates Python objects by other rules.
    question = validated(SegmentQuestion, json.dumps(written).encode())
    return image, question


def _image(upload: Upload) -> Asked:
    if upload.body is not None:
        asked = _asked(validated(ImageRequest, upload.body).image)
    else:
        upload.refuse_unknown(("name",))
        asked = _form_image(upload)
    if asked.image_id is not None:
        raise InvalidInput("send the picture itself; GET /images/{id} tells whether it is cached")
    return asked


def _form_image(upload: Upload) -> Asked:
    """Return the image of a form. If the form has a file, its base64 text is a placeholder."""
    has_file = upload.file is not None
    image_id, name = upload.last("image_id"), upload.last("name")
    if not has_file and image_id is None:
        raise InvalidInput("the form has no file named image and no image_id")
    written = {"base64": "" if has_file else None, "id": image_id, "name": name}
    image = validated(SegmentImage, dict(written))
    return Asked(upload.file, image.id, image.name)


def _asked(image: SegmentImage) -> Asked:
    encoded = None if image.base64 is None else decode_base64(image.base64)
    return Asked(encoded, image.id, image.name, image.url)


def _json_field(name: str, text: str) -> object:
    check_elements(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the field {name} must be JSON") from error
