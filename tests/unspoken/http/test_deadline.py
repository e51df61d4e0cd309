"""Deadlines of requests are passed to threads and to downstream services."""

import asyncio
import threading

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.worker.service import serve
from unspoken.client.port_clients import connect
from unspoken.errors import DeadlineExceeded
from unspoken.http.admission import AdmissionMiddleware
from unspoken.http.deadline import (
    MAX_TIMEOUT_MS,
    TIMEOUT_HEADER,
    check_wanted,
    ends_within,
    timeout_headers,
)
from unspoken.logs import bind_context


def told_ms() -> int:
    return int(timeout_headers()[TIMEOUT_HEADER])


def test_without_a_deadline_nothing_is_told():
    assert timeout_headers() == {}
    with ends_within(None):
        assert timeout_headers() == {}


def test_what_is_left_is_told_and_never_nothing():
    with ends_within(5):
        assert 4000 < told_ms() <= 5000
        with ends_within(-1):
            assert told_ms() == 1
    with ends_within(10**9):
        assert told_ms() == MAX_TIMEOUT_MS
    assert timeout_headers() == {}


def test_it_goes_into_another_thread():
    told = []
    with ends_within(5):
        thread = threading.Thread(target=bind_context(lambda: told.append(told_ms())))
        thread.start()
        thread.join()
    assert 4000 < told[0] <= 5000


def test_work_in_a_thread_stops_once_its_deadline_has_passed():
    check_wanted()
    with ends_within(None):
        check_wanted()
    with ends_within(-1), pytest.raises(DeadlineExceeded):
        check_wanted()


def test_work_in_a_thread_stops_once_its_request_is_over():
    with ends_within(60):
        check = bind_context(check_wanted)
        check()
    with pytest.raises(DeadlineExceeded):
        check()


async def echo(scope, receive, send):
    """ASGI app that replies with the deadline that it received."""
    named = Request(scope).headers.get(TIMEOUT_HEADER)
    await JSONResponse(named)(scope, receive, send)


def test_the_service_that_is_asked_in_turn_has_what_is_left():
    with serve(echo) as behind, connect(behind) as client:

        async def asking(scope, receive, send):
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(None, bind_context(client.post, "/"))
            await Response(answer.content)(scope, receive, send)

        door = AdmissionMiddleware(asking, check_open=lambda: None, admissions={}, timeout_s=30)
        with serve(door) as url:
            named = httpx.post(url, headers={TIMEOUT_HEADER: "2000"}).json()
            own = httpx.post(url).json()
    assert 1000 < int(named) <= 2000
    assert 29_000 < int(own) <= 30_000
