"""Read requests about one picture, for `/detect` and `/rank-crops`.

The picture is base64 or a URL in a JSON body, or the file of a multipart form. A form sends the
file's bytes as they are. Its other fields have the names of the JSON body: a list is one JSON list,
or texts in a repeated field.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

from fastapi import Request

from unspoken.errors import InvalidInput
from unspoken.http.app import in_decode_pool
from unspoken.http.uploads import Upload, read_upload, validated
from unspoken.http.url_fetch import Fetcher, fetch_url
from unspoken.imaging.images import Picture, decode_base64, decode_picture
from unspoken.wire.pictures import LinkedImage, PictureRequest
from unspoken.wire.segment_bodies import EXAMPLE_PNG, inlined_schema
from unspoken.wire.texts import MAX_TEXTS

MAX_FIELDS = MAX_TEXTS + 8
"""Maximum number of a form's fields: a list of texts may be a repeated field."""

Asked = TypeVar("Asked", bound=PictureRequest)


async def read_picture_request(
    request: Request, model: type[Asked], fetcher: Fetcher | None
) -> tuple[Picture, Asked]:
    """Return the decoded picture and the validated request. Raises InvalidInput or a subclass.

    fetcher: reads pictures from URLs. None: refuse URLs.
    """
    upload = await read_upload(request, max_fields=MAX_FIELDS)
    if upload.body is None:
        return await in_decode_pool(_read_form, upload, model)
    asked = await in_decode_pool(validated, model, upload.body)
    return await _picture_of(asked.image, fetcher), asked


def picture_request_body(
    model: type[PictureRequest], *, example: Mapping[str, Any], json_fields: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the OpenAPI description of a body for `read_picture_request`.

    example: the fields beside the picture.
    json_fields: lists that a form has as JSON only, because their elements are not texts.
    """
    schema = inlined_schema(model)
    properties: dict[str, Any] = {**schema["properties"]}
    for name, field in schema["properties"].items():
        if field.get("type") == "array":
            properties[name] = {**field, "description": "repeated, or once as a JSON list"}
    properties |= {name: {"type": "string", "description": "a JSON list"} for name in json_fields}
    properties["image"] = {"type": "string", "format": "binary"}
    form_example = {
        name: json.dumps(value) if isinstance(value, list) else value
        for name, value in example.items()
    }
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "example": {"image": {"base64": EXAMPLE_PNG}, **example},
            },
            "multipart/form-data": {
                "schema": {**schema, "properties": properties},
                "example": form_example,
            },
        },
    }


def _read_form(upload: Upload, model: type[Asked]) -> tuple[Picture, Asked]:
    """Return the picture and the request of a form, validated as a JSON body is.

    The request's image is an empty placeholder, because the file is sent separately.
    """
    if upload.file is None:
        raise InvalidInput("the form has no file named image")
    names = [name for name in model.model_fields if name != "image"]
    upload.refuse_unknown(names, hints=model.field_hints)
    written: dict[str, object] = {"image": {"base64": ""}}
    for name in names:
        is_list = get_origin(model.model_fields[name].annotation) is list
        value = upload.as_list(name) if is_list else upload.last(name)
        if value is not None:
            written[name] = value
    asked = validated(model, json.dumps(written).encode())
    return decode_picture(upload.file), asked


async def _picture_of(image: LinkedImage, fetcher: Fetcher | None) -> Picture:
    if image.url is not None:
        return await in_decode_pool(decode_picture, await fetch_url(fetcher, image.url))
    written = image.base64 or ""
    return await in_decode_pool(lambda: decode_picture(decode_base64(written)))
