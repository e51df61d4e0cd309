"""Reverse proxy from the gateway to the segmenter: `/segment`, `/images`, `/text-embeddings`.

`/v1/models` is read from the segmenter too. Bodies are streamed without being read. Only known
paths and headers are forwarded, in both directions, so a caller's path or header cannot select
another route. The gateway's own API key is sent with these requests only. The segmenter's replies
are returned unchanged, errors too, because they have the same shape. The gateway answers 502 if the
segmenter cannot be reached or rejects the gateway's key, and 504 if it does not answer in time.
"""

import re
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import SecretStr, TypeAdapter, ValidationError
from starlette.background import BackgroundTask

from unspoken.client.calls import checked_path
from unspoken.client.port_clients import NO_KEY, key_headers
from unspoken.errors import DeadlineExceeded, InvalidInput, ServiceUnavailable
from unspoken.http.deadline import timeout_headers
from unspoken.http.error_replies import error_replies
from unspoken.http.uploads import json_request_body
from unspoken.logs import REQUEST_HEADER
from unspoken.safe_text import reason_of
from unspoken.wire.base import ModelInfo
from unspoken.wire.segment import MAX_IMAGE_NAME_CHARS, ImageReply, SegmentReply
from unspoken.wire.segment_bodies import ADDED_IMAGE, IMAGES_BODY, KNOWN_IMAGE, SEGMENT_BODY
from unspoken.wire.texts import TextEmbeddingsReply, TextEmbeddingsRequest

CONNECT_S = 5.0
MODELS_S = 5.0
_REQUEST_HEADERS = ("accept", "if-none-match", "x-chunk-id", "x-run-id")
_BODY_HEADERS = ("content-length", "content-type")
_REPLY_HEADERS = frozenset(
    {"cache-control", "content-encoding", "content-length", "content-type"}
    | {"etag", "location", "retry-after", "vary"}
)
_IMAGE_ID = re.compile(r"[A-Za-z0-9_.:/ -]+")
ImageId = Annotated[str, Path(max_length=MAX_IMAGE_NAME_CHARS)]
_ERRORS = error_replies(409, 502)
_MODELS: TypeAdapter[list[ModelInfo]] = TypeAdapter(list[ModelInfo])


class Proxy:
    """Reverse proxy to one segmenter; owns the HTTP connections.

    key: the gateway's own API key at the segmenter; a caller's key is never forwarded.
    transport: an httpx transport in place of the network, for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        key: SecretStr = NO_KEY,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            trust_env=False,
            # identity: bodies are returned as received, and the caller may not support compression.
            headers={
                **key_headers(key),
                "User-Agent": "unspoken-gateway",
                "Accept-Encoding": "identity",
            },
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def forward(self, request: Request, path: str) -> Response:
        """Forward a request to `path` and return the segmenter's reply.

        Raises ServiceUnavailable, DeadlineExceeded.
        """
        has_body = request.method == "POST"
        answer = await self._send(
            self._http.build_request(
                request.method,
                path,
                headers=_forwarded(request, has_body=has_body),
                content=request.stream() if has_body else None,
            )
        )
        return StreamingResponse(
            _raw(answer),
            status_code=answer.status_code,
            headers={
                name: answer.headers[name] for name in answer.headers if name in _REPLY_HEADERS
            },
            background=BackgroundTask(answer.aclose),
        )

    async def list_models(self) -> list[ModelInfo]:
        """Return the segmenter's models. Raises ServiceUnavailable, DeadlineExceeded."""
        answer = await self._send(self._http.build_request("GET", "/v1/models", timeout=MODELS_S))
        try:
            content = await answer.aread()
            if answer.is_success:
                return _MODELS.validate_json(content)
        except (httpx.TransportError, ValidationError) as error:
            raise ServiceUnavailable(
                f"the segmenter's /v1/models cannot be read: {reason_of(error)}"
            ) from error
        finally:
            await answer.aclose()
        raise ServiceUnavailable(f"the segmenter answered /v1/models by {answer.status_code}")

    async def _send(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        try:
            answer = await self._http.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"the segmenter did not answer {path} in time") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"the segmenter could not be reached for {path}: {reason_of(error)}"
            ) from error
        if answer.status_code == 401:
            await answer.aclose()
            raise ServiceUnavailable(
                "the segmenter rejected the gateway's API key: give the gateway's process a key of "
                "the segmenter's UNSPOKEN_API_KEYS as UNSPOKEN_CLIENT_KEY"
            )
        return answer


def passing_router(passing: Proxy) -> APIRouter:
    """Return the router of the segmenter's routes that the gateway proxies."""
    router = APIRouter(tags=["segmenter"], responses=_ERRORS)

    @router.post(
        "/segment", response_model=SegmentReply, openapi_extra={"requestBody": SEGMENT_BODY}
    )
    async def segment(request: Request) -> Response:
        """Return masks for texts, boxes and points: see the segmenter's `POST /segment`."""
        return await passing.forward(request, "/segment")

    @router.post(
        "/images",
        response_model=ImageReply,
        responses=ADDED_IMAGE,
        openapi_extra={"requestBody": IMAGES_BODY},
    )
    async def add_image(request: Request) -> Response:
        """Encode and cache an image before it is queried: see the segmenter's `POST /images`."""
        return await passing.forward(request, "/images")

    @router.get("/images/{image_id:path}", response_model=ImageReply, responses=KNOWN_IMAGE)
    async def read_image(image_id: ImageId, request: Request) -> Response:
        """Return a cached image's details: see the segmenter's `GET /images/{id}`."""
        return await passing.forward(request, _image_path(image_id))

    @router.delete("/images/{image_id:path}", status_code=204)
    async def delete_image(image_id: ImageId, request: Request) -> Response:
        """Remove an image from memory and disk: see the segmenter's `DELETE /images/{id}`."""
        return await passing.forward(request, _image_path(image_id))

    @router.post(
        "/text-embeddings",
        response_model=TextEmbeddingsReply,
        openapi_extra={"requestBody": json_request_body(TextEmbeddingsRequest)},
    )
    async def text_embeddings(request: Request) -> Response:
        """Return the vectors of texts: see the segmenter's `POST /text-embeddings`."""
        return await passing.forward(request, "/text-embeddings")

    return router


def _image_path(image_id: str) -> str:
    """Return the URL path of an image, its id as one segment. Raises InvalidInput for a bad id."""
    if not _IMAGE_ID.fullmatch(image_id) or {".", ".."} & set(image_id.split("/")):
        raise InvalidInput(
            "a picture's id has 64 hexadecimal digits; a name has letters, digits and _.:/ -, and "
            "no part . or .."
        )
    return checked_path("images", image_id)


def _forwarded(request: Request, *, has_body: bool) -> dict[str, str]:
    names = (*_REQUEST_HEADERS, *_BODY_HEADERS) if has_body else _REQUEST_HEADERS
    headers = {name: request.headers[name] for name in names if name in request.headers}
    return {**headers, **timeout_headers(), REQUEST_HEADER: request.state.request_id}


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body as received, without decompression."""
    async for piece in answer.aiter_raw():
        yield piece
