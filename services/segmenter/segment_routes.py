"""The routes `/segment` and `/images`, and the reading of their bodies.

A body is JSON or a form; the same models validate both. This module does not import torch.
"""

import json
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response

from services.segmenter.ports import Entry
from services.segmenter.segment_flow import RequestImage, SegmentFlow
from unspoken.errors import Conflict, InvalidInput
from unspoken.http.app import in_decode_pool
from unspoken.http.error_replies import error_replies
from unspoken.http.uploads import Upload, read_upload, validated
from unspoken.http.url_fetch import Fetcher, fetch_url
from unspoken.imaging.images import decode_base64
from unspoken.timings import Timings
from unspoken.wire.segment import (
    MAX_IMAGE_NAME_CHARS,
    ImageReply,
    ImageRequest,
    SegmentImage,
    SegmentQuestion,
    SegmentReply,
    SegmentRequest,
)
from unspoken.wire.segment_bodies import ADDED_IMAGE, IMAGES_BODY, KNOWN_IMAGE, SEGMENT_BODY

MAX_FIELDS = 16
_JSON_FIELDS = ("queries", "output", "nms_iou", "independent")
_MORE_ERRORS = error_replies(409, 502)
ImageId = Annotated[str, Path(max_length=MAX_IMAGE_NAME_CHARS)]


def segment_router(flow: SegmentFlow[Entry] | None, *, fetcher: Fetcher | None = None) -> APIRouter:
    """Return the router of `/segment` and `/images`.

    flow: None if the profile has no segmenter; requests are then answered 409.
    """
    router = APIRouter(tags=["segmenter"], responses=_MORE_ERRORS)

    def served() -> SegmentFlow[Entry]:
        if flow is None:
            raise Conflict(
                "this profile has no segmenter: choose one that has (UNSPOKEN_PROFILE), or set "
                "SEGMENTER_WEIGHTS"
            )
        return flow

    @router.post(
        "/segment", response_model=SegmentReply, openapi_extra={"requestBody": SEGMENT_BODY}
    )
    async def segment(request: Request) -> Response:
        """Return masks for texts, boxes and points, in the order of the queries.

        A query that finds nothing has an empty list. A bad query gets an `error`, and the other
        queries are answered. With method `detector`, a text's score depends on the other texts of
        the request, unless `independent` is set. With method `bank` it never does. An id that is
        not cached, or no longer, is answered 404: send the image again.
        """
        flow, timings = served(), Timings()
        with timings.measure("decode"):
            image, question = await _read_question(request, fetcher)
        reply = await flow.segment(image, question, timings)
        return Response(reply, media_type="application/json")

    @router.post("/images", responses=ADDED_IMAGE, openapi_extra={"requestBody": IMAGES_BODY})
    async def add_image(request: Request, response: Response) -> ImageReply:
        """Encode and cache an image before it is queried.

        The status is 201 for a new image and 200 for an image that was already cached.
        """
        flow, timings = served(), Timings()
        with timings.measure("decode"):
            image = await _read_image(request, fetcher)
        reply = await flow.add_image(image, timings)
        response.status_code = 200 if reply.cached else 201
        response.headers["Location"] = f"/images/{reply.id}"
        response.headers["ETag"] = f'"{reply.id}"'
        return reply

    @router.get("/images/{image_id:path}", response_model=ImageReply, responses=KNOWN_IMAGE)
    async def read(
        image_id: ImageId, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Return a cached image's details: 200, 304 if its ETag matches, 404 if not cached."""
        reply = await served().read_image(image_id)
        tag = f'"{reply.id}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        known = {each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(reply.model_dump_json(), media_type="application/json", headers=headers)

    @router.delete("/images/{image_id:path}", status_code=204)
    async def delete(image_id: ImageId) -> None:
        """Remove an image, by id or name, from memory and disk.

        This removes its file, embedding, bank and names. The status is 204, or 404 if the image is
        not cached. Each replica has its own memory, so send the request to every replica.
        """
        await served().delete_image(image_id)

    return router


async def _read_question(
    request: Request, fetcher: Fetcher | None
) -> tuple[RequestImage, SegmentQuestion]:
    """Read the body of `POST /segment`, and fetch the image if the body has a URL."""
    upload = await read_upload(request, max_fields=MAX_FIELDS)
    image, url, question = await in_decode_pool(_question, upload)
    return await _with_content(image, url, fetcher), question


async def _read_image(request: Request, fetcher: Fetcher | None) -> RequestImage:
    """Read the body of `POST /images`. Raises InvalidInput for an id, as it needs no encoding."""
    upload = await read_upload(request, max_fields=MAX_FIELDS)
    image, url = await in_decode_pool(_image, upload)
    return await _with_content(image, url, fetcher)


async def _with_content(
    image: RequestImage, url: str | None, fetcher: Fetcher | None
) -> RequestImage:
    """Return the image with the content of its URL, if the request has one."""
    return image if url is None else image._replace(content=await fetch_url(fetcher, url))


def _question(upload: Upload) -> tuple[RequestImage, str | None, SegmentQuestion]:
    if upload.body is not None:
        asked = validated(SegmentRequest, upload.body)
        return _json_image(asked.image), asked.image.url, asked
    upload.refuse_unknown(
        ("image_id", "name", "method", *_JSON_FIELDS), hints=SegmentQuestion.field_hints
    )
    written: dict[str, object] = {
        name: upload.as_json(name) for name in _JSON_FIELDS if upload.last(name)
    }
    if (method := upload.last("method")) is not None:
        written["method"] = method
    image = _form_image(upload)
    # Validate as JSON, like a body, because pydantic validates Python objects by other rules.
    question = validated(SegmentQuestion, json.dumps(written).encode())
    return image, None, question


def _image(upload: Upload) -> tuple[RequestImage, str | None]:
    url = None
    if upload.body is not None:
        sent = validated(ImageRequest, upload.body).image
        image, url = _json_image(sent), sent.url
    else:
        upload.refuse_unknown(("name",))
        image = _form_image(upload)
    if image.image_id:
        raise InvalidInput("send the picture itself; GET /images/{id} tells whether it is cached")
    return image, url


def _form_image(upload: Upload) -> RequestImage:
    """Return the image of a form. If the form has a file, its base64 text is a placeholder."""
    has_file = upload.file is not None
    image_id, name = upload.last("image_id"), upload.last("name")
    if not has_file and image_id is None:
        raise InvalidInput("the form has no file named image and no image_id")
    written = {"base64": "" if has_file else None, "id": image_id, "name": name}
    image = validated(SegmentImage, dict(written))
    return RequestImage(upload.file, image.id or "", image.name)


def _json_image(image: SegmentImage) -> RequestImage:
    content = None if image.base64 is None else decode_base64(image.base64)
    return RequestImage(content, image.id or "", image.name)
