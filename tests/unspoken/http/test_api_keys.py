"""API keys: authentication, rate limits, content security policy, and no keys in logs."""

import io
import logging

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from services.detector.settings import DetectorSettings
from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.llm.settings import LlmSettings
from tests.unspoken.http.test_app import service
from unspoken.client import Client
from unspoken.client.http_error import error_of
from unspoken.client.port_clients import connect
from unspoken.config.api_keys import ApiKey, KeyRing, key_sha256, new_key, parse_keys
from unspoken.errors import InvalidConfig, InvalidInput, RateLimited, Unauthorized
from unspoken.http.app import use_keys
from unspoken.logs import JsonFormatter, TextFormatter

KEY, OTHER = "unspoken_a-secret-of-the-tests", "unspoken_another-secret"
ENTRY = f"app:{key_sha256(KEY)}"


def ring(*, per_minute: float = 0, now=lambda: 0.0) -> KeyRing:
    key = ApiKey(name="app", sha256=key_sha256(KEY), requests_per_minute=per_minute)
    other = ApiKey(name="other", sha256=key_sha256(OTHER), requests_per_minute=0)
    return KeyRing([key, other], now=now)


@pytest.fixture
def client():
    app = service()
    use_keys(app, ring())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "header",
    [
        *(
            None,
            "",
            "Bearer",
            "Bearer ",
            KEY,
            f"Basic {KEY}",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
        ),
        f"Bearer {key_sha256(KEY)}",
        f"Bearer {KEY} {KEY}",
        "Bearer \udcff",
    ],
    ids=range(11),
)
def test_without_a_known_key_nobody_is_let_in(header):
    with pytest.raises(Unauthorized):
        ring().admit(header)


def test_a_known_key_is_let_in_by_its_name():
    assert ring().admit(f"Bearer {KEY}") == "app"
    assert ring().admit(f"bearer {OTHER}") == "other"


def test_a_key_asks_no_oftener_than_it_may_and_no_other_one_waits():
    now_s = 0.0
    keys = ring(per_minute=60, now=lambda: now_s)
    for _ in range(60):  # a minute's requests at once
        keys.admit(f"Bearer {KEY}")
    with pytest.raises(RateLimited) as refused:
        keys.admit(f"Bearer {KEY}")
    assert 0 < refused.value.retry_after_s <= 1
    assert keys.admit(f"Bearer {OTHER}") == "other"
    now_s = 1.0
    keys.admit(f"Bearer {KEY}")
    with pytest.raises(RateLimited):
        keys.admit(f"Bearer {KEY}")


def test_a_key_with_three_requests_a_minute_may_send_three_at_once_and_then_one_in_20_s():
    now_s = 0.0
    keys = ring(per_minute=3, now=lambda: now_s)
    for _ in range(3):
        keys.admit(f"Bearer {KEY}")
    with pytest.raises(RateLimited) as refused:
        keys.admit(f"Bearer {KEY}")
    assert refused.value.retry_after_s == pytest.approx(20)
    now_s = 3600.0  # an hour of silence saves up no more than a minute's requests
    for _ in range(3):
        keys.admit(f"Bearer {KEY}")
    with pytest.raises(RateLimited):
        keys.admit(f"Bearer {KEY}")


@pytest.mark.parametrize("written", [f"{KEY}\r", f" {KEY}\t\n", KEY])
def test_a_key_of_a_crlf_file_is_sent_without_its_carriage_return(written, monkeypatch):
    monkeypatch.setenv("UNSPOKEN_CLIENT_KEY", written)
    key = DetectorSettings().client_key
    assert key.get_secret_value() == KEY
    with connect("http://127.0.0.1:9", key=SecretStr(written)) as http:
        assert http.headers["Authorization"] == f"Bearer {KEY}"
    with Client("http://127.0.0.1:9", api_key=written) as client:
        assert client._http.headers["Authorization"] == f"Bearer {KEY}"


def test_every_setting_of_a_crlf_file_is_read_without_its_carriage_return(monkeypatch):
    monkeypatch.setenv("UNSPOKEN_LOG_FORMAT", "json\r")
    monkeypatch.setenv("DETECTOR_PORT", "8009\r")
    monkeypatch.setenv("UNSPOKEN_API_KEYS", f"{ENTRY}\r")
    settings = DetectorSettings()
    assert (settings.log_format, settings.port) == ("json", 8009)
    assert settings.key_ring() is not None


@pytest.mark.parametrize(
    "written", ["schlüssel-1", f"{KEY}\r\nX-Admin: 1", f"{KEY}   # for who asks", f"{KEY}\x00"]
)
def test_a_key_that_no_header_can_carry_is_refused_by_name_and_never_repeated(written, monkeypatch):
    with pytest.raises(InvalidConfig, match="UNSPOKEN_CLIENT_KEY is not an API key") as refused:
        DetectorSettings(client_key=written)
    assert KEY not in str(refused.value) and "hl" not in str(refused.value)
    with pytest.raises(InvalidInput, match="api_key is not an API key"):
        Client("http://127.0.0.1:9", api_key=written)
    with pytest.raises(InvalidConfig, match="LLM_OPENAI_API_KEY"):
        LlmSettings(openai_api_key=written)


