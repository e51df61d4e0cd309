"""A run's status as server-sent events that a client can resume.

Each event is a full snapshot, so a client that reconnects needs only the newest one. The event id
is derived from the snapshot alone. So it is valid at every gateway, also after a restart.
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

from unspoken.errors import NotFound, Overloaded
from unspoken.http.admission import Admission
from unspoken.http.error_replies import error_response
from unspoken.wire.runs import ENDED, RunStatus

RETRY_MS = 2000

logger = logging.getLogger(__name__)

Look = Callable[[], Awaitable[RunStatus]]
"""Function that reads the current status. Raises NotFound."""


def event_id(status: RunStatus) -> str:
    """Return the event id of a status: the rows done and a digest of the snapshot.

    The digest excludes the time of the update and the output path, which differs by gateway.
    """
    text = status.model_dump_json(exclude={"updated_s", "output"})
    return f"{status.done}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _CountedStream(EventSourceResponse):
    """An event stream that counts towards a limit of open streams; answers 429 above the limit."""

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
    """Return the event stream that starts at the status `first`.

    Return 204 if the caller has already seen the end, because 204 stops its reconnects.
    last_id: the caller's Last-Event-ID. streams: the limit of streams that are open at once.
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
    """Yield a `status` event for each change that the caller has not seen, then an `end` event."""
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
        except NotFound:  # the run's folder was removed; the client's next request gets a 404
            return
        except OSError as error:  # the disk may recover, so keep the stream open
            logger.warning("a run's status cannot be read: %s", error)


def end_streams() -> None:
    """End all streams at shutdown, because an open stream would delay the graceful shutdown."""
    AppStatus.should_exit = True
