"""`/segment` and `/images` passed on to the segmenter: bodies stream through and are not read here.

What the segmenter answers is answered, errors too: their shape is the same. One that cannot be
reached is a 502, one that does not answer in time a 504.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import SecretStr
from starlette.background import BackgroundTask

from unspoken.clients.ports import NO_KEY, key_headers
from unspoken.deadline import TIMEOUT_HEADER, timeout_headers
from unspoken.errors import DeadlineExceeded, ServiceUnavailable, Unauthorized
from unspoken.logs import REQUEST_HEADER
from unspoken.schemas import ErrorBody
from unspoken.segment_bodies import IMAGES_BODY, SEGMENT_BODY
from unspoken.segment_schemas import MAX_IMAGE_NAME_CHARS, ImageReply, SegmentReply

# What a hop may not hand on (RFC 9110, 7.6.1), and what the server writes itself.
_OWN_HEADERS = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
    *("transfer-encoding", "upgrade", "host", "date", "server"),
    *("x-request-id", "authorization", TIMEOUT_HEADER.lower()),
}
ImageId = Annotated[str, Path(max_length=MAX_IMAGE_NAME_CHARS)]
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (409, 502)}


class Passing:
    """Owns the connections to one service.

    key: the API key that the gateway has there; a caller's own is for the gateway alone.
    transport: stands in for the network where it is given.
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
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,
            headers=key_headers(key),
            transport=transport,
        )

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def pass_on(self, request: Request) -> Response:
        """The service's answer. Raises ServiceUnavailable, DeadlineExceeded."""
        path = request.url.path
        passed = self._http.build_request(
            request.method,
            httpx.URL(path=quote(path), query=request.url.query.encode()),
            headers=_handed_on(request),
            content=request.stream() if request.method == "POST" else None,
        )
        try:
            answer = await self._http.send(passed, stream=True)
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"the segmenter did not answer {path} in time") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"the segmenter could not be reached for {path}: {error}"
            ) from error
        if answer.status_code == 401:
            await answer.aclose()
            raise Unauthorized("the segmenter knows not the gateway's key (UNSPOKEN_CLIENT_KEY)")
        headers = {
            name: value for name, value in answer.headers.items() if name not in _OWN_HEADERS
        }
        return StreamingResponse(
            _raw(answer),
            status_code=answer.status_code,
            headers=headers,
            background=BackgroundTask(answer.aclose),
        )


def passing_router(passing: Passing) -> APIRouter:
    """The segmenter's routes, as the gateway shows them."""
    router = APIRouter(tags=["segmenter"], responses=_ERRORS)

    @router.post(
        "/segment", response_model=SegmentReply, openapi_extra={"requestBody": SEGMENT_BODY}
    )
    async def segment(request: Request) -> Response:
        """Masks for texts, boxes and points: see the segmenter's `POST /segment`."""
        return await passing.pass_on(request)

    @router.post("/images", response_model=ImageReply, openapi_extra={"requestBody": IMAGES_BODY})
    async def add_image(request: Request) -> Response:
        """Embed a picture ahead: see the segmenter's `POST /images`."""
        return await passing.pass_on(request)

    @router.get("/images/{image_id:path}", response_model=ImageReply)
    async def read_image(image_id: ImageId, request: Request) -> Response:
        """Whether a picture is held: see the segmenter's `GET /images/{id}`."""
        return await passing.pass_on(request)

    return router


def _handed_on(request: Request) -> dict[str, str]:
    headers = {name: value for name, value in request.headers.items() if name not in _OWN_HEADERS}
    return {**headers, **timeout_headers(), REQUEST_HEADER: request.state.request_id}


async def _raw(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it came, compressed or not."""
    async for piece in answer.aiter_raw():
        yield piece
