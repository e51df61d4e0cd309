"""The HTTP frame: probes, error table, request ids, metrics, body limits."""

import threading
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from tests.serving import ready_client, wait_until_ready
from unspoken.errors import (
    InvalidInput,
    Overloaded,
    Unauthorized,
)
from unspoken.http.app import create_service
from unspoken.http.batching import InferenceThread
from unspoken.http.error_replies import error_response
from unspoken.timings import Timings
from unspoken.wire.error_table import ERROR_TABLE, status_of
from unspoken.wire.proposals import ProposeRequest

ERRORS = [entry.error("x") for entry in ERROR_TABLE if entry.error is not Unauthorized]


def service(warm_up=lambda: None, **options) -> FastAPI:
    app = create_service(
        "test",
        description="a service of the tests",
        models=lambda: [],
        batchers=[],
        thread=InferenceThread(name="test"),
        warm_up=warm_up,
        **options,
    )

    @app.get("/raise/{index}")
    async def raise_error(index: int) -> None:
        raise ERRORS[index]

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("a secret")

    @app.post("/propose")
    async def propose(request: ProposeRequest) -> dict[str, int]:
        return {"captions": len(request.captions)}

    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with ready_client(service()) as client:
        yield client


def test_readiness_comes_only_after_the_warm_up():
    warmed = threading.Event()
    with TestClient(service(warm_up=lambda: warmed.wait(5))) as client:
        assert client.get("/livez").status_code == 200
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert refused.json()["error"] == "not_ready"
        warmed.set()
        wait_until_ready(client)


@pytest.mark.parametrize("index", range(len(ERRORS)), ids=[type(e).__name__ for e in ERRORS])
def test_each_error_has_its_status_and_a_body_with_its_code(client, index):
    error = ERRORS[index]
    response = client.get(f"/raise/{index}")
    assert response.status_code == status_of(error)
    assert response.json() == {"error": error.code, "message": "x", "details": {}}


def test_a_bug_is_a_500_that_tells_no_secret(client):
    response = client.get("/bug")
    assert response.status_code == 500
    assert "secret" not in response.text


def test_an_invalid_body_is_named_and_not_echoed(client):
    response = client.post("/propose", json={"captions": ["x" * 100_000]})
    assert response.status_code == 422
    assert "captions" in response.json()["message"]
    assert len(response.text) < 2000


def test_an_unknown_field_is_refused(client):
    response = client.post("/propose", json={"captions": ["a dog"], "colour": "red"})
    assert response.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b'{"captions": ["a dog"], "templates": ["\\ud800"]}',
        b'{"captions": ["\\ud800"]}',
        b'{"captions": ["a dog"], "\\ud800": 1}',
        b'{"captions": ["a dog"], "templates": {"\\udfff": "\\ud800"}}',
    ],
)
def test_half_of_a_surrogate_pair_anywhere_in_a_body_is_422_and_valid_utf_8(client, body):
    refused = client.post("/propose", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["error"]) == (422, "invalid_input")


def test_an_error_may_repeat_any_text_and_is_still_json():
    app = service()

    @app.get("/echo")
    async def echo() -> None:
        raise InvalidInput("half \ud800 of a pair", details={"\udfff": [float("1"), "\ud800"]})

    with ready_client(app) as client:
        refused = client.get("/echo")
    assert refused.status_code == 422
    assert refused.json()["message"] == "half \ud800 of a pair"


def test_a_key_that_a_service_behind_rejects_is_a_502_and_never_the_callers_401():
    app = service()

    @app.get("/behind")
    async def behind() -> None:
        raise Unauthorized("/detect: this service does not know this API key")

    with ready_client(app) as client:
        refused = client.get("/behind")
    assert (refused.status_code, refused.json()["error"]) == (502, "service_unavailable")
    assert "UNSPOKEN_CLIENT_KEY" in refused.json()["message"]


def test_a_retry_after_is_never_shorter_than_the_wait():
    for retry_after_s, header in ((1.2, "2"), (7, "7"), (0, "1")):
        reply = error_response(Overloaded("x", retry_after_s=retry_after_s))
        assert reply.headers["Retry-After"] == header


def test_openapi_describes_the_api_key_the_deadline_and_the_refusals(client):
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    assert schema["security"] == [{"ApiKey": []}, {}]
    assert schema["paths"]["/livez"]["get"]["security"] == []
    propose = schema["paths"]["/propose"]["post"]
    assert [each["name"] for each in propose["parameters"]] == ["X-Request-Timeout-Ms"]
    assert {"401", "403", "429", "504"} <= set(propose["responses"])
    assert "`rate_limited`: this API key" in propose["responses"]["429"]["description"]
    assert "parameters" not in schema["paths"]["/bug"]["get"]


def test_a_body_over_the_limit_is_413():
    with ready_client(service(max_body_bytes=1000)) as client:
        response = client.post("/propose", content=b"{" + b" " * 2000 + b"}")
        assert response.status_code == 413
        assert response.json()["error"] == "too_large"


def test_a_chunked_body_over_the_limit_is_413_too():
    def chunks():
        for _ in range(50):
            yield b" " * 100

    with ready_client(service(max_body_bytes=1000)) as client:
        response = client.post("/propose", content=chunks())
        assert response.status_code == 413
        assert response.json()["error"] == "too_large"


def test_a_route_that_reads_its_body_itself_is_cut_too():
    app = service(max_body_bytes=1000)

    @app.post("/own")
    async def own(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/own", content=iter([b"x" * 900])).json() == {"bytes": 900}
        response = client.post("/own", content=iter([b"x" * 900] * 2))
        assert response.status_code == 413
        assert response.json()["error"] == "too_large"
        assert response.headers["X-Request-Id"]


def test_unknown_routes_answer_in_the_same_shape(client):
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert response.json() == {
        "error": "unknown_route",
        "message": "there is no route /nowhere; see /docs",
        "details": {},
    }


def test_a_sane_request_id_is_kept_and_another_replaced(client):
    assert (
        client.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    )
    assert (
        client.get("/livez", headers={"X-Request-Id": "a b\tc"}).headers["X-Request-Id"] != "a b\tc"
    )


def test_metrics_count_requests_by_route(client):
    client.post("/propose", json={"captions": ["a dog"]})
    text = client.get("/metrics").text
    assert 'unspoken_requests_total{route="/propose",service="test",status="200"} 1.0' in text


def test_timings_add_up_and_carry_a_total():
    timings = Timings()
    with timings.measure("decode"):
        time.sleep(0.01)
    values = timings.as_ms()
    assert values["total"] >= values["decode"] >= 10
