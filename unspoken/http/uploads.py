"""Read requests with a picture, as JSON or as a multipart form, for every service."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from unspoken.errors import InvalidInput
from unspoken.http.app import in_decode_pool
from unspoken.http.error_replies import invalid_request
from unspoken.http.json_bodies import SMALL_BODY_BYTES, check_elements, slim_body
from unspoken.problem_words import plain_problems, unknown_names
from unspoken.wire.segment_bodies import inlined_schema

MAX_FIELD_BYTES = 4 * 1024 * 1024
MAX_PROBLEMS = 2000
_QUICK_BYTES = 4096

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A request's body: `body` if it is JSON; `file` (the field `image`) and `fields` if a form."""

    body: bytes | bytearray | None = None
    file: bytes | None = None
    fields: Mapping[str, list[str]] = field(default_factory=dict)

    def last(self, name: str) -> str | None:
        """Return a field's last value; None if it is absent or empty."""
        values = self.fields.get(name) or [""]
        return values[-1] or None

    def as_json(self, name: str) -> object:
        """Return the value that a field's JSON stands for; None if it is absent or empty."""
        text = self.last(name)
        if text is None:
            return None
        check_elements(text)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the field {name} must be JSON") from error

    def as_list(self, name: str) -> object:
        """Return the values of a repeated field, or the JSON list that a single value holds."""
        values = self.fields.get(name)
        is_json = values is not None and len(values) == 1 and values[0].lstrip().startswith("[")
        return self.as_json(name) if is_json else values

    def refuse_unknown(
        self, known: Iterable[str], *, hints: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Raise InvalidInput for fields of the form other than `image` and the known ones.

        `hints` are those of a RequestModel.
        """
        if "image" in self.fields:
            raise InvalidInput("the form's field image must be a file")
        known = ("image", *known)
        if problems := unknown_names(self.fields, known=known, owner="the form", hints=hints):
            raise invalid_request(problems)


async def read_upload(request: Request, *, max_fields: int) -> Upload:
    """Read the whole body. Raises InvalidInput for another content type or an invalid form."""
    kind = content_type(request)
    match kind:
        case "multipart/form-data":
            check_charset(request)
            try:
                form = await request.form(
                    max_files=1, max_fields=max_fields, max_part_size=MAX_FIELD_BYTES
                )
            except HTTPException as error:
                raise InvalidInput(f"the form is not readable: {error.detail}") from error
            try:
                return Upload(file=await _read_image(form), fields=_fields(form))
            finally:
                await form.close()
        case "application/json" | "":
            return Upload(body=await read_body(request))
        case _:
            raise InvalidInput(f"send application/json or multipart/form-data, got {kind!r}")


async def read_json(request: Request, model: type[Model]) -> Model:
    """Read and validate a JSON body. Raises InvalidInput for another content type, TooLarge."""
    kind = content_type(request)
    if kind not in ("application/json", ""):
        raise InvalidInput(f"send application/json, got {kind!r}")
    body = await read_body(request)
    if len(body) <= _QUICK_BYTES:  # faster than switching threads twice
        return validated(model, body)
    return await in_decode_pool(validated, model, body)


async def read_body(request: Request) -> bytearray:
    """Read the whole body. `Request.body` would copy it in one step and block the event loop."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
    return body


def json_request_body(model: type[BaseModel], **more: object) -> dict[str, Any]:
    """Return the OpenAPI description of a JSON body for `read_json`.

    `more` adds further keys, such as examples.
    """
    return {
        "required": True,
        "content": {"application/json": {"schema": inlined_schema(model), **more}},
    }


def content_type(request: Request) -> str:
    """Return the media type without parameters, in lower case; "" if there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_charset(request: Request) -> None:
    """Raise InvalidInput for a charset other than UTF-8, which the form's parser would use."""
    _, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidInput(f"the form's charset must be utf-8, got {charset[:40]!r}")


def validated(model: type[Model], written: bytes | bytearray | dict[str, object]) -> Model:
    """Validate JSON, or values from a form's fields. Errors never contain the input.

    Raises TooLarge for JSON that would take long to parse.
    """
    try:
        if isinstance(written, bytes | bytearray):
            if len(written) <= SMALL_BODY_BYTES:
                return model.model_validate_json(written)
            slim = slim_body(written)
            return model.model_validate_json(slim.body, context=slim.pictures)
        return model.model_validate(written)
    except ValidationError as error:
        if error.error_count() > MAX_PROBLEMS:  # listing them takes longer than finding them
            raise InvalidInput(
                f"the request has {error.error_count()} problems; /openapi.json has its schema"
            ) from error
        raise invalid_request(plain_problems(error, model)) from error


async def _read_image(form: FormData) -> bytes | None:
    image = form.get("image")
    return await image.read() if isinstance(image, UploadFile) else None


def _fields(form: FormData) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields.setdefault(name, []).append(value)
        elif name != "image":
            fields.setdefault(name, [])  # a file whose field has another name
    return fields