def test_keys_are_read_from_one_line():
    keys = parse_keys(f"{ENTRY}, worker:{key_sha256(OTHER)}:0", requests_per_minute=600)
    assert [(key.name, key.requests_per_minute) for key in keys] == [("app", 600), ("worker", 0)]
    assert parse_keys(" ", requests_per_minute=600) == ()
    assert len({new_key() for _ in range(8)}) == 8


@pytest.mark.parametrize(
    "text", [KEY, f"app:{KEY}", f"{ENTRY}:fast", f"{ENTRY} {ENTRY}", ENTRY.upper(), f"a b:{ENTRY}"]
)
def test_keys_that_cannot_be_read_stop_the_process_and_are_not_told(text):
    with pytest.raises(InvalidConfig) as refused:
        DetectorSettings(api_keys=text)
    assert KEY not in str(refused.value)


def test_beyond_the_loopback_a_service_wants_keys_or_a_closed_network():
    with pytest.raises(InvalidConfig, match="UNSPOKEN_API_KEYS"):
        DetectorSettings(host="0.0.0.0")
    assert DetectorSettings(host="0.0.0.0", api_keys=ENTRY).key_ring() is not None
    assert DetectorSettings(host="0.0.0.0", trusted_bind=True).key_ring() is None
    assert DetectorSettings().key_ring() is None


def test_every_route_but_the_probes_and_pages_asks_for_a_key(client):
    for path in ("/livez", "/readyz"):
        assert client.get(path).status_code in (200, 503)
    for path in (
        "/v1/models",
        "/metrics",
        "/nowhere",
        "/livez/",
        "http://testserver//livez",
    ):
        refused = client.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json()["error"] == "unauthorized"
        assert refused.headers["X-Request-Id"]
    good = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/v1/models", headers=good).status_code == 200
    assert client.get("/nowhere", headers=good).status_code == 404


def test_who_has_no_key_is_refused_before_the_body_is_read(client):
    def never():
        yield b"{"
        raise AssertionError("the body was read")

    assert client.post("/propose", content=never()).status_code == 401


def test_a_key_that_asks_too_often_is_429_with_the_time_to_wait():
    app = service()
    use_keys(app, ring(per_minute=6))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        for _ in range(6):
            assert client.get("/v1/models").status_code == 200
        refused = client.get("/v1/models")
    assert refused.status_code == 429
    assert refused.json()["error"] == "rate_limited"
    assert refused.headers["Retry-After"] == "10"


def test_our_own_clients_send_the_key_and_tell_a_refusal():
    with connect("http://127.0.0.1:9", key=SecretStr(KEY)) as http:
        assert http.headers["Authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(http)
    app = service()
    use_keys(app, ring())
    with TestClient(app) as client:
        assert isinstance(error_of(client.get("/v1/models")), Unauthorized)


def test_a_gateway_hands_on_its_own_key_and_never_a_callers(tmp_path):
    import httpx

    from services.gateway.proxy import Proxy

    seen: list[str | None] = []

    def segmenter(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(401, json={"error": "unauthorized", "message": "", "details": {}})

    passing = Proxy(
        "http://segmenter",
        timeout_s=5,
        key=SecretStr(OTHER),
        transport=httpx.MockTransport(segmenter),
    )
    settings = GatewaySettings(data_dir=tmp_path / "data", runs_dir=tmp_path / "runs")
    with TestClient(create_gateway(settings, passing=passing)) as client:
        refused = client.get("/images/x", headers={"Authorization": f"Bearer {KEY}"})
    assert seen == [f"Bearer {OTHER}"]
    assert refused.status_code == 502


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_no_log_line_tells_a_key(client, formatter):
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    level, _ = root.level, root.setLevel(logging.DEBUG)
    try:
        for sent in (KEY, OTHER, "unspoken_wrong-secret"):
            headers = {"Authorization": f"Bearer {sent}"}
            client.get("/v1/models", headers=headers)
            client.get("/bug", headers=headers)
            client.post("/propose", headers=headers, json={"captions": [1], "key": sent})
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = written.getvalue()
    assert "answered" in text and "key" in text
    for secret in (KEY, OTHER, "wrong-secret"):
        assert secret not in text


def test_settings_never_show_a_secret():
    settings = DetectorSettings(client_key=KEY)
    assert KEY not in repr(settings) and KEY not in settings.model_dump_json()


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/bug", "/propose", "/livez"])
def test_every_reply_forbids_what_nobody_needs(path):
    with TestClient(service(), raise_server_exceptions=False) as client:
        headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["Cache-Control"] == "no-store"
    assert "server" not in headers
