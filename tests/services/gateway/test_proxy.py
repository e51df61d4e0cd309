"""The gateway proxies `/segment` and `/images` byte for byte, including errors."""

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import pytest
from fastapi.testclient import TestClient

from services.gateway.app import create_app
from services.gateway.proxy import Proxy
from services.gateway.settings import GatewaySettings
from services.segmenter.app import create_app as segmenter_app
from tests.contracts import check_segmenter, picture_bytes
from tests.fakes import FakeSegmenter, FakeTextEncoder
from tests.openapi import apps
from tests.serving import ready_client
from tests.worker.service import serve
from unspoken.client.port_clients import SegmenterClient

PNG = picture_bytes()
IMAGE = {"base64": base64.b64encode(PNG).decode()}


@pytest.fixture
def segmenter() -> Iterator[str]:
    with serve(segmenter_app(FakeTextEncoder(), segmenter=FakeSegmenter())) as url:
        yield url


def gateway(
    tmp_path, *, url: str = "http://segmenter", transport=None
) -> AbstractContextManager[TestClient]:
    settings = GatewaySettings(
        data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", segmenter_url=url, max_body_mib=1
    )
    passing = None if transport is None else Proxy(url, timeout_s=5, transport=transport)
    return ready_client(create_app(settings, passing=passing))


def test_a_client_of_the_gateway_is_a_client_of_the_segmenter(tmp_path, segmenter):
    with gateway(tmp_path, url=segmenter) as client:
        http = client
        models = httpx.get(f"{segmenter}/v1/models", trust_env=False).json()
        assert [model["kind"] for model in models] == ["text_encoder", "segmenter"]
        assert http.get("/v1/models").json() == models
        check_segmenter(SegmenterClient(http))


def test_forms_errors_and_etags_come_through(tmp_path, segmenter):
    with gateway(tmp_path, url=segmenter) as client:
        created = client.post("/images", files={"image": PNG}, data={"name": "a b"})
        assert created.status_code == 201 and created.headers["ETag"]
        known = client.get("/images/a b", headers={"If-None-Match": created.headers["ETag"]})
        assert known.status_code == 304
        form = client.post("/segment", files={"image": PNG}, data={"queries": '[{"text": "car"}]'})
        assert form.status_code == 200 and form.json()["results"][0]["text"] == "car"
        missing = client.get("/images/nobody", headers={"X-Request-Id": "mine"})
        assert missing.status_code == 404 and "send it again" in missing.json()["message"]
        assert missing.headers.get_list("X-Request-Id") == ["mine"]
        bad = client.post("/segment", json={"image": IMAGE, "queries": [{}]})
        assert bad.status_code == 422 and bad.json()["error"] == "invalid_input"
        named = client.post("/images", files={"image": PNG}, data={"name": "a/b: c"})
        assert named.status_code == 200
        assert client.get("/images/a/b: c").json()["id"] == named.json()["id"]


def scripted_gateway(tmp_path, asked, reply=None):
    """Return a gateway whose segmenter records its requests and answers {} or `reply`."""

    def note(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return reply or httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    return gateway(tmp_path, transport=httpx.MockTransport(note))


@pytest.mark.parametrize(
    "written",
    [
        "..%2fmetrics",
        "..%2F..%2fmetrics",
        "%2e%2e%2fmetrics",
        "..",
        "%2e%2e",
        ".",
        "a%2f%2e%2e%2f%2e%2e%2fmetrics",
        "..%5cmetrics",
        "%00",
        "%0a",
        "%3fx=1",
        "%c3%a9",
        "a%23b",
        "%25",
    ],
)
def test_no_id_leads_to_another_route_of_the_segmenter(tmp_path, written):
    asked: list[httpx.Request] = []
    with scripted_gateway(tmp_path, asked) as client:
        target = client.base_url.copy_with(raw_path=f"/images/{written}".encode())
        reply = client.get(target)
        # The client resolves `/images/..` to `/`, the gateway's own page.
        assert reply.status_code in (404, 405, 422) or reply.url.path == "/"
    assert all(request.url.path.startswith("/images/") for request in asked)
    assert [request.url.path for request in asked] == []


def test_a_name_with_slashes_is_one_segment_of_the_path(tmp_path):
    asked: list[httpx.Request] = []
    with scripted_gateway(tmp_path, asked) as client:
        client.get("/images/a/b")
    assert [request.url.raw_path for request in asked] == [b"/images/a%2Fb"]


def test_only_known_headers_are_forwarded_in_both_directions(tmp_path):
    asked: list[httpx.Request] = []
    odd = {
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "1",
        "Cookie": "a=b",
        "Expect": "100-continue",
        "Authorization": "Bearer theirs",
        "Forwarded": "for=1.2.3.4",
        "X-Forwarded-Host": "evil.example",
        "Origin": "http://testserver",
        "Accept-Encoding": "br",
    }
    reply = httpx.Response(
        200,
        stream=httpx.ByteStream(b"{}"),
        headers={
            "Content-Type": "application/json",
            "Set-Cookie": "a=b",
            "Server": "inner",
            "X-Internal": "1",
            "Access-Control-Allow-Origin": "*",
            "ETag": '"e"',
        },
    )
    with scripted_gateway(tmp_path, asked, reply) as client:
        sent = {**odd, "X-Run-Id": "r", "Content-Type": "application/json"}
        answered = client.post("/segment", content=b"{}", headers=sent)
    (request,) = asked
    known = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    assert set(request.headers) == known | {
        "user-agent",
        "x-run-id",
        "x-request-id",
        "x-request-timeout-ms",
    }
    assert request.headers["connection"] == "keep-alive"
    assert request.headers["accept-encoding"] == "identity"
    assert answered.headers["ETag"] == '"e"'
    names = {"set-cookie", "server", "x-internal", "access-control-allow-origin"}
    assert not names & set(answered.headers)


@pytest.mark.parametrize("path", ["/segment", "/images", "/images/x", "/v1/models"])
def test_a_segmenter_that_rejects_the_gateways_key_is_a_502_and_not_the_callers_401(tmp_path, path):
    body = {"error": "unauthorized", "message": "not known", "details": {}}
    reply = httpx.Response(401, json=body, headers={"WWW-Authenticate": "Bearer"})
    with scripted_gateway(tmp_path, [], reply) as client:
        method = "POST" if path in ("/segment", "/images") else "GET"
        refused = client.request(method, path)
    assert (refused.status_code, refused.json()["error"]) == (502, "service_unavailable")
    assert "UNSPOKEN_CLIENT_KEY" in refused.json()["message"]
    assert "www-authenticate" not in refused.headers


@pytest.mark.parametrize("reply", [httpx.Response(404), httpx.Response(200, text="<html>")])
def test_models_of_something_else_than_a_segmenter_are_a_502(tmp_path, reply):
    with scripted_gateway(tmp_path, [], reply) as client:
        assert client.get("/v1/models").status_code == 502


@pytest.mark.parametrize("name", ["gateway", "segmenter"])
def test_openapi_has_the_statuses_of_pictures(name):
    paths = apps()[name].openapi()["paths"]
    assert {"200", "201"} <= set(paths["/images"]["post"]["responses"])
    assert {"200", "304"} <= set(paths["/images/{image_id}"]["get"]["responses"])


def test_a_body_over_the_gateways_bound_is_413_announced_or_not(tmp_path, segmenter):
    with gateway(tmp_path, url=segmenter) as client:
        large = b"x" * (2 * 1024 * 1024)
        assert client.post("/segment", content=large).status_code == 413

        def pieces() -> Iterator[bytes]:
            for _ in range(32):
                yield large[: 128 * 1024]

        assert client.post("/segment", content=pieces()).status_code == 413


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        pytest.param(httpx.ConnectError("refused"), 502, "service_unavailable", id="down"),
        pytest.param(httpx.ReadTimeout("slow"), 504, "deadline_exceeded", id="slow"),
    ],
)
def test_a_segmenter_that_does_not_answer_is_told_apart(tmp_path, raised, status, code):
    def fail(_request: httpx.Request) -> httpx.Response:
        raise raised

    with gateway(tmp_path, transport=httpx.MockTransport(fail)) as client:
        response = client.post("/segment", json={"image": IMAGE, "queries": []})
        assert response.status_code == status and response.json()["error"] == code


