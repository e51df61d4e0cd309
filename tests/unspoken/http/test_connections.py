"""Limits on the number of connections and on the time of slow callers, over real sockets."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from tests.serving import wait_until_ready
from unspoken.http.connections import ConnectionLimits, Connections, default_limits
from unspoken.http.serve import uvicorn_config

HALF_A_HEADER = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
HALF_A_BODY = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
PROBE = HALF_A_HEADER + b"\r\n"


def small_app(answer: threading.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> str:
        return "alive"

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.get("/slow")
    def slow() -> str:
        answer.wait(20)
        return "slow"

    @app.get("/large")
    async def large() -> Response:
        return PlainTextResponse(b"x" * 64 * 1024 * 1024)

    return app


@contextmanager
def served(
    max_connections: int = 8, **limits: float
) -> Iterator[tuple[int, Connections, threading.Event]]:
    """Yield port, connections, and the event that lets /slow answer."""
    answer = threading.Event()
    connections = Connections(ConnectionLimits(max_connections=max_connections, **limits))
    config = uvicorn_config(
        small_app(answer), host="127.0.0.1", port=0, log_level="error", connections=connections
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], connections, answer
    finally:
        answer.set()
        server.should_exit = True
        thread.join()


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent)
    return connection


def everything(connection: socket.socket) -> bytes:
    """Receive all data until the other side closes."""
    answered = b""
    try:
        while piece := connection.recv(65536):
            answered += piece
    except ConnectionResetError:
        pass
    return answered


def one_reply(connection: socket.socket) -> bytes:
    """Receive head and body of the next reply, by its Content-Length."""
    with connection.makefile("rb") as lines:
        head = b"".join(iter(lines.readline, b"\r\n"))
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return head + lines.read(length)


def probe(port: int) -> bytes:
    with connect(port, PROBE) as connection:
        return connection.recv(65536)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("half", [b"", HALF_A_HEADER, HALF_A_BODY], ids=["none", "header", "body"])
def test_half_open_requests_beyond_the_bound_close_the_eldest_and_probes_are_answered(half):
    with served(max_connections=8) as (port, connections, _), ExitStack() as stack:
        halves = [stack.enter_context(connect(port, half)) for _ in range(40)]
        assert b" 200 " in probe(port)
        assert everything(halves[0]) == b""
        assert len(connections) <= 8


def test_a_request_under_way_is_not_closed_for_a_new_connection():
    with served(max_connections=2) as (port, connections, answer), ExitStack() as stack:
        slow = [
            stack.enter_context(connect(port, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        ]
        wait_for(lambda: len(connections) == 1)
        for _ in range(5):
            stack.enter_context(connect(port, HALF_A_HEADER))
        slow.append(
            stack.enter_context(connect(port, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        )
        wait_for(lambda: sum(each.phase is None for each in connections._open) == 2)
        with connect(port, PROBE) as refused:
            assert b" 503 " in everything(refused)
        answer.set()
        assert all(b" 200 " in each.recv(65536) for each in slow)


def test_who_sends_no_whole_header_is_told_so_and_closed():
    with served(header_timeout_s=0.2) as (port, connections, _):
        with connect(port, HALF_A_HEADER) as late:
            answered = everything(late)
            assert b" 408 " in answered and b"request was not complete" in answered
        with connect(port) as silent:
            assert everything(silent) == b""
        wait_for(lambda: len(connections) == 0)


def test_a_header_that_drips_is_closed_all_the_same():
    with served(header_timeout_s=0.3) as (port, _connections, _), connect(port) as drip:
        started = time.monotonic()
        with pytest.raises(OSError):
            for _ in range(1000):
                drip.sendall(b"G")
                time.sleep(0.02)
        assert time.monotonic() - started < 10


def test_who_sends_no_whole_body_is_closed():
    with served(body_timeout_s=0.2) as (port, connections, _), connect(port, HALF_A_BODY) as late:
        assert b" 200 " not in everything(late)
        wait_for(lambda: len(connections) == 0)


def test_a_body_that_nobody_reads_is_not_waited_for():
    sent = HALF_A_BODY.replace(b"POST /read", b"GET /livez")
    with served(header_timeout_s=0.3) as (port, connections, _), connect(port, sent) as late:
        assert b" 200 " in everything(late)
        wait_for(lambda: len(connections) == 0)


def test_who_does_not_read_his_reply_is_closed():
    with served(write_timeout_s=0.2) as (port, connections, _):
        with connect(port, b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            wait_for(lambda: len(connections) == 1)
            wait_for(lambda: len(connections) == 0)
        assert b" 200 " in probe(port)


def test_a_kept_connection_is_served_again_and_again_beyond_the_deadlines():
    with served(header_timeout_s=0.5, body_timeout_s=0.5) as (port, *_), connect(port) as kept:
        for _ in range(12):
            kept.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            assert one_reply(kept).endswith(b"2")
            time.sleep(0.1)


def test_a_body_in_chunks_of_one_byte_does_not_hold_the_event_loop():
    with served() as (port, *_), connect(port) as hostile, ThreadPoolExecutor() as pool:
        hostile.settimeout(60)
        head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = head + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
        replying = pool.submit(lambda: hostile.sendall(sent) or one_reply(hostile))
        waits = []
        while not replying.done():
            started = time.perf_counter()
            assert b" 200 " in probe(port)
            waits.append(time.perf_counter() - started)
        assert replying.result().endswith(b"200000")
        assert len(waits) >= 10


def test_the_bound_follows_the_limit_of_open_files():
    assert default_limits(7).max_connections == 7
    assert 16 <= default_limits().max_connections <= 4096


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_300_half_open_requests_leave_a_process_of_256_files_alive():
    command = [sys.executable, "-m", "tests.unspoken.http.draining_process"]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=few_files
        ) as process,
        ExitStack() as stack,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                wait_until_ready(client)
            for _ in range(300):
                stack.enter_context(connect(port, HALF_A_HEADER))
            for _ in range(5):
                started = time.monotonic()
                assert b" 200 " in probe(port)
                assert time.monotonic() - started < 2
        finally:
            process.kill()
