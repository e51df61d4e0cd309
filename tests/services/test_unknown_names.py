"""Every route answers 422 with a suggestion for an unknown field, form field or parameter."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.openapi import apps
from tests.serving import wait_until_ready

PROXIED = ("/segment", "/images", "/text-embeddings")
PNG = {"image": ("image.png", b"")}


def operations() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield the service, the method, the path and the OpenAPI of each route but the probes."""
    for service, app in apps().items():
        for path, methods in app.openapi()["paths"].items():
            for method, operation in methods.items():
                is_proxied = service == "gateway" and path.startswith(PROXIED)
                if "probes" not in operation["tags"] and not is_proxied:
                    yield service, method, path, operation


def bodies(media_type: str) -> list[Any]:
    """Return (service, path, schema) of each route with a body of this type."""
    return [
        pytest.param(service, path, content[media_type]["schema"], id=f"{service}{path}")
        for service, _, path, operation in operations()
        if media_type in (content := operation.get("requestBody", {}).get("content", {}))
    ]


def places(schema: dict[str, Any], *, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield for each object of a schema: its place, a field, a body with the field misspelt."""
    for part in schema.get("anyOf", [schema]):
        if part.get("type") == "array":
            for place, field, body in places(part.get("items", {}), where=f"{where}[0]"):
                yield place, field, [body]
        properties = part.get("properties", {})
        if properties:
            field = max(properties, key=len)
            yield where, field, {f"{field}s": 1}
        for name, inner in properties.items():
            for place, field, body in places(inner, where=f"{where}.{name}".removeprefix(".")):
                yield place, field, {name: body}


@pytest.fixture(scope="module")
def clients():
    started = {}
    for name, app in apps().items():
        client = TestClient(app)
        client.__enter__()
        wait_until_ready(client)
        started[name] = client
    yield started
    for client in started.values():
        client.__exit__(None, None, None)


@pytest.mark.parametrize(("service", "path", "schema"), bodies("application/json"))
def test_a_body_with_a_misspelt_field_at_any_depth_is_refused_with_the_right_name(
    clients, service, path, schema
):
    tried = list(places(schema))
    assert tried
    for place, field, body in tried:
        reply = clients[service].post(path, json=body)
        assert reply.status_code == 422, reply.text
        told = [each["problem"] for each in reply.json()["details"]["problems"]]
        owner = f" of {place}" if place else ""
        assert f"unknown field '{field}s'{owner}; did you mean '{field}'?" in told


@pytest.mark.parametrize(("service", "path", "schema"), bodies("multipart/form-data"))
def test_a_form_with_a_misspelt_field_is_refused_with_the_right_name(
    clients, service, path, schema
):
    for field in schema["properties"]:
        reply = clients[service].post(path, files=PNG, data={f"{field}s": "1"})
        assert reply.status_code == 422
        assert f"'{field}s' of the form; did you mean '{field}'?" in reply.json()["message"]
    reply = clients[service].post(path, files={"imag": PNG["image"]}, data={})
    assert reply.status_code == 422


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        pytest.param(service, method, path, id=f"{service}:{method} {path}")
        for service, method, path, _ in operations()
    ],
)
def test_a_query_parameter_that_no_route_has_is_refused(clients, service, method, path):
    reply = clients[service].request(method, path, params={"top_k": 3})
    assert reply.status_code == 422, reply.text
    assert reply.json()["message"].startswith("unknown query parameter 'top_k'")


def test_a_probe_accepts_the_parameters_of_a_monitoring_tool(clients):
    assert clients["llm"].get("/readyz", params={"t": 1}).status_code == 200
