"""A run's status as server-sent events, which outlive the connection and the gateway.

An event is a snapshot and no step: whoever was cut off needs only the newest one. Its id is made of
the snapshot itself, so it means the same to every gateway, and to one that was started since.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack

from fastapi import Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.types import Receive, Scope, Send

from unspoken.door import Admission
from unspoken.error_replies import error_response
from unspoken.errors import NotFound, Overloaded
from unspoken.schemas import ENDED, RunStatus

RETRY_MS = 2000

logger = logging.getLogger(__name__)

Look = Callable[[], Awaitable[RunStatus]]
"""Reads the status anew. Raises NotFound."""


def event_id(status: RunStatus) -> str:
    """Rows done, and a digest of what is said; not of when, nor of where this gateway sees it."""
    text = status.model_dump_json(exclude={"updated_s", "output"})
    return f"{status.done}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _CountedStream(EventSourceResponse):
    """An event stream that has a place among a bounded number; 429 where none is free."""

    streams: Admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as place:
            try:
                place.enter_context(self.streams.enter(0))
            except Overloaded as error:
                await error_response(error)(scope, receive, send)
                return
            await super().__call__(scope, receive, send)


def event_response(
    first: RunStatus,
    look: Look,
    *,
    last_id: str | None,
    poll_s: float,
    heartbeat_s: float,
    streams: Admission,
) -> Response:
    """The stream from `first` on; 204 where the caller has seen the end, so that it stays away.

    last_id: the caller's Last-Event-ID. streams: how many may be open at once.
    """
    if first.state in ENDED and last_id == event_id(first):
        return Response(status_code=204)
    response = _CountedStream(
        follow(first, look, last_id=last_id, poll_s=poll_s),
        ping=heartbeat_s,
        ping_message_factory=lambda: ServerSentEvent(comment="heartbeat"),
    )
    response.streams = streams
    return response


async def follow(
    first: RunStatus, look: Look, *, last_id: str | None, poll_s: float
) -> AsyncIterator[ServerSentEvent]:
    """`status` with each change that the caller has not seen; `end` after the last one."""
    status, told = first, last_id
    while True:
        now = event_id(status)
        if now != told:
            yield ServerSentEvent(status.model_dump_json(), event="status", id=now, retry=RETRY_MS)
            told = now
        if status.state in ENDED:
            yield ServerSentEvent(status.model_dump_json(), event="end", id=now)
            return
        await asyncio.sleep(poll_s)
        try:
            status = await look()
        except NotFound:  # its folder was removed; who asks again is told so
            return
        except OSError as error:  # the disk may be back before the caller loses patience
            logger.warning("a run's status cannot be read: %s", error)


def end_streams() -> None:
    """Let all streams end with the process; else each would hold its server through the drain."""
    AppStatus.should_exit = True
