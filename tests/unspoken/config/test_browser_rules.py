"""Host and Origin rules: requests that a web page may send to a service."""

import pytest
from fastapi.testclient import TestClient

from services.detector.settings import DetectorSettings
from services.gateway.settings import GatewaySettings
from tests.unspoken.http.test_app import service
from unspoken.config.browser_rules import BrowserRules, parse_rules
from unspoken.errors import Forbidden, InvalidConfig
from unspoken.http.app import use_browser_rules

LOOPBACK = BrowserRules(is_loopback=True)


def check(rules, *, method="GET", host="localhost:8000", origin=None, fetch_site=None):
    rules.check(method=method, host=host, origin=origin, fetch_site=fetch_site)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.:80",
        "127.0.0.1:8000",
        "127.1.2.3",
        "[::1]:8000",
        "gateway.localhost:8000",
        None,
    ],
)
def test_a_service_on_the_loopback_is_reached_by_the_names_of_the_loopback(host):
    check(LOOPBACK, host=host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8000",
        "evil.example:127.0.0.1",
        "10.0.0.5",
        "0.0.0.0",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "[fe80::1]:80",
        "",
        ":8000",
        "localhost@evil",
    ],
)
def test_a_service_on_the_loopback_refuses_every_other_name(host):
    with pytest.raises(Forbidden, match="UNSPOKEN_ALLOWED_HOSTS"):
        check(LOOPBACK, host=host)


def test_names_of_ones_own_are_accepted_where_they_are_set():
    rules = parse_rules(is_loopback=True, hosts="label.example.org, .inside.example", origins="")
    for host in ("label.example.org:443", "a.b.inside.example", "localhost"):
        check(rules, host=host)
    for host in ("inside.example", "evil.example", "xlabel.example.org"):
        with pytest.raises(Forbidden):
            check(rules, host=host)
    check(parse_rules(is_loopback=True, hosts="*", origins=""), host="any.example")


def test_beyond_the_loopback_every_name_is_accepted_until_some_are_set():
    check(parse_rules(is_loopback=False, hosts="", origins=""), host="any.example")
    rules = parse_rules(is_loopback=False, hosts="gateway", origins="")
    for host in ("gateway:8000", "10.0.0.5:8000", "[fd00::1]:8000", "127.0.0.1"):
        check(rules, host=host)
    with pytest.raises(Forbidden):
        check(rules, host="evil.example")


@pytest.mark.parametrize(
    ("origin", "fetch_site"),
    [
        ("https://evil.example", "cross-site"),
        ("http://localhost:3000", "same-site"),
        ("null", "cross-site"),
        (None, "cross-site"),
        ("https://evil.example", None),
        ("http://localhost:9000", None),
        ("null", None),
        ("http://[", None),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_a_page_of_another_site_changes_nothing(method, origin, fetch_site):
    with pytest.raises(Forbidden, match="UNSPOKEN_ALLOWED_ORIGINS"):
        check(LOOPBACK, method=method, origin=origin, fetch_site=fetch_site)


@pytest.mark.parametrize(
    ("origin", "fetch_site"),
    [
        (None, None),  # a program
        ("http://localhost:8000", "same-origin"),  # the page of /docs
        ("http://localhost:8000", None),  # the same in a browser without Sec-Fetch-Site
        (None, "none"),  # the user, not a page
    ],
)
def test_programs_and_pages_of_the_service_itself_may_send_everything(origin, fetch_site):
    check(LOOPBACK, method="POST", origin=origin, fetch_site=fetch_site)


def test_a_site_of_ones_own_may_send_where_it_is_set():
    rules = parse_rules(is_loopback=True, hosts="", origins="https://app.example:8443")
    check(rules, method="POST", origin="https://APP.example:8443", fetch_site="cross-site")
    for origin in ("https://app.example", "http://app.example:8443", None):
        with pytest.raises(Forbidden):
            check(rules, method="POST", origin=origin, fetch_site="cross-site")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allowed_hosts", "https://label.example.org"),
        ("allowed_hosts", "label.example.org:8000"),
        ("allowed_origins", "label.example.org"),
        ("allowed_origins", "https://label.example.org/"),
        ("allowed_origins", "*"),
    ],
)
def test_a_name_or_an_origin_of_another_form_stops_the_process_at_start(setting, value):
    with pytest.raises(InvalidConfig, match=f"UNSPOKEN_{setting.upper()}"):
        DetectorSettings(**{setting: value})


@pytest.fixture
def client():
    app = service()
    use_browser_rules(app, GatewaySettings().browser_rules())
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def test_a_refusal_is_403_in_the_shape_of_every_error_on_every_route(client):
    for path in ("/v1/models", "/openapi.json", "/metrics", "/livez", "/nowhere"):
        refused = client.get(path, headers={"Host": "evil.example:8000"})
        assert (refused.status_code, refused.json()["error"]) == (403, "forbidden"), path
        assert "evil.example" in refused.json()["message"] and refused.headers["X-Request-Id"]
    assert client.get("/v1/models").status_code == 200


def test_a_simple_request_of_another_site_is_refused_before_its_body_is_read(client):
    def never():
        yield b"{"
        raise AssertionError("the body was read")

    refused = client.post(
        "/propose",
        content=never(),
        headers={"Content-Type": "text/plain", "Origin": "https://evil.example"},
    )
    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
    assert client.post("/propose", json={"captions": ["a dog"]}).status_code == 200


def test_no_cors_and_no_compression_are_offered(client):
    headers = {"Origin": "https://evil.example", "Accept-Encoding": "gzip, br"}
    reply = client.get("/openapi.json", headers=headers)
    assert "content-encoding" not in reply.headers
    preflight = client.options(
        "/propose", headers={**headers, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    for answer in (reply, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
