"""Admission control before a body is read, deadlines, and disconnected callers."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient

from services.llm.app import create_app
from tests.fakes import FakePrompter
from tests.openapi import apps
from tests.worker.service import serve
from unspoken.http.admission import AdmissionMiddleware

BODY = {"captions": ["a red car"]}


class Gated:
    """A prompter that records captions and blocks on 'hold' until it is released."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[str] = []
        self.engine = FakePrompter(before=self._before)

    def _before(self, captions: Sequence[str]) -> None:
        self.asked += captions
        if "hold" in captions:
            self.open.wait(20)

    def wait_until_held(self) -> None:
        deadline = time.monotonic() + 20
        while "hold" not in self.asked:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@contextmanager
def gated(**limits: object) -> Iterator[tuple[Gated, httpx.Client, ThreadPoolExecutor]]:
    """Run a service on a real port whose engine can be blocked."""
    gate = Gated()
    with (
        serve(create_app(gate.engine, **limits)) as url,
        ThreadPoolExecutor(16) as pool,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        try:
            yield gate, client, pool
        finally:
            gate.open.set()


def captions(*texts: str) -> dict[str, object]:
    return {"captions": list(texts)}


def half_a_request(client: httpx.Client, *, length: int) -> bytes:
    """Announce a body but send none of it; return the reply that comes nevertheless."""
    head = f"POST /propose HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(10)
        connection.sendall(head.encode())
        reply = b""
        while b"}" not in reply and (piece := connection.recv(4096)):
            reply += piece
        return reply


def test_work_is_503_while_the_service_loads_and_probes_answer():
    loading = threading.Event()
    app = create_app(FakePrompter(before=lambda captions: loading.wait(20)))
    with TestClient(app) as client:
        refused = client.post("/propose", json=BODY)
        assert refused.status_code == 503 and refused.json()["error"] == "not_ready"
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.get("/livez").status_code == 200
        loading.set()


def test_a_full_queue_is_429_before_the_body_has_come():
    with gated(max_batch=1, max_queue=2) as (gate, client, pool):
        asking = [pool.submit(client.post, "/propose", json=captions("hold"))]
        gate.wait_until_held()
        asking += [pool.submit(client.post, "/propose", json=captions(f"{n}")) for n in range(2)]
        deadline = time.monotonic() + 20
        while 'unspoken_queue_length{batcher="propose"} 2.0' not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        reply = half_a_request(client, length=1000)
        assert b" 429 " in reply.splitlines()[0]
        assert b"retry-after: " in reply.lower() and b"overloaded" in reply
        counted = client.get("/metrics").text
        assert 'unspoken_requests_total{route="/propose",service="llm",status="429"}' in counted
        gate.open.set()
        assert [each.result().status_code for each in asking] == [200] * 3
        assert client.post("/propose", json=BODY).status_code == 200


def test_bodies_that_are_read_are_bounded_together():
    with gated(max_queue_bytes=100_000) as (gate, client, pool):
        holding = pool.submit(client.post, "/propose", json=captions("hold"))
        gate.wait_until_held()
        assert b"429" in half_a_request(client, length=99_990)
        gate.open.set()
        assert holding.result().status_code == 200


def test_a_deadline_that_the_caller_names_is_504_and_what_waited_is_not_run():
    with gated(max_batch=1) as (gate, client, pool):
        holding = pool.submit(client.post, "/propose", json=captions("hold"))
        gate.wait_until_held()
        late = client.post(
            "/propose", json=captions("late"), headers={"X-Request-Timeout-Ms": "100"}
        )
        assert late.status_code == 504 and late.json()["error"] == "deadline_exceeded"
        gate.open.set()
        assert holding.result().status_code == 200
        assert client.post("/propose", json=BODY).status_code == 200
    assert "late" not in gate.asked


async def _through_a_door(app, *, timeout_ms: int) -> list[dict[str, object]]:
    door = AdmissionMiddleware(app, check_open=lambda: None, admissions={}, timeout_s=None)
    headers = [(b"x-request-timeout-ms", str(timeout_ms).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    await door(scope, receive, send)
    return sent


def test_an_answer_that_has_begun_before_its_deadline_is_sent_whole():
    async def late_body(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"whole"})

    sent = asyncio.run(_through_a_door(late_body, timeout_ms=20))
    assert [message.get("status", message.get("body")) for message in sent] == [200, b"whole"]


def test_an_answer_that_would_begin_as_its_deadline_passes_is_a_504_and_nothing_else():
    async def late(scope, receive, send):
        time.sleep(0.05)  # the loop itself is late: deadline and answer come in the same turn
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async def late_after_a_turn(scope, receive, send):
        await asyncio.sleep(0)
        await late(scope, receive, send)

    for app in (late, late_after_a_turn):
        sent = asyncio.run(_through_a_door(app, timeout_ms=20))
        starts = [message["status"] for message in sent if "status" in message]
        assert starts in ([504], [200]) and len(sent) == 2


def test_the_services_own_deadline_holds_where_the_caller_names_a_later_one():
    with gated(request_timeout_s=0.2) as (gate, client, _pool):
        for headers in ({}, {"X-Request-Timeout-Ms": "60000"}):
            late = client.post("/propose", json=captions("hold"), headers=headers)
            assert late.status_code == 504 and "0.2 s" in late.json()["message"]
        gate.open.set()


@pytest.mark.parametrize("named", ["0", "-1", "soon", "1.5", "9999999999"])
def test_a_deadline_that_is_none_is_422(named):
    with gated() as (_gate, client, _pool):
        reply = client.post("/propose", json=BODY, headers={"X-Request-Timeout-Ms": named})
        assert reply.status_code == 422 and "X-Request-Timeout-Ms" in reply.json()["message"]


def test_what_a_caller_asked_who_has_gone_is_not_run():
    with gated(max_batch=1) as (gate, client, pool):
        holding = pool.submit(client.post, "/propose", json=captions("hold"))
        gate.wait_until_held()
        with pytest.raises(httpx.ReadTimeout):
            client.post("/propose", json=captions("gone"), timeout=0.2)
        time.sleep(0.3)  # the server hears of it
        gate.open.set()
        assert holding.result().status_code == 200
        assert client.post("/propose", json=BODY).status_code == 200
    assert "gone" not in gate.asked


def counted(client: httpx.Client, route: str, status: int) -> bool:
    name = f'unspoken_requests_total{{route="{route}",service="llm",status="{status}"}}'
    return name in client.get("/metrics").text


@pytest.mark.parametrize("sent", [b"", b'{"captions":'], ids=["nothing", "half"])
def test_a_caller_who_disconnects_in_mid_body_is_counted_apart_and_no_error_is_logged(sent, caplog):
    with gated() as (_gate, client, _pool):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            head = "POST /propose HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n"
            connection.sendall(head.encode() + sent)
        deadline = time.monotonic() + 20
        while not counted(client, "/propose", 499):
            assert time.monotonic() < deadline, client.get("/metrics").text
        assert not counted(client, "/propose", 500)
    assert [each for each in caplog.records if each.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("name", ["gateway", "llm", "detector", "segmenter"])
def test_every_route_that_reads_a_body_has_admission_control(name):
    app = apps()[name]
    (door,) = (each for each in app.user_middleware if each.cls is AdmissionMiddleware)
    posts = {path for path, verbs in app.openapi()["paths"].items() if "post" in verbs}
    assert {path for path in posts if "{" not in path} == set(door.kwargs["admissions"])