def test_a_full_segmenters_retry_after_comes_through(tmp_path):
    def full(_request: httpx.Request) -> httpx.Response:
        body = {"error": "overloaded", "message": "full", "details": {}}
        return httpx.Response(429, json=body, headers={"Retry-After": "7", "Connection": "close"})

    with gateway(tmp_path, transport=httpx.MockTransport(full)) as client:
        response = client.post("/segment", json={})
        assert response.status_code == 429 and response.headers["Retry-After"] == "7"


def test_the_segmenter_is_told_what_is_left_of_a_deadline(tmp_path):
    told = []

    def note(request: httpx.Request) -> httpx.Response:
        told.append(request.headers.get_list("X-Request-Timeout-Ms"))
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    with gateway(tmp_path, transport=httpx.MockTransport(note)) as client:
        client.post("/segment", json={}, headers={"X-Request-Timeout-Ms": "2000"})
        client.post("/segment", json={})
    (left,), (own,) = told
    assert 1 <= int(left) < 2000 and 170_000 < int(own) <= 180_000


class Held(httpx.AsyncBaseTransport):
    """A segmenter that answers only when the test releases it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        while not self.open.is_set():
            await asyncio.sleep(0.005)
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))


def test_a_gateway_refuses_more_pictures_than_it_may_have_under_way_and_still_queues_runs(tmp_path):
    held = Held()
    settings = GatewaySettings(
        data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", max_requests=1
    )
    (tmp_path / "data" / "shards").mkdir(parents=True)
    app = create_app(settings, passing=Proxy("http://x", timeout_s=20, transport=held))
    with serve(app) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(httpx.post, f"{url}/segment", content=b"{}", trust_env=False)
        assert held.asked.wait(20)
        more = httpx.post(f"{url}/segment", content=b"{}", trust_env=False)
        assert more.status_code == 429 and more.headers["Retry-After"]
        run = httpx.post(f"{url}/runs", json={"source": "shards"}, trust_env=False)
        assert run.status_code == 202
        held.open.set()
        assert first.result().status_code == 200


def test_a_gateway_gives_up_at_its_own_deadline(tmp_path):
    held = Held()
    settings = GatewaySettings(
        data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", request_timeout_s=0.1
    )
    with ready_client(
        create_app(settings, passing=Proxy("http://x", timeout_s=20, transport=held))
    ) as client:
        late = client.post("/segment", content=b"{}")
        assert late.status_code == 504 and late.json()["error"] == "deadline_exceeded"


def test_a_caller_who_disconnects_in_mid_body_is_no_error_of_the_gateway(
    tmp_path, segmenter, caplog
):
    settings = GatewaySettings(
        data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", segmenter_url=segmenter
    )
    with serve(create_app(settings)) as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
        wanted = 'unspoken_requests_total{route="/segment",service="gateway",status="499"}'
        deadline = time.monotonic() + 20
        while wanted not in httpx.get(f"{url}/metrics", trust_env=False).text:
            assert time.monotonic() < deadline
    assert [each for each in caplog.records if each.levelname in ("ERROR", "CRITICAL")] == []
