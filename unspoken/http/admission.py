"""Admission control and deadlines: ASGI middleware in front of a service's POST routes.

Before a byte of the body is read, the request is refused with 503 while the service loads or
drains, and with 429 if the service is overloaded. A request without an answer at its deadline is
cancelled at any stage, and gets 504. It is also cancelled if its caller disconnects: its items are
then dropped from the queue.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unspoken.errors import DeadlineExceeded, InvalidInput, Overloaded, UnspokenError
from unspoken.http.batching import MAX_QUEUE_BYTES, MicroBatcher
from unspoken.http.deadline import MAX_TIMEOUT_MS, TIMEOUT_HEADER, ends_within
from unspoken.http.error_replies import error_response


class Admission:
    """Admission control of some routes: limits on the number of requests and the bytes of bodies.

    The batchers' queues limit what waits for the device. This limits what is read and decoded
    before that, and what waits for other services after that.

    `max_requests` is derived from the batchers' queues by default.
    """

    def __init__(
        self,
        *batchers: MicroBatcher[Any, Any],
        max_bytes: int = MAX_QUEUE_BYTES,
        max_requests: int | None = None,
    ) -> None:
        self._batchers = batchers
        if max_requests is None:
            max_requests = max(each.max_queue + 2 * each.max_batch for each in batchers)
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._num_requests = 0
        self._num_bytes = 0

    @contextmanager
    def enter(self, announced_bytes: int) -> Iterator["AdmittedRequest"]:
        """Admit a request until the block ends. Raises Overloaded, NotReady."""
        for batcher in self._batchers:
            batcher.check_room(1, max(1, announced_bytes))
        is_crowded = self._num_requests >= self._max_requests
        # A request larger than the limit is admitted if it is alone; otherwise it never could be.
        if is_crowded or (self._num_bytes and self._num_bytes + announced_bytes > self._max_bytes):
            raise Overloaded(
                f"{self._num_requests} requests of {self._num_bytes} bytes are in progress; the "
                f"limits are {self._max_requests} and {self._max_bytes}",
                retry_after_s=max([1.0, *(each.retry_after_s() for each in self._batchers)]),
            )
        visit = AdmittedRequest(self, announced_bytes)
        self._num_requests += 1
        self._num_bytes += announced_bytes
        try:
            yield visit
        finally:
            self._num_requests -= 1
            self._num_bytes -= visit.num_bytes

    def add_bytes(self, num_bytes: int) -> None:
        """Count received bytes beyond the announced length."""
        self._num_bytes += num_bytes


class AdmittedRequest:
    """One admitted request. Its body is counted as it arrives if no length was announced."""

    def __init__(self, admission: Admission, announced_bytes: int) -> None:
        self.num_bytes = announced_bytes
        self._admission = admission
        self._received_bytes = 0

    def receive(self, num_bytes: int) -> None:
        """Count a piece of the body."""
        self._received_bytes += num_bytes
        beyond = self._received_bytes - self.num_bytes
        if beyond > 0:
            self.num_bytes += beyond
            self._admission.add_bytes(beyond)


class AdmissionMiddleware:
    """ASGI middleware in front of all POST routes.

    Args:
        check_open: Raises NotReady while the service loads or drains.
        admissions: Path -> admission control.
        timeout_s: Deadline of a request that sets no deadline, and the longest deadline that one
        may set.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        check_open: Callable[[], None],
        admissions: Mapping[str, Admission],
        timeout_s: float | None,
    ) -> None:
        self._app = app
        self._check_open = check_open
        self._admissions = admissions
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            if scope["type"] == "http" and scope["method"] == "POST":
                await self._work(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except ClientDisconnect:  # in the middle of the body; counted and logged as status 499
            pass

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:
                if timer.expired():  # a 504 is being sent
                    raise asyncio.CancelledError
                # The deadline applies to the start of the reply. unspoken.http.connections
                # disconnects a caller that does not read it.
                timer.reschedule(None)
                has_begun = True
            await send(message)

        headers = Headers(scope=scope)
        try:
            timeout_s = self._timeout_of(headers)
            self._check_open()
            async with asyncio.timeout(timeout_s) as timer:
                with ends_within(timeout_s):
                    await self._admit(scope, headers, receive, answer)
        except TimeoutError:
            if has_begun or not timer.expired():
                raise
            error = DeadlineExceeded(
                f"no answer within {timeout_s:g} s; started work, such as a mask bank, is kept "
                "for a while: send the request again"
            )
            await error_response(error)(scope, receive, send)
        except UnspokenError as error:  # raised by this middleware; routes handle their own errors
            await error_response(error)(scope, receive, send)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        admission = self._admissions.get(scope["path"])
        if admission is None:
            await self._app(scope, receive, send)
            return
        announced = headers.get("content-length", "0")
        num_bytes = int(announced) if announced.isdecimal() and len(announced) < 16 else 0
        with admission.enter(num_bytes) as visit:
            await _while_heard(self._app, scope, receive, send, count=visit.receive)

    def _timeout_of(self, headers: Headers) -> float | None:
        named = headers.get(TIMEOUT_HEADER)
        if named is None:
            return self._timeout_s
        # isdecimal accepts digits of all scripts, and so does int.
        if not named.isdecimal() or len(named) > 9 or not 1 <= int(named) <= MAX_TIMEOUT_MS:
            raise InvalidInput(
                f"{TIMEOUT_HEADER} must be whole milliseconds from 1 to {MAX_TIMEOUT_MS}"
            )
        return min(int(named) / 1000, self._timeout_s or MAX_TIMEOUT_MS)


async def _while_heard(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, count: Callable[[int], None]
) -> None:
    """Run the app until it is done or its caller disconnects."""
    whole_body = asyncio.Event()

    async def body() -> Message:
        if whole_body.is_set():  # only a disconnect can follow; `gone` waits for it
            await asyncio.Event().wait()
        message = await receive()
        count(len(message.get("body", b"")))
        if not message.get("more_body", False):
            whole_body.set()
        return message

    async def gone() -> None:
        await whole_body.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(app(scope, body, send))
    watching = asyncio.create_task(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        watching.cancel()  # not awaited: some servers' `receive` returns only after the reply
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
