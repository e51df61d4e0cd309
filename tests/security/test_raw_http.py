"""Requests that no client library sends: each has a defined answer, and the next one is served."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvicorn
from fastapi.testclient import TestClient

from services.detector.app import create_app as create_detector
from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.llm.app import create_app as create_llm
from tests.fakes import FakeDetector, FakePrompter
from tests.serving import ready_client
from unspoken.http.serve import uvicorn_config

SILENCE_S = 0.5
BODY = b'{"captions":["a dog"]}'
HEAD = b"POST /propose HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn_config(
        create_llm(FakePrompter()), host="127.0.0.1", port=0, log_level="critical"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes; return the server's answer until it closes or is silent for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        answered = b""
        with suppress(ConnectionError):  # it may close before it has read everything
            connection.sendall(sent)
        with suppress(ConnectionError, TimeoutError):
            while part := connection.recv(65536):
                answered += part
                connection.settimeout(SILENCE_S)
    return answered


def with_headers(*lines: str, body: bytes = BODY) -> bytes:
    return HEAD + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
CODING = "Transfer-Encoding: chunked"
LENGTH = f"Content-Length: {len(BODY)}"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            with_headers(
                "Content-Length: 4", "Transfer-Encoding: chunked", body=CHUNKED + SMUGGLED
            ),
            id="length-and-chunks",
        ),
        pytest.param(
            with_headers(CODING, LENGTH, body=CHUNKED + SMUGGLED),
            id="chunks-and-length",
        ),
        pytest.param(with_headers("Content-Length: 0", LENGTH), id="two-lengths"),
        pytest.param(with_headers("Content-Length: 0, 22"), id="list-of-lengths"),
        pytest.param(with_headers("Content-Length: -1"), id="negative"),
        pytest.param(with_headers("Content-Length: +22"), id="plus"),
        pytest.param(with_headers("Content-Length: 0x16"), id="hexadecimal"),
        pytest.param(with_headers("Content-Length: 2 2"), id="blank-in-length"),
        pytest.param(with_headers("Content-Length : 22"), id="blank-before-colon"),
        pytest.param(with_headers("Transfer-Encoding: xchunked"), id="unknown-coding"),
        pytest.param(with_headers("Transfer-Encoding: chunked, identity"), id="two-codings"),
        pytest.param(with_headers(CODING, body=b"zz\r\n" + BODY), id="no-chunk-size"),
        pytest.param(with_headers("X: " + "y" * 200_000, LENGTH), id="long-header"),
        pytest.param(with_headers("\x00: y", LENGTH), id="zero-byte"),
        pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET http://a/ /b HTTP/1.1\r\nHost: x\r\n\r\n", id="two-targets"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 8, id="tls"),
    ],
)
def test_a_request_of_two_meanings_is_refused_and_nothing_after_it_is_answered(port, sent):
    answered = exchange(port, sent)
    assert answered.startswith(b"HTTP/1.1 4") or answered.startswith(b"HTTP/1.1 501"), answered[
        :200
    ]
    assert answered.count(b"HTTP/1.1 ") == 1
    assert b"unspoken_requests" not in answered
    good = exchange(port, with_headers(LENGTH, "Connection: close"))
    assert good.startswith(b"HTTP/1.1 200")


def test_a_body_that_ends_early_is_no_request(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(with_headers("Content-Length: 900"))
    assert exchange(port, with_headers(LENGTH, "Connection: close")).startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Iterator[list[tuple[TestClient, str]]]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = GatewaySettings(data_dir=folder / "data", runs_dir=folder / "runs")
    with (
        ready_client(create_llm(FakePrompter())) as llm,
        ready_client(create_detector(FakeDetector())) as detector,
        ready_client(create_gateway(settings)) as gateway,
    ):
        yield [(llm, "/propose"), (detector, "/detect"), (gateway, "/runs")]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"captions":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"image":{"base64":' * 9_000,
        b"1" * 100_000,
        b'"\\ud800"',
        b"\xff\xfe\x00",
        b"",
    ],
    ids=range(9),
)
def test_deep_and_broken_json_is_a_4xx(faces, content):
    for client, path in faces:
        reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, (path, reply.text)
        assert set(reply.json()) == {"error", "message", "details"}


def test_of_two_keys_of_one_name_the_last_counts(faces):
    (client, path), *_ = faces
    content = b'{"captions":["a dog"],"captions":["a red car","a cat"]}'
    reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert len(reply.json()["proposals"]) == 2
