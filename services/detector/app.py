"""`POST /detect`: a picture and phrases as JSON or multipart; never reaches torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from unspoken.batching import InferenceThread, MicroBatcher
from unspoken.errors import InvalidInput
from unspoken.images import Picture, decode_base64, decode_picture
from unspoken.ports import Detector
from unspoken.schemas import (
    MAX_TEXTS,
    DetectionResult,
    DetectReply,
    DetectRequest,
    ImageInfo,
    ImageInput,
)
from unspoken.server import Timings, create_service, in_decode_pool

MAX_FIELD_BYTES = 4 * 1024 * 1024
_EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
_PHRASES: TypeAdapter[list[str]] = TypeAdapter(list[str])


@dataclass(frozen=True)
class _Question:
    """What one request asks, with its picture decoded."""

    picture: Picture
    phrases: list[str]
    box_threshold: float | None


def create_app(
    engine: Detector,
    *,
    thread: InferenceThread | None = None,
    max_queue: int = 64,
    request_timeout_s: float = 120.0,
) -> FastAPI:
    """The HTTP face of a detector.

    thread: where the engine's torch work runs; a new one when absent.
    """
    thread = thread or InferenceThread(name="detector")

    def answer(questions: list[_Question]) -> list[DetectionResult]:
        return [
            engine.detect(asked.picture, asked.phrases, box_threshold=asked.box_threshold)
            for asked in questions
        ]

    # Pictures differ in size and a batch gains nothing on a CPU: one at a time.
    batcher = MicroBatcher(answer, name="detect", thread=thread, max_batch=1, max_queue=max_queue)
    app = create_service(
        "detector",
        description="Boxes for phrases: an open-vocabulary detector. Up to 1 000 phrases at once.",
        models=lambda: [engine.model],
        batchers=[batcher],
        thread=thread,
        warm_up=lambda: engine.detect(_blank_picture(), ["object"]),
    )

    @app.post("/detect", openapi_extra={"requestBody": _REQUEST_BODY}, tags=["detect"])
    async def detect(request: Request) -> DetectReply:
        """Find the boxes of phrases; each detection names the index of its phrase.

        Boxes are xyxy in pixels of the picture after EXIF orientation. No hit is an empty list.
        """
        timings = Timings()
        batcher.check_room()
        with timings.measure("decode"):
            question = await _read_question(request)
        with timings.measure("detect"):
            result = await batcher.submit(question, timeout_s=request_timeout_s)
        height, width = question.picture.size_hw
        threshold = question.box_threshold
        return DetectReply(
            image=ImageInfo(sha256=question.picture.sha256, width=width, height=height),
            detections=result.detections,
            num_chunks=result.num_chunks,
            box_threshold=engine.box_threshold if threshold is None else threshold,
            model=engine.model,
            timings_ms=timings.as_ms(),
        )

    return app


async def _read_question(request: Request) -> _Question:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match kind:
        case "multipart/form-data":
            try:
                form = await request.form(
                    max_files=1, max_fields=MAX_TEXTS + 8, max_part_size=MAX_FIELD_BYTES
                )
            except HTTPException as error:
                raise InvalidInput(f"the form is not readable: {error.detail}") from error
            try:
                encoded = await _read_image(form)
                return await in_decode_pool(_question_of_form, encoded, _fields(form))
            finally:
                await form.close()
        case "application/json" | "":
            return await in_decode_pool(_question_of_json, await request.body())
        case _:
            raise InvalidInput(f"send application/json or multipart/form-data, got {kind!r}")


def _question_of_json(body: bytes) -> _Question:
    asked = _validated(body)
    return _Question(
        picture=decode_picture(decode_base64(asked.image.base64)),
        phrases=asked.phrases,
        box_threshold=asked.box_threshold,
    )


def _question_of_form(encoded: bytes, fields: Mapping[str, list[str]]) -> _Question:
    """Validated by the same model as JSON: the picture's text is only a place holder."""
    unknown = sorted(set(fields) - {"phrases", "box_threshold"})
    if unknown:
        raise InvalidInput(f"unknown fields: {', '.join(unknown[:8])}")
    written: dict[str, object] = {
        "image": {"base64": ""},
        "phrases": _listed_phrases(fields.get("phrases", [])),
    }
    if any(fields.get("box_threshold", [])):
        written["box_threshold"] = fields["box_threshold"][-1]
    asked = _validated(written)
    return _Question(
        picture=decode_picture(encoded), phrases=asked.phrases, box_threshold=asked.box_threshold
    )


def _validated(written: bytes | dict[str, object]) -> DetectRequest:
    try:
        if isinstance(written, bytes):
            return DetectRequest.model_validate_json(written)
        return DetectRequest.model_validate(written)
    except ValidationError as error:
        raise RequestValidationError(
            error.errors(include_input=False, include_context=False, include_url=False)
        ) from error


def _listed_phrases(values: list[str]) -> list[str]:
    """One field that holds a JSON list, or the field repeated."""
    if len(values) != 1 or not values[0].lstrip().startswith("["):
        return values
    try:
        return _PHRASES.validate_json(values[0])
    except ValidationError as error:
        raise InvalidInput("phrases must be a JSON list of texts, or a repeated field") from error


async def _read_image(form: FormData) -> bytes:
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise InvalidInput("the form has no file named image")
    return await image.read()


def _fields(form: FormData) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields.setdefault(name, []).append(value)
    return fields


def _blank_picture() -> Picture:
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    return Picture(encoded=b"", sha256=hashlib.sha256(b"").hexdigest(), pixels=pixels)


def _json_schema() -> dict[str, Any]:
    """DetectRequest with the picture's schema in its place: OpenAPI knows no `$defs`."""
    schema = DetectRequest.model_json_schema()
    schema.pop("$defs", None)
    schema["properties"]["image"] = ImageInput.model_json_schema()
    return schema


_EXAMPLE: dict[str, Any] = {
    "image": {"base64": _EXAMPLE_PNG},
    "phrases": ["car", "wheel"],
    "box_threshold": 0.3,
}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _json_schema(),
            "example": _EXAMPLE,
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image", "phrases"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "phrases": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "repeated, or once as a JSON list",
                    },
                    "box_threshold": {"type": "number", "minimum": 0, "maximum": 1},
                },
            },
            "example": {"phrases": json.dumps(["car", "wheel"]), "box_threshold": 0.3},
        },
    },
}
